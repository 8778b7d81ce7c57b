"""Parquet: every way to hold a picture in a column, and values that cost no picture."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data_sets import encoded, opened, write

from pipeline.sources import SourceError, SourceSpec, open_source
from pipeline.storage.errors import Stopped

PICTURES = [encoded(n) for n in range(3)]
# Of one length, for columns of fixed width.
SAME = [data.ljust(max(map(len, PICTURES)), b"\0") for data in PICTURES]


def table(folder: Path, columns: dict, name: str = "t.parquet", **options) -> str:
    pq.write_table(pa.table(columns), folder / name, **options)
    return str(folder / name)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("image", pa.array(PICTURES, pa.binary())),
        ("image", pa.array(PICTURES, pa.large_binary())),
        ("image", pa.array(PICTURES).dictionary_encode()),
        ("image", pa.array(SAME, pa.binary(len(SAME[0])))),
        ("image", pa.array([list(data) for data in PICTURES], pa.list_(pa.uint8()))),
        ("image", pa.array([list(data) for data in PICTURES], pa.large_list(pa.uint8()))),
        ("image", pa.array([list(data) for data in SAME], pa.list_(pa.uint8(), len(SAME[0])))),
        ("image", pa.array([np.frombuffer(data, np.int8) for data in PICTURES], pa.list_(pa.int8()))),
        ("image", pa.array([base64.b64encode(data).decode() for data in PICTURES])),
        ("image", pa.array([base64.encodebytes(data).decode() for data in PICTURES], pa.large_string())),
        ("shot_b64", pa.array(["data:image/png;base64," + base64.b64encode(data).decode() for data in PICTURES])),
        ("image", pa.array([{"bytes": data, "path": None} for data in PICTURES])),
        (
            "image",
            pa.array(
                [{"bytes": data, "path": "x"} for data in PICTURES],
                pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())]),
            ),
        ),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else value,
)
def test_columns_of_pictures(tmp_path, name, column):
    _, pictures = opened(table(tmp_path, {"n": [1, 2, 3], name: column}))  # the kind and the column are recognised
    assert [(p.data.rstrip(b"\0"), p.meta) for p in pictures] == [
        (data.rstrip(b"\0"), {"n": n}) for n, data in enumerate(PICTURES, 1)
    ]
    _, named = opened({"parquet": str(tmp_path / "t.parquet"), "image_column": name})
    assert named == pictures


def test_texts_that_are_no_pictures_are_paths(tmp_path):
    write(tmp_path, {"9j/a.png": encoded(1)})
    _, (picture,) = opened(table(tmp_path, {"image": ["9j/a.png"]}))
    assert picture.data == encoded(1)


def test_lists_of_pictures_are_named(tmp_path):
    for column in (pa.array([PICTURES]), pa.array([[{"bytes": PICTURES[0], "path": "x"}]])):
        file = table(tmp_path, {"images": column})
        for spec in ({"parquet": file}, {"parquet": file, "image_column": "images"}):
            with pytest.raises(SourceError, match=r"column images holds lists of pictures; give each picture a row"):
                opened(spec)


def test_hashes_are_no_pictures_and_no_meta(tmp_path):
    hashes = pa.array([bytes(32)] * 3, pa.binary(32))
    _, pictures = opened(table(tmp_path, {"sha256": hashes, "shot": PICTURES, "views": [[data] for data in PICTURES]}))
    assert [p.data for p in pictures] == PICTURES
    assert pictures[0].meta["sha256"] is None
    assert "views" not in pictures[0].meta


broken_text = pa.StringArray.from_buffers(
    3, pa.py_buffer(np.array([0, 1, 3, 4], np.int32).tobytes()), pa.py_buffer(b"a\xff\xfeb")
)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([1, 2**62, 3], pa.timestamp("us")), "a timestamp[us] that can't be read"),
        (pa.array([1, 2**30, 3], pa.date32()), "a date32[day] that can't be read"),
        (pa.array([1, 2, 3], pa.timestamp("us", tz="Mars/Olympus")), "a timestamp[us, tz=Mars/Olympus] that can't"),
        (broken_text, "not readable as UTF-8"),
        (pa.array([[1.5], [0.123456789] * 400_000, None]), "a list of over 4,194,304 letters as JSON"),
        (pa.array(["a", "b" * (5 << 20), "c"]), "a text of 5,242,880 letters"),
    ],
    ids=["timestamp", "date", "zone", "text", "large", "long"],
)
def test_values_that_cannot_be_read_are_null_with_a_note(tmp_path, column, reason):
    _, pictures = opened(table(tmp_path, {"image": PICTURES, "x": column, "y": ["p", "q", "r"]}))
    assert [p.data for p in pictures] == PICTURES
    assert pictures[1].meta["x"] is None
    assert pictures[1].meta["y"] == "q"
    assert f"x: {reason}" in pictures[1].meta["metadata_error"]


def test_a_caption_that_cannot_be_read_is_null(tmp_path):
    _, pictures = opened(table(tmp_path, {"image": PICTURES, "caption": broken_text}))
    assert [p.caption for p in pictures] == ["a", None, "b"]


def test_a_damaged_column_costs_no_picture(tmp_path):
    texts = ["".join(random.Random(n).choices("abcdefgh", k=4000)) for n in range(40)]
    columns = {"image": [encoded(n) for n in range(40)], "text": texts}
    file = Path(table(tmp_path, columns, use_dictionary=False, compression="zstd", row_group_size=20))
    data = bytearray(file.read_bytes())
    chunk = pq.read_metadata(file).row_group(1).column(1)
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[middle : middle + 500] = bytes(500)
    file.write_bytes(data)
    _, pictures = opened(str(file))
    assert [p.data for p in pictures] == columns["image"]
    assert [p.caption for p in pictures[:20]] == texts[:20]
    assert "the other columns can't be read" in pictures[39].meta["metadata_error"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("s3://no-such-bucket-of-anybody/x.png", "lies outside"),
        ("/etc/passwd", "lies outside"),
        ("../other.png", "lies outside"),
        ("https://example.org/a.png", "no path of a file"),
        ("gone.png", "gone.png: No such file or directory"),
        ("nul\0.png", "lies outside"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_a_bad_path_costs_its_own_row(tmp_path, path, reason):
    write(tmp_path, {"set/good.png": encoded(7), "other.png": encoded(8)})
    rows = [{"bytes": None, "path": path}, {"bytes": None, "path": "good.png"}, {"bytes": encoded(9), "path": path}]
    _, pictures = opened(table(tmp_path / "set", {"image": rows}))
    assert reason in pictures[0].error
    assert len(pictures[0].error) < 6000
    assert [p.data for p in pictures[1:]] == [encoded(7), encoded(9)]


def test_paths_outside_where_they_are_allowed(tmp_path):
    write(tmp_path, {"set/x": b"", "other.png": encoded(8)})
    file = table(
        tmp_path / "set", {"image": [{"bytes": None, "path": "../other.png"}, {"bytes": encoded(9), "path": ""}]}
    )
    _, pictures = opened({"parquet": file, "allow_outside": True})
    assert [p.data for p in pictures] == [encoded(8), encoded(9)]


def test_a_store_that_does_not_answer_is_no_fault_of_a_picture(tmp_path, monkeypatch):
    """Else an hour without a network would make rejects of a whole data set."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setattr("pipeline.storage.place._FILE_SYSTEMS", {})
    monkeypatch.setattr("pipeline.storage.first_answer.PATIENCE", 1.0)  # the real one is tested where it lives
    rows = [{"bytes": None, "path": "s3://bucket/x.png"}, {"bytes": encoded(9), "path": ""}]
    file = table(tmp_path, {"image": rows})
    with pytest.raises(Stopped, match=r"s3://bucket/x\.png: "):
        opened({"parquet": file, "allow_outside": True})


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("struct", [False, True])
def test_millions_of_rows_without_a_picture_are_counted_and_not_listed(tmp_path, statistics, struct):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
    nulls, one = pa.nulls(3_000_000, kind), pa.array([{"bytes": encoded(), "path": "a"} if struct else encoded()], kind)
    with pq.ParquetWriter(tmp_path / "t.parquet", pa.schema([("image", kind)]), write_statistics=statistics) as writer:
        for column in (one, nulls, one):
            writer.write_table(pa.table({"image": column}), row_group_size=len(column))
    source, pictures = opened({"parquet": str(tmp_path / "t.parquet")})
    assert [(p.source.rpartition("#")[2], p.data) for p in pictures] == [("0", encoded()), ("3000001", encoded())]
    assert source.passed_over.line() == (
        "passed over 3000000 rows without a picture, a whole row group of them (t.parquet from row 1)"
    )


def test_rows_that_are_passed_over_keep_their_places_and_count_for_the_limit(tmp_path):
    rows = [encoded(1), *[None] * 20_000, encoded(2), encoded(3)]
    with pq.ParquetWriter(tmp_path / "t.parquet", pa.schema([("image", pa.binary())])) as writer:
        for part in (rows[:1], rows[1:-2], rows[-2:]):
            writer.write_table(pa.table({"image": pa.array(part, pa.binary())}), row_group_size=len(part))
    for limit in (None, 20_002, 20_001, 500, 1):
        source = open_source(SourceSpec(parquet=str(tmp_path / "t.parquet"), limit=limit))
        listing = list(source.listing())
        assert len(listing) == min(limit or len(rows), len(rows)) == source.count()
        wanted = [n for n in (0, 20_001, 20_002) if n < len(listing)]
        assert [n for n, name in enumerate(listing) if name] == wanted
        assert [item.source for block in source.blocks({}) for item in block.items] == [listing[n] for n in wanted]


@pytest.mark.parametrize("statistics", [True, False])
def test_one_picture_among_many_nulls_is_no_row_group_without_pictures(tmp_path, statistics):
    rows = pa.array([*[None] * 12_000, encoded(4)], pa.binary())
    source, pictures = opened(table(tmp_path, {"image": rows}, write_statistics=statistics))
    assert [p.data for p in pictures if p.data] == [encoded(4)]
    assert len(pictures) == 12_001
    assert not source.passed_over


def test_a_table_of_nothing_but_nulls_is_one_line(tmp_path):
    file = table(tmp_path, {"image": pa.nulls(20_000, pa.binary())})
    with pytest.raises(SourceError, match=r"no rows with pictures; passed over 20000"):
        opened(file)


def test_one_file_that_is_no_parquet_costs_the_others_nothing(tmp_path):
    write(tmp_path, {"a.parquet": b"junk" * 100})
    table(tmp_path, {"image": PICTURES}, "b.PARQUET")
    _, pictures = opened({"parquet": str(tmp_path)})
    assert [p.data for p in pictures] == [None, *PICTURES]
    assert "not a Parquet file" in pictures[0].error


@pytest.mark.parametrize("field", ["image_column", "label_column", "caption_column"])
def test_fields_that_say_nothing_of_a_kind_are_refused(tmp_path, field):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"a", encoded())
    write(tmp_path, {"set/a.png": encoded()})
    for spec in ({"lmdb": str(tmp_path / "db")}, {"folder": str(tmp_path / "set")}):
        if "lmdb" in spec or field == "image_column":
            with pytest.raises(SourceError, match=f"{field} says nothing of a (lmdb|folder); remove it"):
                opened({**spec, field: "x"})
