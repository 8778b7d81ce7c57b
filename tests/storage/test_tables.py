"""Tables with checksums: a flipped bit is one line; never other rows, never a traceback."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage.place import Place
from pipeline.storage.tables import DamagedError, OtherReleaseError, read_table, write_table

SCHEMA = pa.schema(
    [("key", pa.string()), ("n", pa.int32()), ("x", pa.float64()), ("when", pa.timestamp("us", tz="UTC"))]
)
TABLE = pa.Table.from_pylist(
    [{"key": f"key-{n % 3}", "n": None if n % 5 == 0 else n, "x": n / 7, "when": n * 10**6} for n in range(30)], SCHEMA
)


@pytest.fixture
def place(tmp_path):
    place = Place.parse(tmp_path / "table.parquet")
    with place.writer() as stream:
        write_table(stream, TABLE)
    return place


def flips(data: bytes, every: int):
    """The data with one bit flipped, at every n-th byte, another bit each time."""
    for at in range(0, len(data), every):
        yield at, data[:at] + bytes([data[at] ^ (1 << (at // every) % 8)]) + data[at + 1 :]


@pytest.mark.parametrize("columns", [None, ["n"], ["when", "key"]])
def test_a_flipped_bit_is_one_line(place, columns):
    whole = place.read_bytes()
    wanted = TABLE if columns is None else TABLE.select(columns)
    assert read_table(place, SCHEMA, columns, cure="").equals(wanted)
    for _, data in flips(whole, 1):
        with pytest.raises(DamagedError) as caught:
            read_table(place, SCHEMA, columns, cure="delete it", data=data)
        assert str(caught.value).startswith(f"{place}: not readable (")
        assert str(caught.value).endswith("; delete it")
        assert "\n" not in str(caught.value)


def test_a_cut_file_is_one_line(place):
    whole = place.read_bytes()
    for length in range(0, len(whole), 7):
        with pytest.raises(DamagedError, match="delete it"):
            read_table(place, SCHEMA, cure="delete it", data=whole[:length])


def test_columns_that_a_file_lacks_are_null_and_those_of_another_release_are_refused(place):
    more = pa.schema([*SCHEMA, ("later", pa.string())])
    assert read_table(place, more, cure="")["later"].null_count == 30
    for schema in (SCHEMA.remove(0), SCHEMA.set(1, pa.field("n", pa.int64()))):
        with pytest.raises(OtherReleaseError, match="is none of this one's"):
            read_table(place, schema, cure="")


def test_any_type_where_no_schema_is_given(place):
    assert read_table(place, None, SCHEMA.names, cure="").equals(TABLE)
    with pytest.raises(DamagedError, match="its columns are"):
        read_table(place, None, ["key", "n"], cure="")


def test_missing_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_table(Place.parse(tmp_path / "none.parquet"), SCHEMA, cure="")


def test_any_reader_reads_it_and_can_check_its_pages(place):
    data = place.read_bytes()
    assert pq.read_table(pa.BufferReader(data)).equals(TABLE)
    crc = 0
    for _, flipped in flips(data, 1):
        try:
            pq.ParquetFile(pa.BufferReader(flipped), page_checksum_verification=True).read()
        except (OSError, pa.ArrowException) as error:
            crc += "CRC" in str(error)
    assert crc > 100


def test_a_table_of_another_maker_is_refused(tmp_path):
    pq.write_table(TABLE, tmp_path / "table.parquet")
    with pytest.raises(DamagedError, match="not readable"):
        read_table(Place.parse(tmp_path / "table.parquet"), SCHEMA, cure="")
