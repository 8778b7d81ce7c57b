"""Whatever a data set holds: pictures, rejects and what is passed over are all of it; no input ends in a traceback."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.data_sets import encoded, member, opened, tar_bytes, write

from pipeline.shards.decode import Undecodable, decode
from pipeline.sources import SourceError, SourceSpec, open_source
from pipeline.sources.tars import MemberAt

CONTENTS = st.sampled_from([encoded(1), encoded(2, "JPEG"), encoded(3)[:40], b"", b"junk", b'{"a": NaN}', b"\xff\xfe"])
STEMS = ["a", "b", "a.b", "é", "x y"]
SUFFIXES = ["png", "JPG", "txt", "TXT", "json", "cls", "xmp", "img", "tar"]
NAMES = st.one_of(
    st.builds("{}.{}".format, st.sampled_from(STEMS), st.sampled_from(SUFFIXES)),
    st.sampled_from(["d", ".h", "._a.png"]),
)
quick = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@pytest.fixture
def folders(tmp_path) -> Iterator[Path]:
    """New folders, one for each example."""

    def new() -> Iterator[Path]:
        n = 0
        while True:
            n += 1
            (tmp_path / str(n)).mkdir()
            yield tmp_path / str(n)

    return new()


def counted(spec: object) -> tuple[int, int, int]:
    """(pictures, rejects, passed over) of a data set; the first two by what decoding says."""
    try:
        source, listed = opened(spec)
    except SourceError:  # no picture at all
        source, listed = open_source(SourceSpec.model_validate(spec)), []
        with pytest.raises(SourceError, match=r"\A[^\n]*\Z"):
            list(source.blocks({}))
    rejects = 0
    for picture in listed:
        try:
            assert (picture.data is None) == (picture.error is not None)
            decode(picture.data or b"", 8)
        except Undecodable:
            rejects += 1
    return len(listed) - rejects, rejects, source.passed_over.total()


def stem_and_suffix(name: str) -> tuple[str, str]:
    stem, _, suffix = name.rpartition(".")
    return (stem, suffix.lower()) if stem else (name, "")


def is_picture(suffix: str, data: bytes) -> bool:
    by_content = suffix in ("", "cls", "img") and data in (encoded(1), encoded(2, "JPEG"), encoded(3)[:40])
    return suffix in ("png", "jpg") or by_content


@quick
@given(st.dictionaries(st.tuples(st.sampled_from(["", "c/", "c/e/"]), NAMES), CONTENTS, min_size=1, max_size=12))
def test_folders(folders, files):
    root = write(next(folders), {"".join(path): data for path, data in files.items()})
    pictures = {
        (folder, stem_and_suffix(name)[0])
        for (folder, name), data in files.items()
        if not name.startswith(".") and is_picture(stem_and_suffix(name)[1], data)
    }
    side_cars = {
        (folder, *stem_and_suffix(name))
        for folder, name in files
        if stem_and_suffix(name)[1] in ("txt", "json") and (folder, stem_and_suffix(name)[0]) in pictures
    }
    assert sum(counted({"folder": str(root)})) + len(side_cars) == len(files)


KINDS = st.sampled_from([tarfile.REGTYPE] * 6 + [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
MEMBERS = st.lists(st.tuples(st.sampled_from(["", "c/"]), NAMES, KINDS, CONTENTS, NAMES), min_size=1, max_size=10)


def made(members, form) -> bytes:
    return tar_bytes(
        *(
            member(folder + name, data if kind == tarfile.REGTYPE else b"", kind, target)
            for folder, name, kind, data, target in members
        ),
        form=form,
    )


@quick
@given(st.lists(MEMBERS, min_size=1, max_size=3), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_tars(folders, parts, form):
    file = next(folders) / "x.tar"
    file.write_bytes(b"".join(made(members, form) for members in parts))
    members = [one for members in parts for one in members if one[2] != tarfile.DIRTYPE]
    spec = {"webdataset": str(file)}
    side_cars: set[int] = set()
    try:
        items = [item for block in open_source(SourceSpec(**spec)).blocks({}) for item in block.items]
        side_cars = {id(one) for item in items if isinstance(item.at, MemberAt) for _, one in item.at.siblings}
    except SourceError:
        pass
    assert sum(counted(spec)) + len(side_cars) == len(members)


@quick
@given(MEMBERS, st.binary(min_size=1, max_size=40), st.integers(0, 8000), st.integers(0, 3000))
def test_damaged_tars_beside_a_good_one(folders, members, junk, at, cut):
    folder = next(folders)
    data = bytearray(made(members, tarfile.PAX_FORMAT))
    data[at : at + len(junk)] = junk
    (folder / "a.tar").write_bytes(data[: len(data) - cut])
    (folder / "b.tar").write_bytes(tar_bytes(member("good.png", encoded(7))))
    _, pictures = opened({"webdataset": str(folder)})
    assert pictures[-1].data == encoded(7)
    assert all((picture.data is None) == (picture.error is not None) for picture in pictures)


ROWS = st.lists(st.one_of(st.none(), CONTENTS), min_size=1, max_size=40)


def column(kind: str, rows: list[bytes | None]) -> pa.Array:
    if kind == "struct":
        return pa.array([None if data is None else {"bytes": data, "path": "x.png"} for data in rows])
    if kind == "base64":
        return pa.array([None if data is None else base64.b64encode(data).decode() for data in rows], pa.string())
    if kind == "numbers":
        return pa.array([None if data is None else list(data) for data in rows], pa.list_(pa.uint8()))
    array = pa.array(rows, pa.binary())
    return array.dictionary_encode() if kind == "dictionary" else array


@quick
@given(ROWS, st.sampled_from(["plain", "dictionary", "struct", "base64", "numbers"]), st.integers(1, 50))
def test_parquet(folders, rows, kind, group):
    file = next(folders) / "x.parquet"
    rows = [encoded(1), *rows]
    pq.write_table(pa.table({"image": column(kind, rows), "n": list(range(len(rows)))}), file, row_group_size=group)
    assert sum(counted(str(file))) == len(rows)


@quick
@given(st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), min_size=1, max_size=6))
@example([(4, 0)])
def test_damaged_parquet_beside_a_good_one(folders, flips):
    folder = next(folders)
    columns = {"image": [encoded(n) for n in range(40)], "text": [f"text {n}" for n in range(40)]}
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, row_group_size=10)
    data = bytearray(stream.getvalue())
    for at, value in flips:
        data[at % len(data)] = value
    (folder / "b.parquet").write_bytes(data)
    pq.write_table(pa.table({name: values[:1] for name, values in columns.items()}), folder / "a.parquet")
    try:
        _, pictures = opened({"parquet": str(folder)})
    except SourceError as error:
        if "unlike" not in str(error):  # its columns are others now
            raise
    else:
        assert pictures[0].data == encoded(0)
