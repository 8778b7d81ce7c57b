from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures

from diffstyle.errors import ConfigError
from pipeline.storage.place import Place


@pytest.fixture(params=["disk", "s3"])
def root(request, tmp_path) -> Place:
    """An empty folder on each kind of storage."""
    if request.param == "disk":
        return Place.parse(tmp_path / "folder")
    return Place.parse(request.getfixturevalue("s3_bucket")) / "folder"


def names(folder: str | Path) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


# ---- addresses ----
def test_addresses_of_every_kind():
    assert str(Place.parse("/a/b/../c")) == "/a/c"
    assert str(Place.parse("b", base="/a")) == "/a/b"
    assert str(Place.parse("b")) == str(Path.cwd() / "b")
    assert str(Place.parse("~/x")) == str(Path.home() / "x")
    assert str(Place.parse("file:///a/b")) == "/a/b"
    assert str(Place.parse("s3://bucket/a/")) == "s3://bucket/a"
    assert str(Place.parse("gcs://bucket/a")) == "gs://bucket/a"
    assert str(Place.parse("s3://bucket", base="/elsewhere")) == "s3://bucket"
    place = Place.parse("/x")
    assert Place.parse(place) is place


@pytest.mark.parametrize("address", ["http://host/x", "s3://", "ftp://x"])
def test_an_unknown_scheme_is_refused(address):
    with pytest.raises(ConfigError, match="not an address"):
        Place.parse(address)


def test_places_go_up_and_down():
    place = Place.parse("s3://bucket/a") / "b.txt"
    assert (str(place), place.name, str(place.parent)) == ("s3://bucket/a/b.txt", "b.txt", "s3://bucket/a")
    assert place.relative_to(Place.parse("s3://bucket")) == "a/b.txt"
    with pytest.raises(ValueError, match="not below"):
        place.relative_to(Place.parse("s3://bucket/ab"))
    assert pickle.loads(pickle.dumps(place)) == place


# ---- files ----
def test_a_file_is_written_read_listed_and_deleted(root):
    file = root / "a" / "x.bin"
    assert not file.exists()
    assert root.list(recursive=True) == []
    file.write_bytes(b"0123456789")
    (root / "b.txt").write_bytes(b"")
    assert file.is_file()
    assert root.is_dir()
    assert file.size() == 10
    assert file.read_bytes() == b"0123456789"
    assert file.read_range(2, 3) == b"234"
    assert [str(e.place.relative_to(root)) for e in root.list(recursive=True)] == ["a/x.bin", "b.txt"]
    assert [e.place.name for e in root.list()] == ["b.txt"]
    assert [(e.place.name, e.size) for e in root.list(".bin", recursive=True)] == [("x.bin", 10)]
    file.write_bytes(b"new")
    assert file.read_bytes() == b"new"
    file.delete()
    file.delete()
    assert not file.is_file()
    with pytest.raises(FileNotFoundError):
        file.size()
    root.delete_tree()
    root.delete_tree()
    assert not (root / "b.txt").exists()


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(root):
    file = root / "x.bin"
    file.write_bytes(b"old")

    def fail() -> None:
        with file.writer() as stream:
            stream.write(b"half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert file.read_bytes() == b"old"
    assert [entry.place.name for entry in root.list()] == ["x.bin"]
    if root.is_local:
        assert names(root.path) == ["x.bin"]


def test_nothing_shows_before_the_last_byte(root):
    file = root / "x.bin"
    with file.writer() as stream:
        stream.write(b"x" * 100_000)
        assert not file.exists()
        assert root.list() == []
    assert file.size() == 100_000


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        (Place.parse(tmp_path) / "x.bin").write_bytes(b"x")
    assert names(tmp_path) == []


def test_what_killed_writers_left_is_hidden_and_can_be_removed(tmp_path):
    folder = Place.parse(tmp_path)
    (tmp_path / ".x.bin.0123abcd.part").write_bytes(b"half")
    (tmp_path / ".keep").write_bytes(b"")
    assert folder.list() == []
    assert folder.remove_unfinished() == 1
    assert names(tmp_path) == [".keep"]
    assert (folder / "nowhere").remove_unfinished() == 0


def test_two_writers_of_one_name_do_not_share_a_file(tmp_path):
    file = Place.parse(tmp_path) / "x"
    with file.writer() as first, file.writer() as second:
        first.write(b"first")
        second.write(b"second")
    assert file.read_bytes() == b"first"  # the last to finish
    assert names(tmp_path) == ["x"]
