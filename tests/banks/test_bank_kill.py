"""Kills, lost files and full disks: a bank opens afterwards, lacks only what was in flight, and completes."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import bank_kill_child
from support.bank_samples import FORMATS, describe, fill, latents

from pipeline.banks.description import PICTURE_COLUMNS, part_name
from pipeline.banks.reader import LatentBank
from pipeline.banks.verify import verify
from pipeline.banks.writer import BankWriter, HashingStream
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)  # here, not in the child that is killed


def assert_right(root: Path, undisturbed: Path, complete: bool) -> None:
    """Every entry equals that of the bank made without kills; every one is there if it should be."""
    if not complete and not (root / "description.json").exists():
        return
    bank, wanted = LatentBank.open(root), LatentBank.open(undisturbed)
    if complete:
        assert bank.keys() == wanted.keys()
        assert bank.failed() == wanted.failed()
    for entry in bank:
        if entry.key not in wanted:
            assert not complete  # an export under way holds what prune will take
            continue
        other = wanted[entry.key]
        assert entry.image == other.image
        assert {name: entry.row[name] for name in PICTURE_COLUMNS} == {
            name: other.row[name] for name in PICTURE_COLUMNS
        }
        np.testing.assert_array_equal(entry.x_t, other.x_t)
        np.testing.assert_array_equal(entry.h, other.h)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kills", [6, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.long])])
def test_kills_at_random_moments(tmp_path, format, kills):
    bank_kill_child.make(tmp_path / "undisturbed", format)
    chance = random.Random(kills)
    killed = unfinished = round_number = 0
    while killed < kills:
        folder = tmp_path / f"round-{round_number}"
        child = subprocess.Popen(
            [sys.executable, bank_kill_child.__file__, str(folder), format],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        )
        assert child.stdout
        child.stdout.readline()
        longest = chance.choice([0.1, 0.5, 2.0] if kills > 10 else [0.1, 0.5])  # machines differ: some end, most do not
        time.sleep(chance.random() * longest)
        child.send_signal(signal.SIGKILL)
        finished = child.wait() == 0
        child.stdout.close()
        if finished:  # it was faster: this one is done, the next kills go to a new one
            round_number += 1
        else:
            killed += 1
            unfinished += any(folder.glob("*/*/.*.part"))
        for name in ("first", "second"):
            assert_right(folder / name, tmp_path / "undisturbed" / name, complete=finished)
    bank_kill_child.make(tmp_path / f"round-{round_number}", format)
    for folder in tmp_path.glob("round-*"):
        for name in ("first", "second"):
            assert_right(folder / name, tmp_path / "undisturbed" / name, complete=True)
            report = verify(folder / name)
            assert report.ok, report.problems
            assert not report.notes
            assert not list((folder / name).rglob(".*.part"))
    print(f"{killed} kills over {round_number + 1} banks, {unfinished} of them with a file half written")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "lost", ["payload cut", "payload empty", "index unfinished", "payload unfinished", "description unfinished"]
)
def test_files_that_a_power_cut_took(tmp_path, format, lost):
    """What was not synced when the power went: the rename came through, or the content did not."""
    description = describe(format)
    fill(tmp_path / "bank", description, range(4))
    items = [latents(number, description) for number in range(4, 8)]
    part = part_name([item.image for item in items])
    rows = BankWriter.write_payload(tmp_path / "bank", description, part, items)
    payload = next((tmp_path / "bank" / "data").glob(part + "*"))
    data = payload.read_bytes()
    if lost == "payload cut":
        payload.write_bytes(data[: len(data) // 2])
    elif lost == "payload empty":
        payload.write_bytes(b"")
    elif lost == "index unfinished":
        (tmp_path / "bank" / "index" / f".{part}.parquet.0123.part").write_bytes(b"PAR1")
    elif lost == "description unfinished":
        (tmp_path / "bank" / ".description.json.0123.part").write_bytes(b"{")
        payload.unlink()
    else:
        payload.rename(payload.with_name(f".{payload.name}.0123.part"))
    assert len(LatentBank.open(tmp_path / "bank")) == 4
    if not lost.startswith("index"):
        with pytest.raises(Exception, match="share this folder"):
            BankWriter.create_or_open(tmp_path / "bank", description).commit(part, rows)
    fill(tmp_path / "bank", description, range(8))
    fill(tmp_path / "fresh", description, range(8))
    assert_right(tmp_path / "bank", tmp_path / "fresh", complete=True)
    report = verify(tmp_path / "bank")
    assert report.ok, report.problems
    assert not report.notes
    assert not list((tmp_path / "bank").rglob(".*.part"))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("after", [0, 1000, 3000])
def test_disk_full_in_a_payload(tmp_path, format, after, monkeypatch):
    description = describe(format)
    fill(tmp_path / "bank", description, range(4))
    write = HashingStream.write

    def full(self, data):
        if self.size + len(data) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(HashingStream, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        fill(tmp_path / "bank", description, range(8))
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert len(list((tmp_path / "bank" / "data").iterdir())) == 1
    assert len(LatentBank.open(tmp_path / "bank")) == 4
    fill(tmp_path / "bank", description, range(8))
    assert verify(tmp_path / "bank").images == 8


def test_disk_full_in_the_index(tmp_path, monkeypatch):
    description = describe()
    fill(tmp_path, description, range(4))

    def full(self, part, rows):
        with (self.index_folder / f"{part}.parquet").writer() as stream:
            stream.write(b"PAR1")
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PartStore, "commit", full)
    with pytest.raises(OSError, match="No space left"):
        fill(tmp_path, description, range(8))
    monkeypatch.undo()
    assert len(list((tmp_path / "index").iterdir())) == 1
    assert len(LatentBank.open(tmp_path)) == 4
    (note,) = verify(tmp_path).notes
    assert "killed writer" in note
    fill(tmp_path, description, range(8))
    assert verify(tmp_path).images == 8


def test_two_writers_of_the_same_part_do_no_harm(tmp_path):
    """A worker believed dead that writes its payload after its replacement's was committed: the bytes are the same."""
    description = describe()
    fill(tmp_path, description, range(4))
    before = {file: file.read_bytes() for file in (tmp_path / "data").iterdir()}
    items = [latents(number, description) for number in range(4)]
    BankWriter.write_payload(Place.parse(tmp_path), description, part_name([item.image for item in items]), items)
    assert {file: file.read_bytes() for file in (tmp_path / "data").iterdir()} == before
    assert verify(tmp_path).ok
