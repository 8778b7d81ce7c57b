"""Which pairs a job wants."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.jobfile.schema import Job
from pipeline.stages.pairs import Entries, Listed, PairsError, entries, wanted_pairs
from pipeline.storage.identity import source_text

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
    found = wanted_pairs(job, contents, styles)
    return list(zip(found.contents.tolist(), found.styles.tolist(), strict=True))


def listed(*images: str | None) -> list[Listed]:
    """Rows of a data set that lists these images, None for one that can't be read."""
    return [Listed(image or "bad", image) for image in images]


def test_all():
    assert pairs("all", side("c", 2), side("s", 3)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_zip_follows_the_listings_and_a_hole_shifts_nothing():
    # Listed as z, y, (unreadable), x, y again; their keys are in another order.
    rows = [{"key": f"{name}-ab", "image": name, "source": name} for name in "xyz"]
    contents = entries(index(*rows), listed("z", "y", None, "x", "y"))
    assert [row["image"] for row in contents.rows] == ["x", "y", "z"]
    assert [picture.number for picture in contents.listing] == [2, 1, None, 0, 1]
    styles = entries(
        index(*({"key": f"s{i}", "image": f"s{i}", "source": ""} for i in range(4))),
        listed("s3", "s0", "s1", "s2", "s0"),
    )
    assert pairs("zip", contents, styles) == [(0, 2), (1, 0), (2, 3)]  # y with s0 comes twice and is made once


def test_zip_of_banks_goes_by_key():
    assert pairs("zip", side("c", 3), side("s", 3)) == [(0, 0), (1, 1), (2, 2)]


def test_zip_of_unequal_sides():
    with pytest.raises(PairsError, match="as many contents as styles, but there are 3 contents and 2 styles"):
        pairs("zip", side("c", 3), side("s", 2))


def test_zip_of_nothing_but_holes():
    holes = entries(index({"key": "a", "image": "a", "source": "a"}), listed(None, "a"))
    others = entries(index({"key": "b", "image": "b", "source": "b"}), listed("b", None))
    assert pairs("zip", holes, others) == []


def test_images_that_are_not_listed_do_not_count():
    rows = [{"key": f"{name}-ab", "image": name, "source": name} for name in "xyz"]
    assert entries(index(*rows), listed("y")).images == ["y"]


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
            ("/c/c1.png", "s0.png"),  # path
            ("/c/../c/./c1.png", "/s//s0.png"),  # the same once more
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
        ("content,style\nc0,s0\nc0.pgn,s0\n", "row 2 (line 3): no content is called 'c0.pgn'; did you mean 'c0.png'?"),
        (
            "content,style\nc0,unheard-of\n",
            "row 1 (line 2): no style is called 'unheard-of'; give a path, key, image hash or file name",
        ),
        ("content,style\nc0,\n", "row 1 (line 2): the style is missing"),
        ("a,b\nc0,s0\n", "has no column 'content'; its columns are a, b"),
        ("content\nc0\n", "has no column 'style'; its columns are content"),
        ("content,style\n", "has no rows"),
        ("", "the list is empty; its first line must name the columns"),
        ("content,style\nc0\n", "row 1 (line 2): the style is missing"),
        ("content,style\nc0,s0,x\n", "row 1 (line 2) has more cells than there are columns"),
        ("content,style,content\nc0,s0,c0\n", "the column content is there 2 times; keep one"),
        ('content,style\n"c0,s0\n', "row 1: line 2: a quote that is not closed"),
        ("content,style\nc\0,s0\n", r"no content is called 'c\x00'"),
        (f"content,style\n{'c' * 9000},s0\n", f"no content is called '{'c' * 120}...'"),
        (
            "content,style\nc7,s0\nc0,s7\nc9,s9\n",
            "(3 more mistakes)",
        ),
        (
            "content,style\nother/c0.png,s0\n",
            "no content is called 'other/c0.png' in that folder; did you mean '/c/c0.png'?",
        ),
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
    with pytest.raises(
        PairsError, match=r"several contents are called 'a.png' \(/0/a.png or /1/a.png\); give the path or key"
    ):
        pairs({"list": str(file)}, contents, side("s", 1))
    file.write_text("content,style\n/1/a.png,s0\n")
    assert pairs({"list": str(file)}, contents, side("s", 1)) == [(1, 0)]


def test_a_parquet_file_that_is_none(tmp_path):
    file = tmp_path / "pairs.parquet"
    file.write_text("content,style\n")
    with pytest.raises(PairsError, match="not readable as Parquet"):
        pairs({"list": str(file)}, side("c", 1), side("s", 1))


# ---- how a name finds its picture ----
def folders(*paths: str, bad: tuple[str, ...] = (), roots: tuple[str, ...] = ("/set",)) -> Entries:
    """The pictures at these paths below /set, in this order; those in ``bad`` can't be read."""
    rows = [{"key": f"{path.rpartition('/')[2]}-{n}", "image": f"image{n}"} for n, path in enumerate(paths)]
    listing = [
        Listed(f"/set/{path}", None if path in bad else row["image"], "cut off")
        for path, row in zip(paths, rows, strict=True)
    ]
    return entries(
        index(*(row | {"source": one.source} for row, one in zip(rows, listing, strict=True) if one.image)),
        listing,
        roots,
    )


def choose(contents: Entries, folder, *names: str):
    """What a list in ``folder`` that names these contents, with the style s0, asks for."""
    file = folder / "pairs.csv"
    file.write_text("content,style\n" + "".join(f"{name},s0\n" for name in names))
    job = Job(model="m", output="o", content="c", style="s", pairs={"list": str(file)})
    return wanted_pairs(job, contents, side("s", 1))


@pytest.mark.parametrize("name", ["dogs/001.png", "./dogs//001.png", "cats/../dogs/001.png", "dogs\\001.png"])
def test_a_path_from_the_data_sets_folder(tmp_path, name):
    contents = folders("cats/001.png", "dogs/001.png")
    assert choose(contents, tmp_path, name).contents.tolist() == [1]


def test_a_path_from_the_lists_folder(tmp_path):
    rows = [{"key": f"a-{n}", "image": f"{n}", "source": f"{tmp_path}/{n}/a.png"} for n in range(2)]
    contents = entries(index(*rows))
    assert choose(contents, tmp_path, "1/a.png").contents.tolist() == [1]
    assert choose(contents, tmp_path, f"../{tmp_path.name}/0/a.png").contents.tolist() == [0]


def test_a_file_at_the_top_goes_before_a_file_name_further_down(tmp_path):
    assert choose(folders("001.png", "cats/001.png"), tmp_path, "001.png").contents.tolist() == [0]


def test_a_picture_that_cannot_be_read_costs_its_own_pair_and_gives_its_name_to_no_other(tmp_path):
    contents = folders("cats/001.png", "dogs/001.png", "dogs/002.png", "bad.png", bad=("dogs/001.png", "bad.png"))
    found = choose(contents, tmp_path, "dogs/001.png", "dogs/002.png", "bad", "bad.png")
    assert [contents.rows[n]["source"] for n in found.contents] == ["/set/dogs/002.png"]
    assert [(lost.where, lost.content, lost.reason) for lost in found.lost] == [
        ("row 1 (line 2)", "/set/dogs/001.png", "/set/dogs/001.png: cut off"),
        ("row 3 (line 4)", "/set/bad.png", "/set/bad.png: cut off"),
        ("row 4 (line 5)", "/set/bad.png", "/set/bad.png: cut off"),
    ]
    with pytest.raises(PairsError, match=r"several contents are called '001\.png'"):
        choose(contents, tmp_path, "001.png")


def test_two_pictures_that_cannot_be_read_are_not_one(tmp_path):
    contents = folders("x/a.png", "y/a.png", "b.png", bad=("x/a.png", "y/a.png"))
    with pytest.raises(PairsError, match=r"several contents are called 'a' \(/set/x/a.png or /set/y/a.png\)"):
        choose(contents, tmp_path, "a")


def test_a_path_that_may_mean_two_pictures_is_refused(tmp_path):
    rows = [{"key": f"a-{n}", "image": f"{n}", "source": f"{at}/a.png"} for n, at in enumerate(("/set", tmp_path))]
    contents = entries(index(*rows), [Listed(row["source"], row["image"]) for row in rows], ["/set"])
    with pytest.raises(PairsError, match=r"several contents are called 'a\.png'"):
        choose(contents, tmp_path, "a.png")


def test_names_with_a_hash_and_members_of_archives(tmp_path):
    sources = [source_text("/set/a#1.png"), source_text("/set/x.tar", "dogs/1.png"), source_text("/set/x.tar", "1.jpg")]
    rows = [{"key": f"k-{n}", "image": f"{n}", "source": source} for n, source in enumerate(sources)]
    contents = entries(index(*rows), [Listed(row["source"], row["image"]) for row in rows], ["/set"])
    for number, names in enumerate(
        [
            ("a#1.png", "a#1", "/set/a#1.png", sources[0]),
            ("dogs/1.png", "x.tar#dogs/1.png", "1.png", sources[1]),
            ("1.jpg", "x.tar#1.jpg", sources[2]),
        ]
    ):
        for name in names:
            assert choose(contents, tmp_path, name).contents.tolist() == [number], name


# ---- against an oracle ----
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_pairs_are_those_asked_for(tmp_path, data):
    """zip and lists over data sets with copies, repeats, holes and one name in several folders."""
    paths = ["a.png", "b.png", "x/a.png", "x/c.png", "y/a.png", "y/c.png"]
    names = [*paths, "a", "b", "c", "c.png", "z/b.png"]
    sides = []
    for _ in range(2):
        # Which picture lies at a path; None: it can't be read. Two paths may hold the same one.
        images = {path: data.draw(st.sampled_from(["p", "q", "r", None])) for path in paths}
        rows = data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=8))
        sides.append((images, rows))

    def by_name(images, rows, name):
        """The paths that a name may mean."""
        held = dict.fromkeys(rows)
        if name in held:
            return {name}
        same_file = {path for path in held if path.rpartition("/")[2] == name}
        return same_file or {path for path in held if path.rpartition("/")[2] == f"{name}.png"}

    kind = data.draw(st.sampled_from(["zip", "list"]))
    wrong = False
    if kind == "zip":
        short = min(len(rows) for _, rows in sides)
        sides = [(images, rows[:short]) for images, rows in sides]
        asked = list(zip(*(rows for _, rows in sides), strict=True))
        pairs_kind = "zip"
    else:
        named = data.draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names)), min_size=1, max_size=6))
        file = tmp_path / "pairs.csv"
        pd.DataFrame(named, columns=["content", "style"]).to_csv(file, index=False)
        pairs_kind = {"list": str(file)}
        asked = []
        for row in named:
            meant = [by_name(*sides[n], name) for n, name in enumerate(row)]
            # Copies of one picture are one; unreadable ones are each for themselves.
            distinct = [{sides[n][0][path] or path for path in one} for n, one in enumerate(meant)]
            if any(len(one) != 1 for one in distinct):
                wrong = True
            else:
                asked.append(tuple(min(one) for one in meant))
    made = [
        entries(
            index(*({"key": f"k{image}", "image": image, "source": f"/set/{image}"} for image in "pqr")),
            [Listed(f"/set/{path}", images[path]) for path in rows],
            ["/set"],
        )
        for images, rows in sides
    ]
    job = Job(model="m", output="o", content="c", style="s", pairs=pairs_kind)
    if wrong:
        with pytest.raises(PairsError):
            wanted_pairs(job, *made)
        return
    found = wanted_pairs(job, *made)
    got = [(made[0].images[c], made[1].images[s]) for c, s in zip(found.contents, found.styles, strict=True)]
    images = [(sides[0][0][content], sides[1][0][style]) for content, style in asked]
    good = [pair for pair in images if None not in pair]
    assert len(got) == len(set(got))
    assert set(got) == set(good)
    assert found.repeated == len(good) - len(set(good))
    assert len(found.lost) == len(images) - len(good)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_all_and_random_against_the_same_oracle(data):
    rows = [data.draw(st.lists(st.sampled_from(["p", "q", "r", None]), min_size=1, max_size=6)) for _ in range(2)]
    distinct = [{image for image in one if image} for one in rows]
    contents, styles = (
        entries(index(*({"key": f"k{image}", "image": image, "source": image} for image in "pqr")), listed(*one))
        for one in rows
    )
    if not all(distinct):
        return
    every = {(c, s) for c in distinct[0] for s in distinct[1]}

    def named(wanted):
        return [(contents.images[c], styles.images[s]) for c, s in pairs(wanted, contents, styles)]

    assert sorted(named("all")) == sorted(every)
    k = data.draw(st.integers(1, 4))
    found = named({"random": k})
    assert len(found) == len(set(found)) == len(distinct[0]) * min(k, len(distinct[1]))
    assert set(found) <= every
    assert all(sum(c == image for c, _ in found) == min(k, len(distinct[1])) for image in distinct[0])
