"""What lies within a data set's folder, and what does not."""

from __future__ import annotations

import pytest

from pipeline.sources.addresses import beside, within
from pipeline.storage.place import Place


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", True),
        ("sub/../a.png", True),
        ("sub/gone.png", True),
        ("../a.png", False),
        ("../set-2/a.png", False),
        ("/etc/passwd", False),
        ("s3://bucket/a.png", False),
        ("link.png", False),
        ("linked/a.png", False),
        ("good.png", True),
        ("a\0.png", False),
        ("x" * 300, True),
        ("round", True),
    ],
)
def test_within(tmp_path, name, expected):
    root = tmp_path / "set"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "set-2").mkdir()
    (root / "link.png").symlink_to("/etc/passwd")
    (root / "linked").symlink_to(tmp_path / "set-2")
    (root / "good.png").symlink_to(root / "a.png")
    (root / "round").symlink_to(root / "round")
    place = Place.parse(root)
    assert within(place, beside(place, name)) is expected
    assert within(place, Place.parse(root / "a.png"))


def test_a_root_that_is_reached_by_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / "real")
    assert within(Place.parse(tmp_path / "way"), Place.parse(tmp_path / "way" / "a.png"))
    assert within(Place.parse(tmp_path / "way"), Place.parse(tmp_path / "real" / "a.png"))


def test_within_on_a_store():
    root = Place.parse("s3://bucket/set")
    assert within(root, beside(root, "a/b.png"))
    assert not within(root, beside(root, "../a.png"))
    assert not within(root, Place.parse("s3://bucket/set-2/a.png"))
    assert not within(root, Place.parse("s3://other/set/a.png"))
    assert not within(root, Place.parse("/etc/passwd"))
