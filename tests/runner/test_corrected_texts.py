"""Labels, captions and metadata that are corrected while the picture stays: the next run takes them over."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from support import small_jobs
from support.whole_jobs import bank_index, manifest

from pipeline.banks.copy import export, merge
from pipeline.banks.drop import prune
from pipeline.banks.reader import LatentBank
from pipeline.banks.verify import verify
from pipeline.runner.api import preview
from pipeline.runner.verify import verify_run
from pipeline.shards.store import open_shards
from pipeline.storage.place import Place

STAGES = ("shard", "precompute", "inject")


class Folder:
    """Contents in a folder, with side-cars."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "content"
        self.source = str(self.folder)
        for n in range(2):
            small_jobs.picture(self.folder / f"c{n}.png", n)
        self.say("c0", "a hause", {"year": 1990})

    def say(self, name: str, caption: str, meta: dict) -> None:
        (self.folder / f"{name}.txt").write_text(caption)
        (self.folder / f"{name}.JSON").write_text(json.dumps(meta))


class SingleFile(Folder):
    """One picture file, with its side-cars."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.source = str(self.folder / "c0.png")


class Listed(Folder):
    """Contents in a list, which has columns beside the paths."""

    def __init__(self, folder: Path) -> None:
        self.rows: dict[str, tuple[str, dict]] = {"c1": ("untouched", {})}
        super().__init__(folder)
        self.source = {"list": str(self.folder / "list.csv")}

    def say(self, name: str, caption: str, meta: dict) -> None:
        self.rows[name] = caption, meta
        rows = [{"path": f"{one}.png", "caption": text, **more} for one, (text, more) in sorted(self.rows.items())]
        pd.DataFrame(rows).to_csv(self.folder / "list.csv", index=False)


class Table(Folder):
    """Contents in a Parquet file, which is written again as a whole."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.source = {"parquet": str(self.folder / "pictures.parquet")}

    def say(self, name: str, caption: str, meta: dict) -> None:
        rows = [
            {"image": (self.folder / f"c{n}.png").read_bytes(), "caption": caption if n == 0 else "untouched", **meta}
            for n in range(2)
        ]
        pd.DataFrame(rows).to_parquet(self.folder / "pictures.parquet")


@pytest.fixture(params=[Folder, SingleFile, Listed, Table], ids=["folder", "file", "list", "parquet"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    small_jobs.picture(tmp_path / "style" / "s0.png", 10)
    return request.param(tmp_path)


def caption_in(frame: pd.DataFrame, caption: str = "caption", meta: str = "meta") -> tuple[str, int]:
    """Caption and year of c0, of a table with a row for it."""
    (row,) = frame[frame[caption].notna() & (frame[caption] != "untouched")].to_dict("records")
    return row[caption], int(float(json.loads(row[meta])["year"]))  # a CSV with a gap in it has 1990.0


def test_a_corrected_text_reaches_shards_bank_and_new_pairs_without_inverting_again(data, tmp_path):
    job = small_jobs.job(tmp_path, content=data.source)
    first = small_jobs.run(job, *STAGES)
    out = tmp_path / "out"
    bank = out / "banks" / "content"
    assert caption_in(LatentBank.open(bank).to_pandas()) == ("a hause", 1990)
    payload = {file.name: file.read_bytes() for file in (bank / "data").iterdir()}
    pairs = first.counts.pairs_made

    data.say("c0", "a house", {"year": 1991})
    work = preview(job).work
    assert work.pictures == 1 + isinstance(data, Table)  # which is read again as a whole
    if not isinstance(data, Table):  # whose file has changed, so its pictures may have
        assert (work.inversions, work.pairs) == (0, 0)
    again = small_jobs.run(job, *STAGES)
    assert (again.counts.inverted, again.counts.pairs_made, again.counts.pairs_there) == (0, 0, pairs)
    assert again.counts.corrected == 1 + isinstance(data, Table)  # all of its rows have another year
    assert "took over the new label, caption or metadata of " in str(again)
    assert "pairs made before keep the old ones in the manifest" in str(again)
    assert caption_in(open_shards(out / "shards" / "content").current().to_pandas()) == ("a house", 1991)
    opened = LatentBank.open(bank)
    assert caption_in(opened.to_pandas()) == ("a house", 1991)
    assert {file.name: file.read_bytes() for file in (bank / "data").iterdir()} == payload
    assert len({row["key"] for row in opened.index.to_pylist()}) == len(opened)
    assert verify(bank).ok
    assert verify_run(Place.parse(out)).ok

    before = times(out)
    assert small_jobs.run(job).counts.corrected == preview(job).work.pictures == 0
    assert times(out) == before

    # Pairs of another setting have the new text, those of before the old one.
    swept = small_jobs.run(small_jobs.job(tmp_path, content=data.source, injection={"gamma": 0.9}), *STAGES)
    assert swept.counts.pairs_made == pairs
    rows = manifest(out)
    for gamma, said in ((0.9, ("a house", 1991)), (rows["gamma"].min(), ("a hause", 1990))):
        assert caption_in(rows[rows["gamma"] == gamma], "content_caption", "content_meta") == said


def times(out: Path) -> dict[Path, int]:
    """When each file of the shards and banks was written."""
    files = (file for store in ("shards", "banks") for file in (out / store).rglob("*") if file.is_file())
    return {file: file.stat().st_mtime_ns for file in files}


def test_the_way_back_and_files_of_an_older_time(tmp_path):
    """What was read last counts, whatever times the files have: a backup has old ones."""
    small_jobs.picture(tmp_path / "style" / "s0.png", 10)
    data = Folder(tmp_path)
    job = small_jobs.job(tmp_path)
    small_jobs.run(job)
    for n, caption in enumerate(("a house", "a hause", "a house", "a home")):
        data.say("c0", caption, {"year": 1990})
        os.utime(data.folder / "c0.txt", (1000 - n, 1000 - n))
        assert small_jobs.run(job).counts.corrected == 1
        bank = LatentBank.open(tmp_path / "out" / "banks" / "content")
        assert caption_in(bank.to_pandas())[0] == caption
        assert small_jobs.run(job).counts.prepared == 0
    (data.folder / "c0.txt").unlink()  # no caption any more
    assert small_jobs.run(job).counts.corrected == 1
    assert LatentBank.open(tmp_path / "out" / "banks" / "content").to_pandas()["caption"].isna().all()


def test_a_picture_that_comes_back_from_a_backup_counts(tmp_path):
    small_jobs.picture(tmp_path / "style" / "s0.png", 10)
    file = small_jobs.picture(tmp_path / "content" / "c0.png", 0)
    os.utime(file, (2000, 2000))
    job = small_jobs.job(tmp_path)
    small_jobs.run(job)
    (old,) = open_shards(tmp_path / "out" / "shards" / "content").current()["image"].to_pylist()
    small_jobs.picture(file, 1)
    small_jobs.run(job)
    small_jobs.picture(file, 0)
    os.utime(file, (1000, 1000))
    assert small_jobs.run(job).counts.prepared == 1
    assert open_shards(tmp_path / "out" / "shards" / "content").current()["image"].to_pylist() == [old]
    assert small_jobs.run(job).counts.prepared == 0


def test_a_text_that_is_added_later_and_names_of_the_same_picture(tmp_path):
    """A bank has one entry for all files of one name and picture, and follows the one that it was made of."""
    small_jobs.picture(tmp_path / "style" / "s0.png", 10)
    for folder in ("a", "b"):
        small_jobs.picture(tmp_path / "content" / folder / "same.png", 0)
    small_jobs.picture(tmp_path / "content" / "a" / "other.png", 0)
    job = small_jobs.job(tmp_path)
    small_jobs.run(job)
    (tmp_path / "content" / "a" / "other.txt").write_text("one of three")
    (tmp_path / "content" / "b" / "same.txt").write_text("the copy")
    counts = small_jobs.run(job).counts
    assert (counts.inverted, counts.corrected) == (0, 2)
    index = LatentBank.open(tmp_path / "out" / "banks" / "content").to_pandas().set_index("source")
    assert index["caption"].to_dict() == {
        str(tmp_path / "content" / "a" / "other.png"): "one of three",
        str(tmp_path / "content" / "b" / "same.png"): "the copy",
    }
    (tmp_path / "content" / "a" / "same.txt").write_text("the first")
    assert small_jobs.run(job).counts.corrected == 0
    assert small_jobs.run(job).counts.corrected == 0


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_a_bank_that_is_copied_merged_or_pruned_keeps_the_new_text(tmp_path, format):
    small_jobs.picture(tmp_path / "style" / "s0.png", 10)
    data = Folder(tmp_path)
    job = small_jobs.job(tmp_path, bank={"format": format})
    small_jobs.run(job)
    bank = tmp_path / "out" / "banks" / "content"
    merge(tmp_path / "merged", [bank])
    data.say("c0", "a house", {"year": 1991})
    small_jobs.run(job)
    merge(tmp_path / "merged", [bank])  # once more: the images are there, the text is later
    export(bank, tmp_path / "exported", format="webdataset" if format == "parquet" else "parquet")
    for copy in ("merged", "exported"):
        assert caption_in(LatentBank.open(tmp_path / copy).to_pandas()) == ("a house", 1991), copy
        assert verify(tmp_path / copy).ok
    index = LatentBank.open(bank).to_pandas()
    prune(bank, [index.loc[index["caption"].notna(), "image"].item()])
    assert caption_in(LatentBank.open(bank).to_pandas()) == ("a house", 1991)
    assert verify(bank).ok
    assert len(bank_index(bank)) == 2  # the entry as it was made, and its new text
