"""Lists of pictures: what other tools write, and what is wrong with it."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffstyle.errors import DiffStyleError
from pipeline.sources import SourceError, SourceSpec, open_source, rows, web
from pipeline.sources.rows import Rows
from pipeline.storage.place import Place


def png(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), seed, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(web, "PAUSE", 0.001)
    for number, name in enumerate("abc"):
        (tmp_path / f"{name}.png").write_bytes(png(number))
    return tmp_path


def read(file: Path, **spec):
    source = open_source(SourceSpec(list=str(file), **spec))
    return [picture for block in source.blocks({}) for picture in block.pictures()], dict(source.passed_over)


def names_and_errors(file: Path, **spec) -> list[tuple[str, str | None]]:
    return [(picture.name, picture.error) for picture in read(file, **spec)[0]]


def write(folder: Path, text: str | bytes, name: str = "list.csv") -> Path:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


# ---- what other tools write ----
@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_the_delimiter_is_the_headers(folder, sign):
    file = write(
        folder,
        f'caption{sign}path{sign}n\n"x{sign}y"{sign}a.png{sign}1\nz, and; more{sign}b.png{sign}2\n'.replace(
            "z, and; more", "z" if sign in ",;" else "z, and; more"
        ),
    )
    pictures, _ = read(file)
    assert [picture.name for picture in pictures] == ["a.png", "b.png"]
    assert (pictures[0].caption, pictures[0].meta) == (f"x{sign}y", {"n": "1"})


def test_json_lines(folder):
    lines = [{"file_name": "a.png", "text": "one", "boxes": [[1, 2]]}, {"file_name": "b.png"}, {"text": "no file"}]
    text = (
        "\n".join(map(json.dumps, lines))
        + "\n\n[1]\n{nope\n"
        + "[" * 100_000
        + "\n"
        + json.dumps({"file_name": "c.png"})
    )
    pictures, notes = read(write(folder, text, "metadata.jsonl"))
    assert [(picture.name, picture.caption, picture.meta) for picture in pictures if picture.data] == [
        ("a.png", "one", {"boxes": [[1, 2]]}),
        ("b.png", None, None),
        ("c.png", None, None),
    ]
    reasons = [picture.error for picture in pictures if picture.error]
    assert len(reasons) == 4
    assert "row 3 has no path or file" in reasons[0]
    assert "row 4: not a JSON object" in reasons[1]
    assert "row 5: not readable as JSON" in reasons[2]
    assert "row 6: not readable as JSON" in reasons[3]
    assert notes == {"lines with nothing in them": 1}
    assert [name for name, _ in names_and_errors(folder / "metadata.jsonl", limit=2)] == ["a.png", "b.png"]


def test_a_bare_jsonl_is_recognised(folder):
    file = write(folder, '{"file_name": "a.png"}\n', "metadata.jsonl")
    assert open_source(str(file)).count() == 1


def test_a_long_caption_is_whole(folder):
    pictures, _ = read(write(folder, f"path,caption\na.png,{'x' * 200_000}\nb.png,k\n"))
    assert [len(picture.caption) for picture in pictures] == [200_000, 1]


def test_bytes_that_are_no_utf8_cost_nothing(folder):
    name = b"caf\xe9.png"
    with open(bytes(folder) + b"/" + name, "wb") as stream:  # noqa: PTH123 - a name that Path can't print
        stream.write(png(9))
    pictures, _ = read(write(folder, b"path,caption\n" + name + b",x\na.png,na\xefve\n"))
    assert [picture.data for picture in pictures] == [png(9), png(0)]
    assert pictures[1].caption.startswith("na")


def test_columns_that_are_repeated_or_unnamed(folder):
    pictures, _ = read(write(folder, "path,n,n,,\na.png,1,2,,3\n"))
    assert pictures[0].meta == {"n": "1", "n (3)": "2", "column 4": None, "column 5": "3"}
    for text, column in (("path,path\na.png,a.png\n", "path"), ("path,text,text\na.png,1,2\n", "text")):
        with pytest.raises(SourceError, match=f"the column {column} is there 2 times; keep one"):
            read(write(folder, text), caption_column="text" if "text" in text else None)


# ---- quotes ----
def test_a_quote_that_is_not_closed_costs_the_cells_after_it(folder):
    pictures, _ = read(write(folder, 'path,caption,n\na.png,"12 inch,1\nb.png,fine,2\nc.png,"so, it is",3\n'))
    assert [picture.name for picture in pictures] == ["a.png", "b.png", "c.png"]
    assert all(picture.data for picture in pictures)
    assert pictures[0].caption is None
    assert "line 2: a quote that is not closed" in pictures[0].meta["row_error"]
    assert [picture.caption for picture in pictures[1:]] == ["fine", "so, it is"]


def test_a_quote_within_a_quoted_cell_is_told(folder):
    pictures, _ = read(write(folder, 'path,caption\na.png,"12" disk"\nb.png,a 7" disk\n'))
    assert [bool(picture.data) for picture in pictures] == [True, True]
    assert pictures[0].caption is None
    assert "one within a cell" in pictures[0].meta["row_error"]
    assert pictures[1].caption == 'a 7" disk'


def test_a_quote_before_the_path_costs_the_row(folder):
    pictures, _ = read(write(folder, 'caption,path\n"12 inch,a.png\nfine,b.png\n'))
    assert [bool(picture.data) for picture in pictures] == [False, True]
    assert pictures[0].error.startswith("row 1: line 2: a quote that is not closed")


def test_two_stray_quotes_swallow_no_row_between_them(folder):
    text = 'path,caption\na.png,"12 inch\nb.png,a 7 inch record\nc.png,another 7"\n'
    pictures, _ = read(write(folder, text))
    assert [picture.name for picture in pictures] == ["a.png", "b.png", "c.png"]
    assert "would swallow line 3" in pictures[0].meta["row_error"]


def test_captions_of_several_lines_are_whole(folder):
    text = 'path,caption\na.png,"one\ntwo, three\n""four"""\nb.png,5\n'
    pictures, _ = read(write(folder, text))
    assert [picture.caption for picture in pictures] == ['one\ntwo, three\n"four"', "5"]


def test_a_record_without_an_end_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(rows, "MAX_RECORD", 1000)
    text = (
        'path,caption\na.png,"open\n'
        + "".join(f"{'y' * 50}{n}\n" for n in range(100))
        + "b.png,k\n"
        + "z" * 3000
        + "\nc.png,1\n"
    )
    pictures, _ = read(write(folder, text))
    assert [picture.name for picture in pictures if picture.data] == ["a.png", "b.png", "c.png"]
    assert len(pictures) == 104
    assert "over 1,000 characters" in pictures[102].error


# ---- one bad row costs one picture ----
def test_names_that_no_file_can_have(folder):
    (folder / "round.png").symlink_to(folder / "round.png")
    bad = ["x" * 300 + ".png", "a\0.png", "nope://b/c.png", "~/a.png", "round.png", "gone.png", ".", "/"]
    text = "path\n" + "\n".join(["a.png", *bad, "b.png"]) + "\n"
    pictures, _ = read(write(folder, text), allow_outside=True)
    assert [picture.name for picture in pictures if picture.data] == ["a.png", "b.png"]
    reasons = [picture.error for picture in pictures if not picture.data]
    for reason, expected in zip(
        reasons,
        (
            "File name too long",
            "holds a NUL",
            "nope:// is no address",
            "`~` in a list is not the home folder",
            "Too many levels of symbolic links",
            "No such file",
            "not a regular file",
            "not a regular file",
        ),
        strict=True,
    ):
        assert expected in reason


def test_files_outside_of_the_lists_folder_are_rejects_with_the_cure(folder):
    lists = folder / "lists"
    lists.mkdir()
    (lists / "own.png").write_bytes(png(5))
    (lists / "link.png").symlink_to(folder / "c.png")
    text = (
        f"path\nown.png\n../a.png\n{folder}/b.png\nlink.png\ns3://bucket/x.png\nfile:///etc/passwd\n{lists}/own.png\n"
    )
    pictures, notes = read(write(lists, text))
    assert [picture.name for picture in pictures if picture.data] == ["own.png"]
    assert notes == {"rows with a picture that an earlier row has": 1}
    refused = [picture for picture in pictures if not picture.data]
    assert [picture.name for picture in refused] == ["a.png", "b.png", "link.png", "x.png", "passwd"]
    assert all(f"lies outside {lists}; move it there, or say allow_outside: true" in one.error for one in refused)
    # Allowed, they are read, though they are known as rejects.
    known = {picture.source: picture.source_version for picture in pictures}
    text = "path\nown.png\n../a.png\nlink.png\n"
    source = open_source(SourceSpec(list=str(write(lists, text)), allow_outside=True))
    assert [picture.data for block in source.blocks(known) for picture in block.pictures()] == [png(0), png(2)]


def test_values_that_python_does_not_have_cost_no_picture(folder):
    when = pa.array([1 << 62, 0, 1], pa.timestamp("us"))
    pq.write_table(pa.table({"path": ["a.png", "b.png", "c.png"], "when": when}), folder / "list.parquet")
    pictures, _ = read(folder / "list.parquet")
    assert [bool(picture.data) for picture in pictures] == [True] * 3
    assert [picture.meta["when"] for picture in pictures] == [None, "1970-01-01T00:00:00", "1970-01-01T00:00:00.000001"]


def test_a_list_with_a_hash_in_its_pictures_names(folder):
    (folder / "a#1.png").write_bytes(png(7))
    (picture,) = read(write(folder, "path\na#1.png\n"))[0]
    assert (picture.name, picture.data, picture.source) == ("a#1.png", png(7), f"{folder}/a%231.png")


# ---- every row counts ----
CELLS = st.sampled_from(
    [
        *(
            "a.png",
            "b.png",
            "sub/../a.png",
            "gone.png",
            "../out.png",
            "",
            " ",
            "x" * 300,
            "a\0b",
            "nope://x",
            "~/a",
            "..",
        ),
        *(
            "http://127.0.0.1:9/x.png",
            "s3://bucket/key",
            "/",
            'say "hi"',
            "two\nlines",
            "a;b,c\td",
            "caf\u00e9",
            "\ufeff",
        ),
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(CELLS, CELLS), max_size=12),
    st.sampled_from(["csv", "tsv", "jsonl", "parquet"]),
    st.sampled_from(",;\t"),
)
def test_pictures_rejects_and_passed_over_are_all_rows(folder, cells, kind, sign):
    file = folder / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"path": [a for a, _ in cells], "text": [b for _, b in cells]}), file)
    elif kind == "jsonl":
        file.write_text("".join(json.dumps({"path": a, "text": b}) + "\n" for a, b in cells), encoding="utf-8")
    else:
        with file.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, delimiter="\t" if kind == "tsv" else sign).writerows([("path", "text"), *cells])
    if not cells or (kind in ("csv", "tsv") and not any(a.strip() or b.strip() for a, b in cells)):
        with pytest.raises(SourceError):
            read(file)
        return
    pictures, notes = read(file)
    assert len(pictures) + sum(notes.values()) == len(cells)
    assert all((picture.data is None) == bool(picture.error) for picture in pictures)
    # What can be read is read, once, with its own text.
    good = [a.replace("sub/../", "") for a, _ in cells if a in ("a.png", "b.png", "sub/../a.png")]
    assert Counter(picture.name for picture in pictures if picture.data) == Counter(set(good))
    for picture in pictures:
        if picture.data:
            first = next(b for a, b in cells if a.replace("sub/../", "") == picture.name)
            assert (picture.caption or "") == first
    source = open_source(SourceSpec(list=str(file)))
    assert len(list(source.listing())) == len(cells) - notes.get("lines with nothing in them", 0)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(st.sampled_from('ab.png,;"\n\r\t\0{}:[] \u00e9'), max_size=60),
    st.sampled_from(["csv", "tsv", "jsonl", "parquet"]),
)
def test_no_list_ends_in_a_traceback(folder, text, kind):
    file = folder / f"list.{kind}"
    file.write_text(("" if kind in ("jsonl", "parquet") else "path,caption\n") + text, encoding="utf-8", newline="")
    try:
        pictures, message = read(file)[0], ""
    except DiffStyleError as error:
        pictures, message = [], str(error)
    assert "\n" not in message
    assert all((picture.data is None) == bool(picture.error) for picture in pictures)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.text(max_size=6), min_size=2, max_size=2), max_size=8), st.sampled_from(",;\t"))
def test_what_a_csv_writer_writes_is_read_back(folder, cells, sign):
    file = folder / "list.csv"
    with file.open("w", encoding="utf-8", newline="", errors="replace") as stream:
        writer = csv.writer(stream, delimiter=sign, quoting=csv.QUOTE_ALL)
        writer.writerow(["one", "two"])
        writer.writerows(cells)
    if any("\r" in cell or "\udc00" <= char <= "\udfff" for row in cells for cell in row for char in cell or " "):
        return
    found = [[row.values["one"] or "", row.values["two"] or ""] for row in Rows(Place.parse(file))]
    assert found == [row for row in cells if any(cell.strip() for cell in row)]
