"""The page docs/banks.md, block by block as it stands, and banks as torch, Ray, WebDataset and S3 have them."""

from __future__ import annotations

import contextlib
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from click.testing import CliRunner
from PIL import Image
from support.bank_samples import FORMATS, OTHER_TENSORS, describe, fill, latents
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures
from support.small_jobs import picture
from support.whole_jobs import psnr

from pipeline.banks.drop import prune
from pipeline.banks.neighbours import interpolate, similar
from pipeline.banks.reader import LatentBank, UnknownKeyError
from pipeline.banks.tensors import BankError
from pipeline.banks.verify import repair, verify
from pipeline.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "banks.md"
BLOCK = re.compile(r"^##+ ([^\n]+)\n(?:(?!^##).)*?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(PAGE.read_text())


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


#: The commands of the page up to the banks that all else reads, and those after them.
COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("diffstyle ")]
N_FIRST = 1 + max(n for n, line in enumerate(COMMANDS) if line.startswith("diffstyle bank export"))


def typed(line: str) -> str:
    result = CliRunner().invoke(main, shlex.split(line, comments=True)[1:])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the page's reader has it: pictures, the page's job, and what its first commands write."""
    root = tmp_path_factory.mktemp("page")
    for n in range(10):
        picture(root / "pictures" / "dog" / f"dog_{n}.png", n)
    picture(root / "pictures" / "dog" / "again.png", 7)
    picture(root / "paintings" / "a.png", 20)
    (job,) = blocks("yaml")
    (root / "dogs.yaml").write_text(job)
    with contextlib.chdir(root):
        for line in COMMANDS[:N_FIRST]:
            typed(line)
    return root


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_blocks_of_the_page(title, code, folder, monkeypatch, request):
    if "ray_dataset" in code:
        request.getfixturevalue("ray_session")
        code = code.replace('"banks/', f'"{folder}/banks/')  # Ray's workers started in another folder
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(compile(code, f"{PAGE.name}: {title}", "exec"), names)
    if "between-" in code:  # the first of them is an entry's own picture
        (again,) = (folder / "pictures" / "dog").glob("again.png")
        side = Image.open("between-0.png").size  # of the model; the pictures of the page are smaller
        made, own = (np.asarray(Image.open(file).convert("RGB").resize(side)) for file in ("between-0.png", again))
        assert psnr(made, own) > 15
        assert psnr(np.asarray(Image.open("between-4.png")), own) < psnr(made, own) - 5
    if "## Without" in PAGE.read_text().partition(f"### {title}\n")[0]:
        wanted = LatentBank.open("banks/dogs")[names["key"]]
        np.testing.assert_array_equal(names["x_t"], wanted.x_t)
        np.testing.assert_array_equal(names["h"], wanted.h)


def test_the_page_has_all_the_blocks():
    assert len(BLOCKS) == PAGE.read_text().count("```python")
    titles = {title for title, _ in BLOCKS}
    assert {"pandas", "pyarrow", "polars", "DuckDB", "Plain WebDataset", "PyTorch", "Ray Data", "WebDataset"} <= titles


def test_commands_of_the_page(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert len(COMMANDS) - N_FIRST >= 6
    for line in COMMANDS[N_FIRST:]:
        typed(line)


def test_keys(folder, monkeypatch):
    monkeypatch.chdir(folder)
    bank = LatentBank.open("banks/dogs")
    assert typed("diffstyle bank keys banks/dogs").split() == bank.keys()
    assert len(typed("diffstyle bank keys banks/dogs dog_").split()) == 10
    assert typed("diffstyle bank keys banks/dogs --label cat") == ""
    assert typed("diffstyle bank keys banks/dogs --failed") == ""
    (line,) = typed("diffstyle bank keys banks/dogs dog_3 --long --label dog").splitlines()
    key, image, label, source = line.split("\t")
    assert (key, image, label) == (bank.named("dog_3"), bank["dog_3" + key[5:]].image, "dog")
    assert source == str(folder / "pictures" / "dog" / "dog_3.png")


def test_the_beginning_of_a_key_or_an_image_is_enough_for_every_command(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    bank = LatentBank.open("banks/dogs")
    key, image = bank.named("dog_3"), bank[bank.named("dog_3")].image
    for name in (key, key[:8], "dog_3", image, image[:12]):
        assert bank.named(name) == key
        assert f"key: {key}" in typed(f"diffstyle bank show banks/dogs {name}")
    assert typed("diffstyle bank similar banks/dogs dog_3") == typed(f"diffstyle bank similar banks/dogs {key}")
    (tmp_path / "keep.txt").write_text(f"dog_3\ndog_7\n{image[:10]}\n")
    assert "8 images leave" in typed(f"diffstyle bank prune banks/dogs --keep {tmp_path}/keep.txt --dry-run")
    with pytest.raises(UnknownKeyError, match=r"'dog_' begins several keys or images of .*\(dog_0-.*, \.\.\.\)"):
        bank.named("dog_")
    with pytest.raises(UnknownKeyError, match="neither a key nor an image"):
        bank.named("dog_x")
    with pytest.raises(UnknownKeyError):
        bank.named("")
    # In Python a key is whole, so that code never means another picture after a bank has grown.
    assert "dog_3" not in bank


def test_a_run_keeps_both_tensors_where_it_is_asked_to(folder):
    for side in ("content", "style"):
        assert LatentBank.open(folder / "results" / "dogs" / "banks" / side).description.names == ("h", "x_t")


# ---- views ----
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("workers", [0, 2])
def test_torch_loader(tmp_path, format, workers):
    fill(tmp_path, describe(format), range(9))
    bank = LatentBank.open(tmp_path)
    bank[0]  # a file is open when the workers start
    loader = torch.utils.data.DataLoader(bank.torch_dataset(), batch_size=4, num_workers=workers)
    batches = list(loader)
    assert [key for batch in batches for key in batch["key"]] == bank.keys()
    assert batches[0]["x_t"].shape == (4, 3, 8, 8)
    assert batches[0]["h"].dtype == torch.float16
    for batch in batches:
        for key, x_t in zip(batch["key"], batch["x_t"], strict=True):
            np.testing.assert_array_equal(x_t.numpy(), bank[key].x_t)
    assert set(bank.torch_dataset(("h",))[0]) == {"key", "image", "h"}


@pytest.mark.parametrize("format", FORMATS)
def test_webdataset_pipeline(tmp_path, format):
    fill(tmp_path, describe(format), range(21))
    bank = LatentBank.open(tmp_path)
    samples = list(bank.webdataset())
    assert [sample["__key__"] for sample in samples] == bank.keys()
    np.testing.assert_array_equal(samples[3]["h.npy"], bank[3].h)
    assert samples[0]["json"]["source"].startswith("photos/")
    shuffled = [sample["__key__"] for sample in bank.webdataset(shuffle=True, tensors=("h",))]
    assert sorted(shuffled) == bank.keys() != shuffled
    for shuffle in (False, True, 5):  # the workers divide the entries, none twice
        pipeline = bank.webdataset(shuffle).compose(wds.to_tuple("__key__", "x_t.npy"))
        loader = torch.utils.data.DataLoader(pipeline, batch_size=None, num_workers=2)
        assert sorted(key for key, _ in loader) == bank.keys()


def test_webdataset_on_two_nodes(tmp_path, monkeypatch):
    fill(tmp_path, describe(), range(21))
    bank = LatentBank.open(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        seen += [sample["__key__"] for sample in bank.webdataset(shuffle=3)]
    assert sorted(seen) == bank.keys()
    with pytest.raises(BankError, match="shuffle by a number"):
        list(bank.webdataset(shuffle=True))


@pytest.mark.parametrize("format", FORMATS)
def test_ray_dataset(tmp_path, format, ray_session):
    fill(tmp_path, describe(format), range(9))
    bank = LatentBank.open(tmp_path)
    dataset = bank.ray_dataset(batch_size=4)
    rows = sorted(dataset.take_all(), key=lambda row: row["key"])
    assert [row["key"] for row in rows] == bank.keys()
    for row, entry in zip(rows, bank, strict=True):
        np.testing.assert_array_equal(row["x_t"], entry.x_t)
        np.testing.assert_array_equal(row["h"], entry.h)
        assert row["source"] == entry.row["source"]


# ---- neighbours and points between ----
def test_similar(tmp_path):
    description = describe()
    writer = fill(tmp_path, description, range(30))
    base = latents(3, description)
    writer.commit_aliases([{"key": "again", "image": latents(4, description).image}])
    bank = LatentBank.open(tmp_path)
    found = similar(bank, base.key, top=5, batch=7)
    vectors = {entry.key: entry.h.astype(np.float32).mean(axis=0).ravel() for entry in bank}
    own = vectors.pop(base.key)
    vectors.pop("again")  # "4-..." sorts first
    cosines = {key: v @ own / np.linalg.norm(v) / np.linalg.norm(own) for key, v in vectors.items()}
    wanted = sorted(cosines, key=lambda key: -cosines[key])[:5]
    assert [key for key, _ in found] == wanted
    np.testing.assert_allclose([cosine for _, cosine in found], [cosines[key] for key in wanted], rtol=1e-5)
    assert similar(bank, base.h, top=1, timestep=999)[0] == (base.key, pytest.approx(1, abs=1e-6))
    with pytest.raises(BankError, match="not kept"):
        similar(bank, base.key, timestep=5)
    fill(tmp_path / "style", describe(role="style"), range(2))
    with pytest.raises(BankError, match="no tensor 'h'"):
        similar(LatentBank.open(tmp_path / "style"), base.h)


def test_interpolate():
    description = describe()
    a, b = latents(0, description), latents(1, description)
    for amount, end in ((0, a), (1, b)):
        point = interpolate(a, b, amount)
        np.testing.assert_allclose(point.x_t, end.x_t, atol=1e-6)
        np.testing.assert_allclose(point.h, end.h, atol=1e-6)
    middle = interpolate(a, b, 0.5)
    straight = (a.x_t + b.x_t) / 2
    cosine = (middle.x_t * straight).sum() / np.linalg.norm(middle.x_t) / np.linalg.norm(straight)
    assert cosine == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(middle.x_t) > np.linalg.norm(straight)  # on the arc, not on its chord
    assert middle.h.shape == a.h.shape
    np.testing.assert_allclose(interpolate(a, a, 0.3).x_t, a.x_t, atol=1e-6)  # parallel
    with pytest.raises(BankError, match="different timesteps"):
        interpolate(a, latents(1, describe(h_timesteps=(1, 2))), 0.5)
    with pytest.raises(BankError, match="differ in the shape of x_t"):
        interpolate(a, latents(1, describe(image_size=16)), 0.5)


def test_views_and_neighbours_of_tensors_of_any_name(tmp_path):
    description = describe(tensors=OTHER_TENSORS)
    fill(tmp_path, description, range(12))
    bank = LatentBank.open(tmp_path)
    assert set(bank.torch_dataset()[0]) == {"key", "image", "z", "features", "codes"}
    sample = next(iter(bank.webdataset(tensors=("features", "z"))))
    assert sample.keys() == {"__key__", "__url__", "json", "features.npy", "z.npy"}
    base = latents(3, description)
    for tensor, timestep in (("z", None), ("features", None), ("features", 500)):
        vectors = {}
        for entry in bank:
            values = entry.tensors[tensor].astype(np.float64)
            if tensor == "features":
                values = values.mean(0) if timestep is None else values[1]
            vectors[entry.key] = values.ravel() / np.linalg.norm(values)
        own = vectors.pop(base.key)
        wanted = max(vectors, key=lambda key: vectors[key] @ own)
        ((key, cosine),) = similar(bank, base.key, top=1, timestep=timestep, tensor=tensor)
        assert key == wanted
        assert cosine == pytest.approx(vectors[key] @ own, abs=1e-3)
    a, b = bank.get_many([0, 1], tensors=("z", "features"))
    middle = interpolate(a, b, 0.5)
    assert middle.tensors["features"].shape == (3, 6)
    assert middle.timesteps == a.timesteps
    with pytest.raises(BankError, match="whole numbers"):
        interpolate(bank[0], bank[1], 0.5)


@pytest.mark.parametrize("apart", [2e-4, 5e-5])
def test_points_between_nearly_opposite_entries_lie_on_the_arc(apart):
    """Where arccos has lost its digits, and the weights hang on the angle: as ``blend.slerp`` has it, not by arccos."""
    description = describe()
    a = latents(0, description)
    b = replace(a, tensors={"x_t": apart * latents(1, description).x_t - a.x_t, "h": a.h})
    u, v = a.x_t.astype(np.float64), b.x_t.astype(np.float64)
    u_hat, v_hat = u / np.linalg.norm(u), v / np.linalg.norm(v)
    angle = 2 * np.arctan2(np.linalg.norm(u_hat - v_hat), np.linalg.norm(u_hat + v_hat))
    wanted = (np.sin(0.7 * angle) * u + np.sin(0.3 * angle) * v) / np.sin(angle)
    np.testing.assert_allclose(interpolate(a, b, 0.3).x_t, wanted, atol=0.01)  # by arccos: off by 0.2 and 2.5


# ---- an object store ----
@pytest.mark.parametrize("format", FORMATS)
def test_on_s3(tmp_path, format, s3_bucket):  # noqa: F811
    description = describe(format)
    fill(tmp_path, description, range(10))
    address = f"{s3_bucket}/banks/dogs"
    writer = fill(address, description, range(6))
    bank = LatentBank.open(address)
    writer.commit_aliases([{"key": "again", "image": bank[0].image}])
    writer.write_payload(address, description, "part-left", [latents(50, description)])
    assert verify(address).notes
    fill(address, description, range(10))  # goes on, and removes what was left
    bank.refresh()
    assert len(bank) == 11
    for entry in LatentBank.open(tmp_path):
        np.testing.assert_array_equal(bank[entry.key].x_t, entry.x_t)
        np.testing.assert_array_equal(bank[entry.key].h, entry.h)
    assert len(bank.get_many(bank.keys())) == 11
    report = verify(address)
    assert report.ok, report.problems
    assert not report.notes
    prune(address, [latents(number, description).image for number in range(3)])
    assert {entry.image for entry in LatentBank.open(address)} == {latents(n, description).image for n in range(3)}
    next(iter(writer.store.data_folder.list())).place.write_bytes(b"")
    assert not verify(address).ok
    repair(address)
    assert verify(address).ok
    assert len(LatentBank.open(address)) == 0
