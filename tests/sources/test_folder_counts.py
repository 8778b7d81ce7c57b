"""Folders: every file is a picture, a reject, a side-car of a picture, or passed over by reason."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.data_sets import encoded, names, opened, write

from pipeline.sources import SourceError
from pipeline.sources.passed_over import PassedOver


def test_the_line_says_how_many_and_why():
    passed_over = PassedOver()
    assert passed_over.line() is None
    for suffix in (".xmp", ".db", ".xmp"):
        passed_over.add("files of unknown suffix", suffix)
    passed_over.add("side-cars without a picture", "a.txt")

    assert passed_over.line() == (
        "passed over 4: 3 files of unknown suffix (.xmp, .db), 1 side-car without a picture (a.txt)"
    )


def test_what_is_passed_over_is_counted_by_reason(tmp_path):
    files = ("a.xmp", "b.db", "lonely.txt", "alone.json", "metadata.csv", "README", ".DS_Store", "sub/c.xmp")
    write(tmp_path, dict.fromkeys(files, b"x") | {"p.png": encoded(), "p.txt": b"a caption"})
    (tmp_path / ".git").mkdir()
    source, pictures = opened(str(tmp_path))
    assert names(pictures) == ["p.png"]
    assert dict(source.passed_over) == {
        "files of unknown suffix": 3,
        "side-cars without a picture": 2,
        "tables that `list:` may read": 1,
        "files without a suffix": 1,
        "files hidden by their name": 1,
        "folders hidden by their name": 1,
    }
    assert "(.xmp, .db)" in source.passed_over.line()


def test_pictures_without_a_known_suffix_are_found_by_their_first_bytes(tmp_path):
    write(
        tmp_path,
        {
            "0a1b2c": encoded(1),
            "cover.php": encoded(2, "JPEG"),
            "big.jpg_large": encoded(3, "JPEG"),
            "w.img": encoded(4, "WEBP"),
            "raw.cr2": encoded(5, "JPEG"),  # a camera's raw file: what it begins with is a small preview
            "half.part": encoded(6),
            "scan.page": encoded(7, "TIFF"),
            "notes": b"GIF is a format",
            "0a1b2c.txt": b"caption of a file without a suffix",
        },
    )
    os.mkfifo(tmp_path / "pipe")
    source, pictures = opened(str(tmp_path))
    assert names(pictures) == ["0a1b2c", "big.jpg_large", "cover.php", "w.img"]
    assert pictures[0].caption == "caption of a file without a suffix"
    assert source.passed_over.total() == 5


def test_suffixes_of_side_cars_in_any_case(tmp_path):
    write(
        tmp_path,
        {"A.JPG": encoded(0, "JPEG"), "A.TXT": b"a", "b.png": encoded(), "b.Json": b'{"n": 1}', "b.JSON": b'{"n": 2}'},
    )
    source, pictures = opened(str(tmp_path))
    assert [(p.name, p.caption, p.meta) for p in pictures] == [("A.JPG", "a", None), ("b.png", None, {"n": 1})]
    assert dict(source.passed_over) == {"side-cars without a picture": 1}


@pytest.mark.parametrize(
    ("suffix", "data", "meta", "caption"),
    [
        ("json", b"[" * 100_000 + b"]" * 100_000, "not readable as JSON", None),
        ("json", b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}", "a: more than 64 levels deep", None),
        ("json", b'{"a": ' + b"9" * 5000 + b"}", "not readable as JSON", None),
        ("json", b'{"a": "\xff"}', "not readable as UTF-8", None),
        ("json", b'{"a": NaN, "b": "\\ud800"}', None, None),
        ("json", b" " * (5 << 20), "over 4,194,304 bytes", None),
        ("txt", b"caf\xe9", "not readable as UTF-8", None),
        ("txt", "café".encode("utf-16"), None, "café"),
        ("txt", b"\xef\xbb\xbf a dog\r\n", None, "a dog"),
    ],
)
def test_side_cars_that_cannot_be_read_cost_no_picture(tmp_path, suffix, data, meta, caption):
    write(tmp_path, {"a.png": encoded(), f"a.{suffix}": data})
    _, (picture,) = opened(str(tmp_path))
    assert picture.data == encoded()
    assert picture.caption == caption
    errors = " ".join(str((picture.meta or {}).get(name, "")) for name in ("side_car_error", "metadata_error"))
    assert (meta in errors) if meta else not errors.strip()


def test_links_out_of_the_folder_are_not_followed_unless_they_may(tmp_path):
    write(tmp_path, {"elsewhere/b.png": encoded(1), "elsewhere/secret": b"root:x:0", "set/a.png": encoded()})
    inside = tmp_path / "set"
    (inside / "a.txt").symlink_to(tmp_path / "elsewhere" / "secret")
    (inside / "b.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    (inside / "more").symlink_to(tmp_path / "elsewhere")
    (inside / "again.png").symlink_to("a.png")
    source, pictures = opened(str(inside))
    assert names(pictures) == ["a.png", "again.png"]
    assert pictures[0].caption is None
    assert source.passed_over.line() == (
        "passed over 3 links that lead out of the data set, which allow_outside: true follows (a.txt, b.png, more)"
    )
    _, pictures = opened({"folder": str(inside), "allow_outside": True})
    assert names(pictures) == ["a.png", "again.png", "b.png", "b.png"]
    assert pictures[0].caption == "root:x:0"


def test_a_folder_of_nothing_but_links_names_the_cure(tmp_path):
    write(tmp_path, {"elsewhere/b.png": encoded(1), "set/readme.md": b"x"})
    (tmp_path / "set" / "b.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    with pytest.raises(SourceError, match=r"links lead out of it: say allow_outside: true if they may"):
        opened(str(tmp_path / "set"))


def test_links_in_circles_stop_nothing(tmp_path):
    write(tmp_path, {"a.png": encoded(), "sub/b.png": encoded(1)})
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    source, pictures = opened(str(tmp_path))
    assert [(p.name, p.error) for p in pictures] == [
        ("a.png", None),
        ("self.png", "Too many levels of symbolic links"),
        ("b.png", None),
    ]
    assert dict(source.passed_over) == {"files without a suffix": 1, "links to a folder that they lie in": 1}


def test_folders_as_deep_as_they_may_be(tmp_path):
    path, here = tmp_path, Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(2500):
            os.mkdir("d")  # noqa: PTH102
            os.chdir("d")
        Path("deep.png").write_bytes(encoded())
    finally:
        os.chdir(here)
    write(path, {"a.png": encoded()})
    try:
        _, pictures = opened(str(tmp_path))
    finally:  # Python can't remove it
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)
    assert [(p.name, p.error) for p in pictures] == [
        ("a.png", None),
        ("d", "the folder can't be read: File name too long"),
    ]


def test_a_folder_that_may_not_be_read_is_one_reject(tmp_path, monkeypatch):
    write(tmp_path, {"a.png": encoded(), "closed/b.png": encoded(1), "open/c.png": encoded(2)})
    scandir = os.scandir

    def refusing(path):  # a test that root runs can't take the rights away
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    _, pictures = opened(str(tmp_path))
    assert [(p.name, p.error) for p in pictures] == [
        ("a.png", None),
        ("closed", "the folder can't be read: Permission denied"),
        ("c.png", None),
    ]
