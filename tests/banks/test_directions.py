"""Directions in h: against an exact decomposition of all of a bank at once, and what their file refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.bank_samples import describe, latents

from diffstyle.errors import ConfigError
from pipeline.banks.columns import write_column
from pipeline.banks.description import BankDescription, part_name
from pipeline.banks.directions import Directions, find_directions
from pipeline.banks.reader import LatentBank
from pipeline.banks.sketch import Sketch
from pipeline.banks.tensors import BankError
from pipeline.banks.writer import BankWriter
from pipeline.cli.bank import bank as command

TIMESTEPS, SHAPE = (400, 700, 999), (4, 3, 3)
LOUDNESS = np.array([1.0, 10.0, 100.0])  # of each timestep: none may drown the others
KNOWN = (4.0, 2.0, 1.0)  # standard deviations of what the h are made of, above a noise of 0.2


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


def some_h(n: int) -> np.ndarray:
    """(n, K, C, h, w) float32: three directions and noise, about a mean that is far from 0."""
    random = np.random.default_rng(0)
    size = int(np.prod(SHAPE))
    axes = np.linalg.qr(random.standard_normal((len(TIMESTEPS) * size, len(KNOWN))))[0].T
    h = random.standard_normal((n, len(KNOWN))) * KNOWN @ axes * np.sqrt(len(TIMESTEPS))
    h = h + 0.05 * random.standard_normal(h.shape) + 3
    return (h.reshape(n, len(TIMESTEPS), size) * LOUDNESS[:, None]).reshape(n, -1, *SHAPE).astype(np.float32)


def describe_h(**changes) -> BankDescription:
    return describe(role="content", h_timesteps=TIMESTEPS, h_shape=SHAPE, h_dtype="float32", **changes)


def fill(root: Path, h: np.ndarray, part_size: int = 50, label=lambda number: None, **changes) -> LatentBank:
    description = describe_h(**changes)
    writer = BankWriter.create_or_open(str(root), description, {})
    items = []
    for number, tensor in enumerate(h):
        item = latents(number, description)
        item.tensors["h"] = tensor
        item.row["label"] = label(number)
        items.append(item)
    for start in range(0, len(items), part_size):
        some = items[start : start + part_size]
        part = part_name([item.image for item in some])
        writer.commit(part, writer.write_payload(str(root), description, part, some))
    return LatentBank.open(root)


def exact(h: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(unit components, standard deviations, shares of the variance) of all h at once, each timestep scaled."""
    centred = h.astype(np.float64).reshape(len(h), len(TIMESTEPS), -1)
    centred -= centred.mean(0)
    scales = np.sqrt(np.square(centred).mean(0).sum(1))
    _, values, vectors = np.linalg.svd((centred / scales[:, None]).reshape(len(h), -1), full_matrices=False)
    deviations = values / np.sqrt(len(h) - 1)
    pieces = vectors.reshape(len(vectors), len(TIMESTEPS), -1) * scales[:, None]
    return pieces, deviations, np.square(deviations) / np.square(deviations).sum()


@pytest.mark.parametrize("budget", [1 << 30, 1])  # in one piece, and with as few rows as ever
def test_components_are_those_of_the_whole_bank(tmp_path, budget):
    h = some_h(300)
    found = find_directions(fill(tmp_path, h), 3, budget=budget)
    pieces, deviations, shares = exact(h)
    np.testing.assert_allclose(found.about["explained"], shares[:3], rtol=0.02)
    for number in range(3):
        added = found.component(number).reshape(len(TIMESTEPS), -1)
        expected = pieces[number] * deviations[number]
        expected *= np.sign((added * expected).sum())
        for one, other in zip(added, expected, strict=True):
            assert np.linalg.norm(one - other) < 0.05 * np.linalg.norm(other)
    np.testing.assert_allclose(np.linalg.norm(found.components.reshape(3, 3, -1), axis=2), 1, rtol=1e-5)
    assert found.h_timesteps == TIMESTEPS
    assert found.about["images"] == 300


def test_nothing_is_lost_before_the_sketch_is_full():
    random = np.random.default_rng(1)
    vectors = random.standard_normal((40, 200)).astype(np.float32) + 5
    sketch = Sketch(200, 4, 16)
    for start in range(0, 40, 16):
        sketch.add(vectors[start : start + 16])
    found, variances = sketch.components(4)
    _, values, expected = np.linalg.svd(vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64))
    np.testing.assert_allclose(variances, np.square(values[:4]) / 39, rtol=1e-5)
    np.testing.assert_allclose(np.abs((found * expected[:4]).sum(1)), 1, atol=1e-5)
    np.testing.assert_allclose(sketch.variances(), vectors.var(0, ddof=1), rtol=1e-4)
    np.testing.assert_allclose(sketch.mean, vectors.mean(0), rtol=1e-5)


def test_the_sketch_stays_in_its_budget():
    assert Sketch(100_000, 8, 16, budget=64 << 20).rows.nbytes <= 64 << 20
    assert len(Sketch(1_000_000, 8, 16, budget=1).rows) == 4 * 8 + 16 + 1


def test_differences_between_labels(tmp_path):
    h = some_h(90)
    names = ["cat", "dog", "bird"]
    bank = fill(tmp_path, h, label=lambda number: names[number % 4] if number % 4 < 3 else None)
    found = find_directions(bank, 1, "label")
    assert found.about["labels"] == {"bird": 22, "cat": 23, "dog": 23}
    assert found.about["unlabelled"] == 22
    of = {name: h[k::4] for k, name in enumerate(names)}
    cat_dog = of["cat"].mean(0, dtype=np.float64) - of["dog"].mean(0, dtype=np.float64)
    np.testing.assert_allclose(found.label("cat", "dog"), cat_dog, atol=1e-3)
    others = np.concatenate([of["dog"], of["bird"]]).mean(0, dtype=np.float64)
    np.testing.assert_allclose(found.label("cat"), of["cat"].mean(0, dtype=np.float64) - others, atol=1e-3)
    with pytest.raises(BankError, match="there is no label 'fox'; there are bird, cat, dog"):
        found.label("fox")


def test_labels_computed_later(tmp_path):
    h = some_h(20)
    bank = fill(tmp_path, h)
    write_column(tmp_path, "group", {latents(n, describe_h()).image: n % 2 for n in range(20)})
    found = find_directions(bank, 1, "group")
    assert found.about["labels"] == {"0": 10, "1": 10}
    np.testing.assert_allclose(found.label("1"), h[1::2].mean(0) - h[::2].mean(0), atol=1e-3)


def test_the_same_pictures_give_the_same_file(tmp_path):
    """However they lie in the bank, and however many names they have; signs are part of that."""
    h = some_h(40)
    banks = [fill(tmp_path / "a", h), fill(tmp_path / "b", h, part_size=7, format="webdataset")]
    image = latents(3, describe_h()).image
    BankWriter.create_or_open(str(tmp_path / "b"), describe_h(format="webdataset"), {}).commit_aliases(
        [{"key": "another-name", "image": image}]
    )
    banks[1].refresh()
    files = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for bank, file in zip(banks, files, strict=True):
        found = find_directions(bank, 4)
        found.save(file)
        again = Directions.open(file)
        assert again.about["model_fingerprint"] == "f" * 32
        np.testing.assert_array_equal(again.component(2), found.component(2))
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_largest_value_of_a_component_is_positive(tmp_path):
    h = some_h(60)
    for sign in (1, -1):
        found = find_directions(fill(tmp_path / str(sign), sign * h), 3)
        scaled = found.components * (found.spreads / LOUDNESS)[:, :, None, None, None]
        for one in scaled.reshape(3, -1):
            assert one[np.abs(one).argmax()] > 0


def test_banks_without_directions_are_refused(tmp_path):
    h = some_h(4)
    bank = fill(tmp_path / "bank", h, label=lambda number: "dog")
    with pytest.raises(BankError, match="column 'label' has 1 label; differences need 2 to"):
        find_directions(bank, 1, "label")
    with pytest.raises(BankError, match="column 'key' has 4 labels; differences need 2 to 3"):
        find_directions(bank, 1, "key", budget=3 * 8 * 3 * 36)
    with pytest.raises(BankError, match="no column 'breed' for --label"):
        find_directions(bank, 1, "breed")
    with pytest.raises(BankError, match="1 image; directions need two at least"):
        find_directions(fill(tmp_path / "one", h[:1]), 1)
    BankWriter.create_or_open(str(tmp_path / "style"), describe(role="style"), {})
    with pytest.raises(BankError, match="style: keeps x_t and no h; take a content bank"):
        find_directions(LatentBank.open(tmp_path / "style"), 1)
    assert len(find_directions(bank, 8).components) == 3


def test_files_that_are_not_as_written_are_refused(tmp_path):
    file = tmp_path / "directions.safetensors"
    find_directions(fill(tmp_path / "bank", some_h(5)), 2).save(file)
    data = file.read_bytes()
    for changed in (data[:-1], b"", b"PNG" * 50, data[:20]):
        file.write_bytes(changed)
        with pytest.raises(BankError, match="not a file of directions; make it with `diffstyle bank directions`"):
            Directions.open(file)
    file.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    with pytest.raises(BankError, match="its bytes have changed since it was written"):
        Directions.open(file)
    file.write_bytes(data.replace(b"tiny", b"tinz"))
    with pytest.raises(BankError, match="its bytes have changed since it was written"):
        Directions.open(file)
    with pytest.raises(BankError, match="no such file"):
        Directions.open(tmp_path / "gone")
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3)}, file)
    with pytest.raises(BankError, match="not a file of directions"):
        Directions.open(file)


def test_the_command(tmp_path):
    fill(tmp_path / "bank", some_h(12), label=lambda number: "odd" if number % 2 else "even")
    out = tmp_path / "new" / "directions.safetensors"

    def run(*args):
        given = ["directions", str(tmp_path / "bank"), "--out", str(out), *args]
        result = CliRunner().invoke(command, given, standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result.output

    text = run("--label", "label", "--components", "20")
    assert "12 images, h 4x3x3 at 3 timesteps" in text
    assert "note: with fewer than 100 images" in text
    assert "note: 12 images have only 11 components" in text
    assert "component 0:" in text
    assert "label odd: 6 images" in text
    assert Directions.open(out).labels == ("even", "odd")
    run("--components", "2")  # in place of the one before
    assert len(Directions.open(out).components) == 2
    out.write_bytes(b"a picture")
    with pytest.raises(ConfigError, match="is there already and no file of directions"):
        run()
    assert out.read_bytes() == b"a picture"
