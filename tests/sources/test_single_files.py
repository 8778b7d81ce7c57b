"""A picture file where a folder is expected: a set of one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures

from pipeline.sources import SourceError, SourceSpec, open_source
from pipeline.storage.place import Place


def picture(place: Place, number: int = 0) -> Place:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(stream, "PNG")
    place.write_bytes(stream.getvalue())
    return place


def read(spec):
    source = open_source(SourceSpec.model_validate(spec))
    return [one for block in source.blocks({}) for one in block.pictures()]


@pytest.mark.parametrize("kind", ["any", "folder"])
def test_a_picture_is_a_set_of_one_with_its_side_cars(tmp_path: Path, kind: str):
    root = Place.parse(tmp_path) / "photos"
    for number, name in enumerate(["me.jpg", "you.jpg", "me.png"]):
        picture(root / name, number)
    (root / "me.txt").write_bytes(b"a self-portrait")
    (root / "me.JSON").write_bytes(b'{"label": "people", "year": 2020}')
    (one,) = read({kind: str(root / "me.jpg")})
    assert (one.source, one.name) == (str(root / "me.jpg"), "me.jpg")
    assert (one.label, one.caption, one.meta) == ("people", "a self-portrait", {"year": 2020})
    # As the whole folder has it, so that a set that grows from one to all knows it again.
    (same,) = [other for other in read(str(root)) if other.name == "me.jpg"]
    assert same == one


def test_several_pictures_and_patterns(tmp_path: Path):
    root = Place.parse(tmp_path)
    for number, name in enumerate(["a/1.png", "a/2.png", "b/3.png", "4.png"]):
        picture(root / name, number)
    (root / "a" / "words.txt").write_bytes(b"x")
    assert [one.name for one in read([str(root / "4.png"), str(root / "a" / "2.png")])] == ["4.png", "2.png"]
    assert [one.name for one in read(str(root / "a" / "*.png"))] == ["1.png", "2.png"]
    assert [one.name for one in read({"folder": str(root / "*" / "*.png"), "limit": 2})] == ["1.png", "2.png"]
    assert [one.name for one in read([str(root / "4.png"), str(root / "b")])] == ["4.png", "3.png"]
    with pytest.raises(SourceError, match=r"2.png lies in .*a; name only the outer folder"):
        read([str(root / "a"), str(root / "a" / "2.png")])


def test_a_name_that_says_nothing_is_looked_at(tmp_path: Path):
    root = Place.parse(tmp_path)
    picture(root / "photo")
    (root / "notes").write_bytes(b"only words")
    assert [one.name for one in read(str(root / "photo"))] == ["photo"]
    with pytest.raises(SourceError, match="say of which kind"):
        read(str(root / "notes"))
    with pytest.raises(SourceError, match="this file is neither a folder nor a picture"):
        read({"folder": str(root / "notes")})


def test_a_picture_on_s3(s3_bucket: str):  # noqa: F811
    root = Place.parse(f"{s3_bucket}/photos")
    for number, name in enumerate(["a.png", "b.png"]):
        picture(root / name, number)
    (root / "a.txt").write_bytes(b"words")
    (one,) = read(str(root / "a.png"))
    (same,) = [other for other in read(str(root)) if other.name == "a.png"]
    assert same == one
    assert one.caption == "words"
