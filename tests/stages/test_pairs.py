"""Which pairs a job wants."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest

from pipeline.jobfile.schema import Job
from pipeline.stages.pairs import Entries, PairsError, entries, wanted_pairs

COLUMNS = ("key", "image", "source", "source_hash", "label", "caption", "meta")


def index(*rows: dict[str, str]) -> pa.Table:
    return pa.Table.from_pylist([dict.fromkeys(COLUMNS) | row for row in rows])


def side(prefix: str, n: int) -> Entries:
    """``prefix`` 0 .. n - 1, in the folder ``prefix``."""
    return entries(
        index(
            *(
                {"key": f"{prefix}{i}-ab", "image": f"{prefix}{i:031}", "source": f"/{prefix}/{prefix}{i}.png"}
                for i in range(n)
            )
        )
    )


def pairs(wanted, contents: Entries, styles: Entries) -> list[tuple[int, int]]:
    job = Job(model="m", output="o", content="c", style="s", pairs=wanted)
    return list(zip(*(numbers.tolist() for numbers in wanted_pairs(job, contents, styles)), strict=True))


def test_all():
    assert pairs("all", side("c", 2), side("s", 3)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_zip_follows_the_listings_and_a_hole_shifts_nothing():
    # Listed as z, y, (unreadable), x, y again; their keys are in another order.
    rows = [{"key": f"{name}-ab", "image": name, "source": name} for name in "xyz"]
    contents = entries(index(*rows), ["z", "y", None, "x", "y"])
    assert [row["image"] for row in contents.rows] == ["x", "y", "z"]
    assert contents.listing == [2, 1, None, 0, 1]
    styles = entries(
        index(*({"key": f"s{i}", "image": f"s{i}", "source": ""} for i in range(4))), ["s3", "s0", "s1", "s2", "s0"]
    )
    assert pairs("zip", contents, styles) == [(0, 2), (1, 0), (2, 3)]  # y with s0 comes twice and is made once


def test_zip_of_banks_goes_by_key():
    assert pairs("zip", side("c", 3), side("s", 3)) == [(0, 0), (1, 1), (2, 2)]


def test_zip_of_unequal_sides():
    with pytest.raises(PairsError, match="as many contents as styles, but there are 3 contents and 2 styles"):
        pairs("zip", side("c", 3), side("s", 2))


def test_zip_of_nothing_but_holes():
    holes = entries(index({"key": "a", "image": "a", "source": "a"}), [None, "a"])
    others = entries(index({"key": "b", "image": "b", "source": "b"}), ["b", None])
    assert pairs("zip", holes, others) == []


def test_images_that_are_not_listed_do_not_count():
    rows = [{"key": f"{name}-ab", "image": name, "source": name} for name in "xyz"]
    assert entries(index(*rows), ["y"]).images == ["y"]


def test_random_takes_k_styles_for_each_content():
    found = pairs({"random": 3}, side("c", 20), side("s", 9))
    assert len(found) == len(set(found)) == 60
    assert {sum(c == n for c, _ in found) for n in range(20)} == {3}
    assert len({s for _, s in found}) == 9  # spread over the styles
    assert pairs({"random": 5}, side("c", 2), side("s", 3)) == pairs("all", side("c", 2), side("s", 3))


def test_random_stays_as_contents_and_styles_come():
    few = pairs({"random": 3}, side("c", 5), side("s", 9))
    more = pairs({"random": 3}, side("c", 8), side("s", 9))
    assert more[: len(few)] == few
    grown = set(pairs({"random": 3}, side("c", 5), side("s", 10)))
    assert len(set(few) - grown) <= 5  # at most one a content gives way to the new style
    assert pairs({"random": 3, "seed": 1}, side("c", 5), side("s", 9)) != few


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_list_by_any_name(kind, tmp_path):
    contents, styles = side("c", 3), side("s", 3)
    frame = pd.DataFrame(
        [
            ("c2.png", "s1"),  # file name, stem
            ("c0-ab", styles.images[2]),  # key, image hash
            ("/c/c1.png", "elsewhere/s0.png"),  # path, and a path on another machine
            ("C:\\x\\c1.png", "s0.png"),  # the same once more
        ],
        columns=["content", "style"],
    ).assign(weight=1.5)
    file = tmp_path / f"pairs.{kind}"
    frame.to_csv(file, index=False) if kind == "csv" else frame.to_parquet(file)
    assert pairs({"list": str(file)}, contents, styles) == [(0, 2), (1, 0), (2, 1)]


def test_names_that_look_like_numbers(tmp_path):
    contents = entries(index({"key": "007-ab", "image": "x", "source": "/a/007.png"}))
    file = tmp_path / "pairs.csv"
    file.write_text("content,style\n007,s0\n")
    assert pairs({"list": str(file)}, contents, side("s", 1)) == [(0, 0)]


def test_a_copy_may_be_called_by_either_name(tmp_path):
    contents = entries(
        index(*({"key": f"{name}-ab", "image": "same", "source": f"/a/{name}.png"} for name in ("one", "two")))
    )
    assert len(contents) == 1
    file = tmp_path / "pairs.csv"
    file.write_text("content,style\none.png,s0\ntwo.png,s0\n")
    assert pairs({"list": str(file)}, contents, side("s", 1)) == [(0, 0)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("content,style\nc0,s0\nc0.pgn,s0\n", "row 2: no content is called 'c0.pgn'; did you mean 'c0.png'?"),
        ("content,style\nc0,unheard-of\n", "row 1: no style is called 'unheard-of'; give a file name, path, key or"),
        ("content,style\nc0,\n", "row 1: the style is missing"),
        ("a,b\nc0,s0\n", "has no column 'content'; its columns are a, b"),
        ("content\nc0\n", "has no column 'style'; its columns are content"),
        ("content,style\n", "has no rows"),
        ("", "is not readable (Empty CSV file)"),
        ("content,style\nc0\n", "is not readable (CSV parse error: Expected 2 columns, got 1"),
        (None, "does not exist"),
    ],
)
def test_what_is_wrong_with_a_list_is_one_clear_line(text, expected, tmp_path):
    file = tmp_path / "pairs.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(PairsError) as caught:
        pairs({"list": str(file)}, side("c", 2), side("s", 1))
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"pairs.list: {file}")
    assert "\n" not in str(caught.value)


def test_one_name_for_several_pictures_is_refused(tmp_path):
    contents = entries(index(*({"key": f"a-{n}", "image": f"{n}", "source": f"/{n}/a.png"} for n in range(2))))
    file = tmp_path / "pairs.csv"
    file.write_text("content,style\na.png,s0\n")
    with pytest.raises(PairsError, match=r"several contents are called 'a.png'; give the key or path"):
        pairs({"list": str(file)}, contents, side("s", 1))
    file.write_text("content,style\n/1/a.png,s0\n")
    assert pairs({"list": str(file)}, contents, side("s", 1)) == [(1, 0)]


def test_a_parquet_file_that_is_none(tmp_path):
    file = tmp_path / "pairs.parquet"
    file.write_text("content,style\n")
    with pytest.raises(PairsError, match="is not readable"):
        pairs({"list": str(file)}, side("c", 1), side("s", 1))
