"""Banks grown night by night through the pipeline: only what is new is done, and what does not fit is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner
from support import small_jobs

from diffstyle.errors import ConfigError
from pipeline.banks.copy import export, merge
from pipeline.banks.reader import LatentBank
from pipeline.banks.verify import verify
from pipeline.banks.writer import BankWriter
from pipeline.cli.main import main
from pipeline.runner.api import preview
from pipeline.runner.bank_listed import images_listed
from pipeline.shards.store import open_shards
from pipeline.stages.invert import missing_rows
from pipeline.storage.place import Place

FORMATS = ("parquet", "webdataset")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three contents and two styles."""
    for n in range(3):
        small_jobs.picture(tmp_path / "content" / f"c{n}.png", n)
    for n in range(10, 12):
        small_jobs.picture(tmp_path / "style" / f"s{n}.png", n)
    return tmp_path


def files(bank: Path) -> dict[str, bytes]:
    return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in sorted(bank.rglob("*")) if file.is_file()}


def stems(bank: LatentBank) -> list[str]:
    """The keys without their hashes."""
    return [key.rpartition("-")[0] for key in bank.keys()]  # noqa: SIM118 - a bank is no dict


def same_tensors(a: LatentBank, b: LatentBank) -> bool:
    def equal(key: str) -> bool:
        one, other = a[key], b[key]
        return np.array_equal(one.h, other.h) if one.h is not None else np.array_equal(one.x_t, other.x_t)

    return a.keys() == b.keys() and all(map(equal, a.keys()))


@pytest.mark.parametrize("format", FORMATS)
def test_growing(folder, format):
    """New pictures alone are inverted, and the bank is the one that would have been made at once."""
    job = small_jobs.job(folder, bank={"format": format})
    assert small_jobs.run(job).counts.inverted == 5
    bank = folder / "out" / "banks" / "content"
    before = files(bank)
    assert small_jobs.run(job).counts.inverted == 0
    assert files(bank) == before
    small_jobs.picture(folder / "content" / "c3.png", 3)
    small_jobs.picture(folder / "content" / "more" / "c0.png", 4)  # a name that is there, another picture
    shutil.copy(folder / "content" / "c1.png", folder / "content" / "again.png")  # a picture that is there
    assert small_jobs.run(job).counts.inverted == 2
    after = files(bank)
    assert {name: after[name] for name in before} == before  # what was committed stays as it is
    grown = LatentBank.open(bank)
    keys = grown.keys()
    assert stems(grown) == ["again", "c0", "c0", "c1", "c2", "c3"]
    assert len(set(grown.index["image"].to_pylist())) == 5
    twice = [key for key in keys if key.startswith(("again", "c1"))]
    assert grown[twice[0]].image == grown[twice[1]].image
    assert verify(bank).ok
    at_once = small_jobs.job(folder, output=str(folder / "at-once"), bank={"format": format})
    small_jobs.run(at_once)
    assert same_tensors(grown, LatentBank.open(folder / "at-once" / "banks" / "content"))


@pytest.mark.parametrize("part", ["00-before-all", "zz-after-all"])
def test_a_new_name_of_a_known_picture(made, tmp_path, part):
    """Wherever its part sorts: the new name may come before the one that the bank has."""
    shutil.copytree(made / "out", tmp_path / "out")
    shards, bank = (Place.parse(tmp_path / "out" / kind / "content") for kind in ("shards", "banks"))
    store = open_shards(shards)
    rows = store.rows()
    row = {**rows.slice(0, 1).to_pylist()[0], "key": "new-name", "source": "elsewhere.png"}
    store.commit(part, pa.Table.from_pylist([row], rows.schema), store.rejects())
    writer = BankWriter(bank, LatentBank.open(bank).description)
    todo, aliases, _ = missing_rows(writer, shards)
    assert (todo, [alias["key"] for alias in aliases]) == ([], ["new-name"])
    writer.commit_aliases(aliases)
    assert LatentBank.open(bank)["new-name"].image == row["image"]
    assert missing_rows(writer, shards) == ([], [], [])


def test_same_names_in_two_data_sets(folder):
    """Two data sets whose files have the same names share nothing but the names."""
    for n in range(3):
        small_jobs.picture(folder / "style" / f"c{n}.png", 20 + n)
    small_jobs.run(small_jobs.job(folder))
    contents, styles = (LatentBank.open(folder / "out" / "banks" / name) for name in ("content", "style"))
    assert not set(contents.keys()) & set(styles.keys())
    # As one data set of two folders: every picture is there.
    job = small_jobs.job(
        folder, content={"folder": [str(folder / "content"), str(folder / "style")]}, output=str(folder / "two")
    )
    small_jobs.run(job)
    both = LatentBank.open(folder / "two" / "banks" / "content")
    assert len(both) == 8
    assert set(contents.keys()) <= set(both.keys())
    key = contents.keys()[0]
    assert np.array_equal(both[key].h, contents[key].h)


def test_retry_of_what_failed(folder):
    """What failed is left alone, and redone alone when asked for."""
    (folder / "content" / "broken.png").write_bytes(b"no picture")
    job = small_jobs.job(folder)
    first = small_jobs.run(job).counts
    assert (first.inverted, first.rejected) == (5, 1)
    small_jobs.picture(folder / "content" / "whole.png", 5).replace(folder / "content" / "broken.png")
    # Of the same name, and a new version of the file: read again without being asked.
    assert small_jobs.run(job).counts.inverted == 1
    # A picture that could not be inverted: its row is in the index, as failed.
    bank = folder / "out" / "banks" / "content"
    small_jobs.picture(folder / "content" / "c9.png", 9)
    running = small_jobs.run(job, "shard")
    (row,) = (row for row in open_shards(running.shard_places["content"]).unique() if row["key"].startswith("c9"))
    writer = BankWriter(Place.parse(bank), LatentBank.open(bank).description)
    writer.commit_failures([{**row, "error": "the inversion is not finite"}])
    left_alone = small_jobs.run(job).counts
    assert (left_alone.inverted, left_alone.not_inverted) == (0, 1)
    assert LatentBank.open(bank).failed() == {row["key"]: "the inversion is not finite"}
    before = files(bank)
    again = small_jobs.run(job, retry_failed=True).counts
    assert (again.inverted, again.not_inverted) == (1, 0)
    assert LatentBank.open(bank).failed() == {}
    assert row["key"] in LatentBank.open(bank)
    after = files(bank)
    assert {name: after[name] for name in before if name.startswith("data/")}.items() <= after.items()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run that tests leave as it is: three contents, one of them under two names, and two styles."""
    folder = tmp_path_factory.mktemp("made")
    for n in range(3):
        small_jobs.picture(folder / "content" / f"c{n}.png", n)
    shutil.copy(folder / "content" / "c0.png", folder / "content" / "twin.png")
    for n in range(10, 12):
        small_jobs.picture(folder / "style" / f"s{n}.png", n)
    small_jobs.run(small_jobs.job(folder))
    return folder


def command(*args: object) -> str:
    result = CliRunner().invoke(main, [str(arg) for arg in args], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_pictures_that_lie_elsewhere_now_are_not_taken_for_an_empty_bank(folder):
    job = small_jobs.job(folder)
    small_jobs.run(job)
    (folder / "style").rename(folder / "moved")
    with pytest.raises(ConfigError, match="style: none of the pictures that the job lists now is in the bank"):
        small_jobs.run(small_jobs.job(folder, style=str(folder / "moved")), "inject")


def test_prune_what_left(folder):
    """The images whose files are gone leave the bank; running on makes nothing again and pairs what is there."""
    job = small_jobs.job(folder)
    small_jobs.run(job)
    bank = folder / "out" / "banks" / "content"
    (folder / "content" / "c1.png").unlink()
    file = folder / "job.yaml"
    file.write_text(job.to_yaml())
    # Shards keep what has left, so it is the data set that says.
    assert "0 images leave" in command("bank", "prune", bank, "--shards", folder / "out" / "shards" / "content")
    assert "1 image leaves" in command("bank", "prune", bank, "--job", file, "--yes")
    assert "0 images leave" in command("bank", "prune", folder / "out" / "banks" / "style", "--job", file)
    with pytest.raises(ConfigError, match="does not make"):
        images_listed(job, Place.parse(folder))
    pruned = LatentBank.open(bank)
    assert stems(pruned) == ["c0", "c2"]
    assert verify(bank).ok
    assert small_jobs.run(job).counts.inverted == 0
    made = small_jobs.run(job, "shard", "precompute", "inject").counts
    assert made.pairs_made == 4


def test_edits_of_banks_that_a_run_made(made, folder):
    """Merge and export; what a second run adds to a merged bank fits it."""
    first = made / "out" / "banks" / "content"
    small_jobs.picture(folder / "content" / "c7.png", 7)
    small_jobs.run(small_jobs.job(folder))
    second = folder / "out" / "banks" / "content"
    merged = folder / "merged"
    assert merge(merged, [first, second]) == 4
    assert verify(merged).ok
    bank = LatentBank.open(merged)
    assert stems(bank) == ["c0", "c1", "c2", "c7", "twin"]
    assert np.array_equal(bank["c7-" + bank.keys()[3].split("-")[1]].h, LatentBank.open(second)[bank.keys()[3]].h)
    tars = folder / "tars"
    assert export(merged, tars, format="webdataset") == 4
    assert verify(tars).ok
    assert same_tensors(LatentBank.open(tars), bank)
    # A job takes such a bank as it is.
    job = small_jobs.job(folder, content={"bank": str(tars)}, output=str(folder / "from-tars"))
    counts = small_jobs.run(job, "shard", "precompute", "inject").counts
    assert counts.pairs_made == 4 * 2


@pytest.mark.parametrize(
    ("format", "settings"),
    [("parquet", {}), ("webdataset", {"keep": "all", "h": "float32", "x_t": "float16"})],
    ids=FORMATS,
)
def test_plan_knows_the_size(made, tmp_path, format, settings):
    """`diffstyle plan` is within 5 % of the payloads that the run then writes, and of the files in all."""
    for side in ("content", "style"):
        shutil.copytree(made / side, tmp_path / side)
    (tmp_path / "content" / "twin.png").unlink()  # a listing can't know of copies
    for n in range(3, 9):
        small_jobs.picture(tmp_path / "content" / f"c{n}.png", n)
    job = small_jobs.job(tmp_path, bank={"format": format, "part_size": 4, **settings}, inversion={"steps": 10})
    planned = sum(side.bank_bytes for side in preview(job).sides)
    small_jobs.run(job)
    banks = [tmp_path / "out" / "banks" / name for name in ("content", "style")]
    real = sum(file.stat().st_size for bank in banks for file in (bank / "data").iterdir())
    assert planned == pytest.approx(real, rel=0.05)


def test_plan_command(made, tmp_path):
    job = small_jobs.job(made)
    file = tmp_path / "job.yaml"
    file.write_text(job.to_yaml())
    before = files(made)
    changes = ("--set", "bank.keep=all", "--set", f"output={tmp_path / 'other'}")
    text = command("plan", file, *changes)
    assert text == command("run", file, "--dry-run", *changes)
    assert "4 x 3 network calls, h at 3 timesteps" in text
    assert files(made) == before
    assert yaml.safe_load(file.read_text())["model"] == job.model
