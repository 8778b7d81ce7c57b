"""A folder's files one after the other: the same as a whole listing has, on a disk and on S3."""

from __future__ import annotations

import pytest
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures

from pipeline.storage.files_below import files_below
from pipeline.storage.place import Place

FILES = ("a.png", "deep/er/b.png", "deep/c.tar", "deep#/d.png", "deep/.hidden.part", ".lock/1/e.png", "é ü.png")


# pyarrow leaves a marker for the folder of a deleted object: no file.
GONE = "emptied/gone.png"


@pytest.fixture(params=["disk", "s3"])
def root(request, tmp_path) -> Place:
    return Place.parse(tmp_path if request.param == "disk" else request.getfixturevalue("s3_bucket")) / "out"


def test_it_has_the_files_that_a_listing_has(root):
    for n, name in enumerate(FILES):
        (root / name).write_bytes(b"x" * (n + 1))
    (root / GONE).write_bytes(b"x")
    (root / GONE).delete()
    (root.parent / "outside.png").write_bytes(b"x")
    seen = sorted(files_below(root), key=lambda entry: entry.place.path)
    listed = root.list(recursive=True)
    assert [(entry.place, entry.size) for entry in seen] == [(entry.place, entry.size) for entry in listed]
    assert len(seen) == 5
    assert all(abs(one.mtime_ns - other.mtime_ns) < 2e9 for one, other in zip(seen, listed, strict=True))


def test_a_folder_that_is_not_there_has_none(root):
    assert list(files_below(root / "nothing")) == []


def test_files_may_go_while_they_come(root):
    for n in range(50):
        (root / f"{n}.png").write_bytes(b"x")
    for entry in files_below(root):
        entry.place.delete()
    assert root.list() == []
