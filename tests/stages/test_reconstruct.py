"""`diffstyle reconstruct` and `bank verify --reinvert` on banks that a run made."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support import small_jobs
from support.bank_samples import describe, fill

from diffstyle.errors import DiffStyleError
from pipeline.banks.columns import read_columns
from pipeline.banks.copy import export
from pipeline.banks.reader import LatentBank
from pipeline.banks.writer import BankWriter
from pipeline.cli.main import main
from pipeline.storage.identity import image_hash

N = 3


def run(*args: object, fails: str | None = None, returns: int | None = 0) -> str:
    result = CliRunner().invoke(main, [str(arg) for arg in args], standalone_mode=False)
    if fails is not None:
        assert isinstance(result.exception, DiffStyleError), result.exception
        assert fails in str(result.exception)
        assert "\n" not in str(result.exception)
    elif result.exception is not None:
        raise result.exception
    else:
        assert (result.return_value or 0) == returns, result.output
    return result.output


def reconstruct(*args: object, fails: str | None = None) -> str:
    return run("reconstruct", "--local", *args, fails=fails)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run's folder with the banks of three contents and three styles, inverted in 20 steps."""
    folder = tmp_path_factory.mktemp("made")
    for n, file in enumerate(sorted((small_jobs.DATA / "pictures" / "contents").iterdir())[:N]):
        (folder / "content").mkdir(exist_ok=True)
        (folder / "content" / file.name).write_bytes(file.read_bytes())
        small_jobs.picture(folder / "style" / f"{n}.png", n)
    small_jobs.run(small_jobs.job(folder, content=str(folder / "content"), inversion={"steps": 20}))
    both = small_jobs.job(
        folder,
        style=str(folder / "content"),
        output=str(folder / "both"),
        inversion={"steps": 20},
        bank={"keep": "all"},
    )
    small_jobs.run(both)
    return folder


def test_reconstruct(made, tmp_path):
    bank = made / "both" / "banks" / "both"
    text = run(
        "reconstruct", "--local", bank, "--output", tmp_path / "pictures", "-q"
    )  # model and shards: those of the run
    assert f"{N} pictures reconstructed" in text
    opened = LatentBank.open(bank)
    frame = opened.to_pandas().set_index("key")
    assert frame["psnr"].notna().all()
    assert frame["psnr"].min() > 20  # this checkpoint in 20 steps: the pictures come back
    for key in frame.index:
        with Image.open(tmp_path / "pictures" / f"{key}.png") as image:
            pixels = np.asarray(image)
        with Image.open(io.BytesIO(frame.loc[key, "thumbnail"])) as image:
            assert np.array_equal(np.asarray(image), pixels)  # at 32 px the thumbnail is the picture
        assert image_hash(pixels) != opened[key].image
    info = json.loads(run("bank", "info", bank, "--json"))
    assert info["columns"]["psnr"]["images"] == N
    assert info["columns"]["psnr"]["min"] == pytest.approx(frame["psnr"].min(), abs=1e-3)
    assert "psnr: " in run("bank", "show", bank, opened.keys()[0])


def test_only_what_is_missing(made, tmp_path, monkeypatch):
    bank = made / "both" / "banks" / "both"
    reconstruct(bank, "-q")
    before = read_columns(bank)
    assert "nothing to do" in reconstruct(bank, "-q")
    assert "1 picture reconstructed" in reconstruct(bank, "-q", "--again", "--limit", 1)
    after = read_columns(bank)
    assert after["thumbnail"] == before["thumbnail"]  # the same numbers whatever the batch is filled with
    assert after["psnr"] == before["psnr"]
    # Another number of steps is another figure: it takes the place of the first, and is done again to go back.
    assert f"{N} pictures reconstructed" in reconstruct(bank, "-q", "--steps", 5)
    assert set(read_columns(bank)["reconstruction_steps"].values()) == {5}
    assert f"{N} pictures reconstructed" in reconstruct(bank, "-q")


def test_pictures_from_elsewhere(made, tmp_path):
    copy = tmp_path / "copy"  # no shards beside it, no job
    export(made / "both" / "banks" / "both", copy, tensors=["x_t"], format="webdataset")
    description = (copy / "description.json").read_bytes()
    written = json.loads(description)
    written["identity"]["model_name"] = "somebodys"
    del written["hash"]
    (copy / "description.json").write_text(json.dumps(written))
    reconstruct(copy, fails="--model FILE or --job")
    (copy / "description.json").write_bytes(description)
    model = made / "tiny.yaml"
    assert "no PSNR" in reconstruct(copy, "--model", model, "-q")
    assert "psnr" not in read_columns(copy)
    run(
        "reconstruct",
        "--local",
        copy,
        "--model",
        model,
        "--pictures",
        made / "style",
        fails="none of these are pictures of",
    )
    assert "PSNR: median" in reconstruct(copy, "--model", model, "--pictures", made / "content", "-q")
    shards = made / "both" / "shards" / "both"
    reconstruct(copy, "--model", model, "--pictures", shards, "--again", "-q")
    assert len(read_columns(copy)["psnr"]) == N


def test_refused(made, tmp_path):
    reconstruct(made / "out" / "banks" / "content", fails="keeps no x_t to sample from")
    style = made / "out" / "banks" / "style"
    reconstruct(style, "--weights", "random", "--model", made / "tiny.yaml", fails="of fingerprint")
    reconstruct(style, "--model", "lsun-churh", fails="lsun-church")
    reconstruct(style, "--steps", 2000, fails="1000 timesteps")
    reconstruct(tmp_path, fails="no description.json")
    fill(tmp_path / "other", describe(), range(2))
    run(
        "reconstruct",
        "--local",
        tmp_path / "other",
        "--pictures",
        made / "out" / "shards" / "style",
        fails="another way",
    )


@pytest.mark.parametrize("name", ["out/banks/content", "out/banks/style", "both/banks/both"])
def test_reinvert(made, name):
    text = run("bank", "verify", made / name, "--reinvert", 2)
    assert "2 pictures inverted again" in text
    assert "all is well" in text


def test_reinvert_finds_other_numbers(made, tmp_path):
    """An entry that is whole, and yet not what the model makes of the picture."""
    origin = LatentBank.open(made / "both" / "banks" / "both")
    writer = BankWriter.create_or_open(tmp_path, origin.description)
    items = list(origin)
    items[1].tensors["h"] *= np.float16(1.02)
    items[2].tensors["x_t"], items[0].tensors["x_t"] = items[0].x_t, items[2].x_t
    writer.commit("part-1", writer.write_payload(tmp_path, origin.description, "part-1", items))
    shared = "--model", made / "tiny.yaml", "--pictures", made / "content"
    text = run("bank", "verify", tmp_path, "--reinvert", 9, *shared, returns=3)
    assert text.count("wrong: ") == N
    assert f"{items[1].key}: h differs by 2.0% from a new inversion" in text
    run("bank", "verify", tmp_path, "--reinvert", 9, fails="--pictures")
    text = run("bank", "verify", tmp_path, "--reinvert", 9, *shared[:2], "--pictures", made / "style")
    assert f"{N} pictures of the sample not among the pictures given" in text
