"""The snapshot of a bank's index: quicker to read, and never anything else than the index says."""

from __future__ import annotations

import logging

import pytest
from support.bank_samples import describe, fill, latents

from pipeline.banks import index
from pipeline.banks.copy import merge
from pipeline.banks.drop import drop
from pipeline.banks.index import SNAPSHOT, BankIndex
from pipeline.banks.reader import LatentBank
from pipeline.banks.verify import repair, verify
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A bank of ten images in five parts, and their snapshot."""
    monkeypatch.setattr(index, "SNAPSHOT_AFTER", 3)
    writer = fill(tmp_path / "bank", describe(), range(10), part_size=2)
    writer.snapshot()
    assert (tmp_path / "bank" / SNAPSHOT).is_file()
    return PartStore(Place.parse(tmp_path / "bank"))


def read_index(store, columns=None):
    return BankIndex(store, describe()).read(columns)


def plain(store):
    """The index, read without the snapshot."""
    away = store.root / "away"
    place = store.root / SNAPSHOT
    data = place.read_bytes()
    place.delete()
    try:
        return read_index(store)
    finally:
        place.write_bytes(data)
        away.delete()


def decoded(monkeypatch) -> list[str]:
    seen: list[str] = []
    decode = BankIndex._decode

    def noted(self, part, data, columns):
        seen.append(part)
        return decode(self, part, data, columns)

    monkeypatch.setattr(BankIndex, "_decode", noted)
    return seen


def test_the_same_index(store, monkeypatch):
    wanted = plain(store)
    seen = decoded(monkeypatch)
    assert read_index(store).equals(wanted)
    assert read_index(store, ["image", "status"]).equals(wanted.select(["image", "status"]))
    assert seen == []


def test_parts_that_came_later(store, monkeypatch):
    writer = fill(store.root.path, describe(), range(14), part_size=2)
    writer.commit_aliases([{"key": "other", "image": latents(3, describe()).image}])
    wanted = plain(store)
    assert len(wanted) == 15
    seen = decoded(monkeypatch)
    assert read_index(store).equals(wanted)
    assert len(seen) == 3
    writer.snapshot()
    seen.clear()
    assert read_index(store).equals(wanted)
    assert seen == []


def test_a_part_that_was_written_anew(store, monkeypatch):
    """Of the same name, and other rows: the snapshot's are not taken."""
    part = store.parts()[2]
    rows = BankIndex(store, describe()).part(part).to_pylist()
    table = read_index(store).schema.empty_table().from_pylist([{**row, "label": "cat"} for row in rows])
    store.commit(part, table.cast(read_index(store).schema))
    wanted = plain(store)
    assert wanted["label"].to_pylist().count("cat") == 2
    assert read_index(store).equals(wanted)
    store.drop(store.parts()[0])
    assert read_index(store).equals(plain(store))
    assert len(read_index(store)) == 8


def test_a_broken_snapshot(store, caplog):
    wanted = plain(store)
    place = store.root / SNAPSHOT
    whole = place.read_bytes()
    for at in range(0, len(whole), 199):
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert read_index(store).equals(wanted)
    with caplog.at_level(logging.WARNING):
        place.write_bytes(whole[:1000])
        assert read_index(store).equals(wanted)
    assert "read part by part" in caplog.text
    report = verify(store.root)
    assert [problem.kind for problem in report.problems] == ["snapshot"]
    assert repair(store.root, report) == [f"{SNAPSHOT}: dropped, the index itself is whole"]
    assert verify(store.root).ok
    assert read_index(store).equals(wanted)


def test_a_snapshot_that_lies(store, monkeypatch):
    """Written by something that is wrong: verify compares it with the index."""
    other = fill(store.root.parent.path + "/other", describe(), range(20, 30), part_size=2)
    monkeypatch.setattr(index, "digest", lambda *pieces: "f" * 32)
    other.snapshot()
    lie = other.root / SNAPSHOT
    text = lie.read_bytes()
    for ours, theirs in zip(store.parts(), other.store.parts(), strict=True):
        text = text.replace(theirs.encode(), ours.encode())
    (store.root / SNAPSHOT).write_bytes(text)
    report = verify(store.root)
    assert [problem.kind for problem in report.problems] == ["snapshot"]


def test_what_is_dropped_is_in_no_file(store):
    gone = latents(3, describe())
    drop(store.root, lambda row: row["image"] == gone.image)
    snapshot = store.root / SNAPSHOT
    assert snapshot.is_file()
    assert gone.image not in set(BankIndex(store, describe())._snapshot(None).table["image"].to_pylist())
    assert len(LatentBank.open(store.root)) == 9
    assert verify(store.root).ok


def test_merged_banks_have_one(store, tmp_path):
    merge(tmp_path / "merged", [store.root])
    assert (tmp_path / "merged" / SNAPSHOT).is_file()
    assert read_index(PartStore(Place.parse(tmp_path / "merged"))).equals(read_index(store))
