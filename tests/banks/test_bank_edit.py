"""Verify, repair, merge, prune, export: each against what could be wrong with a bank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.bank_samples import FORMATS, OTHER_TENSORS, describe, fill, latents

from pipeline.banks.copy import export, merge
from pipeline.banks.drop import prune
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import BankError
from pipeline.banks.verify import repair, verify
from pipeline.banks.writer import BankWriter
from pipeline.storage.identity import digest
from pipeline.storage.stored_description import DescriptionError
from pipeline.storage.tables import write_table


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


def image(number: int) -> str:
    return digest(f"picture {number}")


def with_extras(root: Path, description, numbers=range(10)) -> BankWriter:
    """Parts of four, another name for image 5, and a failed image 90."""
    writer = fill(root, description, numbers)
    writer.commit_aliases([{"key": "other-name", "image": image(5), "source": "other.png"}])
    writer.commit_failures([{"key": "bad", "image": image(90), "error": "too dark"}])
    return writer


def assert_equal_banks(a: Path, b: Path, same_dtype: bool = True) -> None:
    one, two = LatentBank.open(a), LatentBank.open(b)
    assert one.keys() == two.keys()
    assert one.failed() == two.failed()
    for left, right in zip(one, two, strict=True):
        assert left.image == right.image
        assert left.row["source"] == right.row["source"]
        assert left.tensors.keys() == right.tensors.keys()
        assert left.timesteps == right.timesteps
        for name in left.tensors:
            np.testing.assert_array_equal(left.tensors[name], right.tensors[name])


def files(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


@pytest.fixture(params=FORMATS)
def root(request, tmp_path) -> Path:
    with_extras(tmp_path / "bank", describe(request.param))
    return tmp_path / "bank"


def payload_of(root: Path, number: int) -> Path:
    row = LatentBank.open(root)[image(number)].row
    (file,) = (root / "data").glob(row["data"] + ".*")
    return file


# ---- verify and repair ----
def test_a_good_bank_verifies(root):
    seen = []
    report = verify(root, progress=lambda done, total: seen.append((done, total)))
    assert report.ok, report.problems
    assert (report.parts, report.images, report.names, report.failed) == (3, 10, 11, 1)
    assert report.bytes == sum(file.stat().st_size for file in (root / "data").iterdir())
    assert seen == [(1, 3), (2, 3), (3, 3)]
    before = files(root)
    assert repair(root) == []
    assert files(root) == before


def flip_a_byte(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("harm", ["flipped", "truncated", "missing", "emptied", "swapped"])
def test_a_broken_payload_is_found_and_made_anew(root, harm):
    file = payload_of(root, 5)
    data = file.read_bytes()
    if harm == "flipped":  # a bit inside a tensor: only the hash can tell
        row = LatentBank.open(root)[image(5)].row
        flip_a_byte(file, row["x_t_offset"] + 200)
    elif harm == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif harm == "missing":
        file.unlink()
    elif harm == "emptied":
        file.write_bytes(b"")
    else:
        file.write_bytes(payload_of(root, 0).read_bytes())
    report = verify(root)
    assert not report.ok
    assert {problem.part for problem in report.problems if problem.kind == "part"} == {file.name.partition(".")[0]}
    assert all("\n" not in str(problem) for problem in report.problems)
    done = repair(root)
    assert any("4 images" in line for line in done)
    assert any("other-name" in line for line in done)
    report = verify(root)
    assert report.ok, report.problems
    assert report.images == 6
    # the next run makes what went
    description = LatentBank.open(root).description
    with_extras(root, description)
    assert verify(root).ok
    fresh = root.parent / "fresh"
    with_extras(fresh, description)
    assert_equal_banks(root, fresh)


def test_a_broken_index_part_is_found_and_made_anew(root):
    (root / "index" / (payload_of(root, 5).name.partition(".")[0] + ".parquet")).write_bytes(b"PAR1")
    with pytest.raises(BankError, match="bank repair"):
        LatentBank.open(root)
    report = verify(root)
    assert {problem.kind for problem in report.problems} == {"index", "alias"}
    assert len(report.notes) == 1
    repair(root)
    assert verify(root).ok
    assert len(LatentBank.open(root)) == 6
    assert len(list((root / "data").iterdir())) == 2


def test_index_against_files_both_ways(root):
    part = payload_of(root, 5).name.partition(".")[0]
    file = root / "index" / f"{part}.parquet"
    rows = pq.read_table(file)
    with file.open("wb") as stream:
        write_table(stream, rows.slice(0, 3))  # a payload with an entry that the index lacks
    (problem,) = (one for one in verify(root).problems if one.kind == "part")
    assert "the index says nothing" in problem.message
    offsets = rows["x_t_offset"].to_pylist()
    swapped = rows.set_column(rows.schema.get_field_index("x_t_offset"), "x_t_offset", [offsets[::-1]])
    with file.open("wb") as stream:
        write_table(stream, swapped)
    assert any("x_t of" in one.message and "not the values that" in one.message for one in verify(root).problems)
    with file.open("wb") as stream:
        write_table(stream, swapped.drop_columns(["x_t_crc", "h_crc"]))  # as of before there were checksums
    assert any("does not point at its x_t" in one.message for one in verify(root).problems)


def test_values_that_are_not_finite_are_found(root, monkeypatch):
    description = LatentBank.open(root).description
    bad = latents(20, description)
    bad.x_t[0, 0, 0] = np.inf
    monkeypatch.setattr(np, "isfinite", lambda array: np.ones(np.shape(array), bool))
    writer = BankWriter.create_or_open(root, description)
    writer.commit("part-bad", writer.write_payload(root, description, "part-bad", [bad]))
    monkeypatch.undo()
    (problem,) = verify(root).problems
    assert "not finite" in problem.message
    assert repair(root) == ["part-bad: dropped with its 1 image"]
    assert verify(root).ok


@pytest.mark.parametrize("format", FORMATS)
def test_slices_of_other_timesteps_are_found(tmp_path, format):
    """A payload that says other timesteps than the description, in shapes and bytes that fit it."""
    writer = fill(tmp_path, describe(format), range(3))
    turned = describe(format, h_timesteps=(999, 400))
    writer.commit("part-x", writer.write_payload(tmp_path, turned, "part-x", [latents(9, turned)]))
    (problem,) = verify(tmp_path).problems
    assert (problem.kind, problem.part) == ("part", "part-x")
    assert "h is for timesteps (999, 400)" in problem.message


def test_uncommitted_payloads_are_notes(root):
    description = LatentBank.open(root).description
    BankWriter.write_payload(root, description, "part-left", [latents(30, description)])
    report = verify(root)
    assert report.ok
    assert "part-left" in report.notes[0]


def test_doubled_images_are_found_and_halved(root):
    description = LatentBank.open(root).description
    writer = BankWriter.create_or_open(root, description)
    items = [latents(number, description) for number in (5, 40)]
    writer.commit("part-0", writer.write_payload(root, description, "part-0", items))
    assert len(LatentBank.open(root)) == 12  # a reader sees it once
    report = verify(root)
    assert [problem.kind for problem in report.problems] == ["doubled"]
    assert len(repair(root)) == 1
    assert verify(root).ok
    assert len(LatentBank.open(root)) == 12


def test_reinverted_sample(root):
    seen = []

    def reinvert(entry):
        seen.append(entry.key)
        return None if len(seen) == 1 else "x_T differs by 0.3"

    report = verify(root, reinvert=reinvert, sample=2)
    assert len(set(seen)) == report.sampled == 2
    assert "differs by 0.3" in report.problems[0].message
    assert repair(root, report) == []


# ---- export and merge ----
@pytest.mark.parametrize(("format", "other"), [FORMATS, FORMATS[::-1]])
def test_export_and_back(tmp_path, format, other):
    with_extras(tmp_path / "a", describe(format))
    assert export(tmp_path / "a", tmp_path / "b", format=other) == 10
    assert verify(tmp_path / "b").ok
    assert_equal_banks(tmp_path / "a", tmp_path / "b")
    before = files(tmp_path / "b")
    assert export(tmp_path / "a", tmp_path / "b", format=other) == 0  # goes on: nothing left to do
    assert files(tmp_path / "b") == before
    export(tmp_path / "b", tmp_path / "c", format=format)
    assert files(tmp_path / "c" / "data") == files(tmp_path / "a" / "data")


def test_export_of_less(tmp_path):
    fill(tmp_path / "a", describe(), range(6))
    wanted = LatentBank.open(tmp_path / "a")[0]
    export(tmp_path / "a", tmp_path / "content", tensors=["h"], timesteps={"h": [999]})
    entry = LatentBank.open(tmp_path / "content")[0]
    assert entry.x_t is None
    assert entry.h_timesteps == (999,)
    np.testing.assert_array_equal(entry.h, wanted.h[1:])
    export(tmp_path / "a", tmp_path / "style", tensors=["x_t"], dtypes={"x_t": "float16"})
    entry = LatentBank.open(tmp_path / "style")[0]
    assert entry.h is None
    np.testing.assert_array_equal(entry.x_t, wanted.x_t.astype(np.float16))
    with pytest.raises(BankError, match="keeps no h; it keeps x_t"):
        export(tmp_path / "style", tmp_path / "d", tensors=["x_t", "h"])
    with pytest.raises(BankError, match="x_t: is not exported"):
        export(tmp_path / "a", tmp_path / "d", tensors=["h"], dtypes={"x_t": "float16"})
    with pytest.raises(BankError, match=r"x_t at timesteps \[3\] is not kept; kept are none"):
        export(tmp_path / "a", tmp_path / "d", timesteps={"x_t": [3]})
    with pytest.raises(BankError, match=r"\[300\] is not kept"):
        export(tmp_path / "a", tmp_path / "d", timesteps={"h": [300]})
    with pytest.raises(DescriptionError, match=r"tensors\.h is null there"):
        export(tmp_path / "a", tmp_path / "style")


@pytest.mark.parametrize(("format", "other"), [FORMATS, FORMATS[::-1]])
def test_tensors_of_any_name_are_verified_exported_and_merged(tmp_path, format, other):
    description = describe(format, tensors=OTHER_TENSORS)
    fill(tmp_path / "a", description, range(6))
    fill(tmp_path / "b", description, range(4, 9))
    assert verify(tmp_path / "a").ok
    export(tmp_path / "a", tmp_path / "tars", format=other)
    assert verify(tmp_path / "tars").ok
    assert_equal_banks(tmp_path / "a", tmp_path / "tars")
    assert merge(tmp_path / "out", [tmp_path / "tars", tmp_path / "b"]) == 9
    fill(tmp_path / "whole", description, range(9))
    assert verify(tmp_path / "out").ok
    assert_equal_banks(tmp_path / "out", tmp_path / "whole")
    less = {"tensors": ["features", "z"], "timesteps": {"features": [999, 10]}, "dtypes": {"features": "float16"}}
    export(tmp_path / "a", tmp_path / "less", **less)
    assert verify(tmp_path / "less").ok
    entry, wanted = LatentBank.open(tmp_path / "less")[0], LatentBank.open(tmp_path / "a")[0]
    assert entry.timesteps == {"features": (999, 10)}
    np.testing.assert_array_equal(entry.tensors["features"], wanted.tensors["features"][[2, 0]].astype(np.float16))
    np.testing.assert_array_equal(entry.tensors["z"], wanted.tensors["z"])
    file = payload_of(tmp_path / "less", 2)
    flip_a_byte(file, LatentBank.open(tmp_path / "less")[image(2)].row["z_offset"] + 200)
    assert not verify(tmp_path / "less").ok
    repair(tmp_path / "less")
    assert verify(tmp_path / "less").ok


@pytest.mark.parametrize("format", FORMATS)
def test_merge(tmp_path, format):
    description = describe(format)
    with_extras(tmp_path / "a", description, range(0, 7))
    fill(tmp_path / "b", describe("parquet"), range(4, 12))
    assert merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"]) == 12
    bank = LatentBank.open(tmp_path / "out")
    assert bank.description.format == format
    assert bank.about["merged_from"] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert bank["other-name"].image == image(5)
    assert bank.failed() == {"bad": "too dark"}
    report = verify(tmp_path / "out")
    assert report.ok, report.problems
    assert report.images == 12
    before = files(tmp_path / "out")
    assert merge(tmp_path / "out", [tmp_path / "b", tmp_path / "a"]) == 0
    assert files(tmp_path / "out") == before
    fill(tmp_path / "c", description, range(12), part_size=5)
    merged = LatentBank.open(tmp_path / "out")
    for entry in LatentBank.open(tmp_path / "c"):
        np.testing.assert_array_equal(entry.x_t, merged[entry.key].x_t)


def test_merge_refusals(tmp_path):
    fill(tmp_path / "a", describe(), range(3))
    fill(tmp_path / "b", describe(model_fingerprint="0" * 32), range(3))
    with pytest.raises(BankError, match="model_fingerprint"):
        merge(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(BankError, match="at once"):
        merge(tmp_path / "a", [tmp_path / "a"])
    with pytest.raises(BankError, match="at least one"):
        merge(tmp_path / "out", [])
    file = payload_of(tmp_path / "a", 1)
    flip_a_byte(file, file.stat().st_size // 2)
    with pytest.raises(BankError, match="differs from its hash"):
        merge(tmp_path / "out", [tmp_path / "a"])
    assert len(LatentBank.open(tmp_path / "out")) == 0


# ---- prune ----
def test_prune(root):
    keep = [image(number) for number in (0, 1, 2, 3, 5)]
    before = files(root)
    dropped = prune(root, keep, dry_run=True)
    assert files(root) == before
    assert prune(root, keep) == dropped == sorted(image(number) for number in (4, 6, 7, 8, 9, 90))
    bank = LatentBank.open(root)
    assert {entry.image for entry in bank} == set(keep)
    np.testing.assert_array_equal(bank["other-name"].x_t, latents(5, bank.description).x_t)
    assert bank.failed() == {}
    report = verify(root)
    assert report.ok, report.problems
    assert report.bytes < sum(len(data) for name, data in before.items() if name.startswith("data"))
    assert not report.notes
    assert prune(root, keep) == []
    assert len(prune(root, [])) == 5
    assert files(root / "data") == files(root / "index") == {}


def test_prune_killed_at_every_write_and_delete(root, monkeypatch):
    """The bank reads right after a stop at any step, and pruning again ends where it would have."""
    from pipeline.storage.place import Place

    keep = [image(number) for number in (0, 1, 2, 3, 5)]
    start = files(root)
    steps = 0
    while True:
        for name, data in start.items():
            (root / name).write_bytes(data)
        left = steps
        originals = Place.writer, Place.delete

        def maybe_stop(original):
            def wrapped(self):
                nonlocal left
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
                return original(self)

            return wrapped

        monkeypatch.setattr(Place, "writer", maybe_stop(originals[0]))
        monkeypatch.setattr(Place, "delete", maybe_stop(originals[1]))
        try:
            prune(root, keep)
            stopped = False
        except KeyboardInterrupt:
            stopped = True
        monkeypatch.undo()
        bank = LatentBank.open(root)
        assert set(keep) <= {entry.image for entry in bank}
        for number in (0, 5):
            np.testing.assert_array_equal(bank[image(number)].x_t, latents(number, bank.description).x_t)
        np.testing.assert_array_equal(bank["other-name"].x_t, latents(5, bank.description).x_t)
        prune(root, keep)
        report = verify(root)
        assert report.ok, report.problems
        assert report.images == 5
        if not stopped:
            break
        steps += 1
        for file in root.rglob("*.*"):
            file.unlink()
    assert steps >= 6


def test_repack_of_a_part_needs_no_equal_description(tmp_path):
    """Merging into a bank of another part size or format goes through the tensors, and keeps when they were made."""
    fill(tmp_path / "a", describe(), range(3))
    wanted = LatentBank.open(tmp_path / "a")[0].row["created"]
    export(tmp_path / "a", tmp_path / "b", format="webdataset")
    assert LatentBank.open(tmp_path / "b")[0].row["created"] == wanted
    with pytest.raises(DescriptionError):
        BankWriter.create_or_open(tmp_path / "b", replace(describe(), format="parquet"))
