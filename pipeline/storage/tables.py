"""Small Parquet tables that must be right: they carry checksums, and reading checks them.

A Parquet page has a CRC-32, but nothing guards what stands around the pages: one flipped bit in a page's header or in
the footer can turn a column into nulls. So the footer also holds a checksum over all other bytes of the file, among its
key-value pairs, which other readers pass over. A damaged file is one line that names it; never other rows.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from diffstyle.errors import DiffStyleError, one_line
from pipeline.storage.counts import count
from pipeline.storage.masking import masked
from pipeline.storage.place import Place

#: Columns that say something to people, and that nothing is looked up by.
_SAYING = ("reason", "error", "mask", "edit")

_KEY = "diffstyle-checksum"
_DIGITS = 32
_BLANK = b"-" * _DIGITS  # in the checksum's place while it is computed
# As the footer (Thrift's compact protocol) has the pair: the key, a byte for "a string follows", the value's length.
_MARK = _KEY.encode() + bytes([0x18, _DIGITS])


class DamagedError(DiffStyleError):
    """A file that is not what was written: cut or changed. Says what to do about it."""


class OtherReleaseError(DiffStyleError):
    """A table that is whole, with columns that this release does not know. No damage: nothing may drop it."""


def write_table(stream: BinaryIO, table: pa.Table, about: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write ``table`` as Parquet, compressed, with a checksum for each page and one for the whole file.

    Secrets are masked in what it says of failures and masks. ``about`` is kept in the footer, for :func:`read_about`.
    """
    table = _without_secrets(table)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({**about, _KEY: _BLANK.decode()})
    data = sink.getvalue()
    at = data.rindex(_MARK) + len(_MARK)
    view = memoryview(data)
    for piece in (view[:at], _checksum(data, at), view[at + _DIGITS :]):
        stream.write(piece)


def _without_secrets(table: pa.Table) -> pa.Table:
    for name in _SAYING:
        if name in table.column_names:
            texts = table[name].to_pylist()
            hidden = [text and masked(text) for text in texts]
            if hidden != texts:
                field = table.field(name)
                table = table.set_column(table.column_names.index(name), field, pa.array(hidden, field.type))
    return table


def _checksum(data: bytes, at: int) -> bytes:
    """Of all bytes but those of the checksum itself, which are at ``at``."""
    state, view = hashlib.blake2b(digest_size=_DIGITS // 2), memoryview(data)
    for piece in (view[:at], _BLANK, view[at + _DIGITS :]):
        state.update(piece)
    return state.hexdigest().encode()


def _check(place: Place, data: bytes, cure: str) -> None:
    at = data.rfind(_MARK) + len(_MARK)
    if at < len(_MARK) or data[at : at + _DIGITS] != _checksum(data, at):
        raise DamagedError(f"{place}: not readable (it was cut, or bytes have changed since it was written); {cure}")


def read_about(place: Place, *, cure: str) -> dict[str, str]:
    """What :func:`write_table` was told to keep beside a table. DamagedError for a file that is not whole."""
    data = place.read_bytes()
    _check(place, data, cure)
    try:
        stored = pq.read_metadata(pa.BufferReader(data)).metadata
        return {name.decode(): value.decode() for name, value in stored.items() if name != b"ARROW:schema"}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(f"{place}: not readable ({one_line(error, most=160)}); {cure}") from error


def read_table(
    place: Place,
    schema: pa.Schema | None,
    columns: Sequence[str] | None = None,
    *,
    cure: str,
    data: bytes | None = None,
) -> pa.Table:
    """The table in a file, in the columns of ``schema`` or, decoding only these, in ``columns``.

    Args:
        place: The file.
        schema: What was written. A column that the file lacks reads as null, one that the schema lacks is an error.
            None: ``columns`` of any type, all of them and no others.
        columns: Those wanted, in this order; None: all.
        cure: What to do about a damaged file; ends the error's line.
        data: The file's bytes, where they have been read already.

    Raises:
        DamagedError: The file is not as it was written.
        OtherReleaseError: It is, but has columns that are none of the schema's.
        FileNotFoundError: There is no such file.
    """
    data = place.read_bytes() if data is None else data
    _check(place, data, cure)
    try:  # from memory: an OSError is Parquet's, not the disk's
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        stored_schema = file.schema_arrow
        if schema is None:
            if stored_schema.names != list(columns or ()):
                raise pa.ArrowInvalid(f"its columns are {stored_schema.names}, not {list(columns or ())}")
            schema = stored_schema.remove_metadata()
        names = list(schema.names if columns is None else columns)
        for field in stored_schema:
            if schema.get_field_index(field.name) < 0 or not schema.field(field.name).equals(field):
                raise OtherReleaseError(
                    f"{place}: written by another release of diffstyle (column {field.name!r}, {field.type}, is none "
                    "of this one's), and not damaged; use that release, or give the job another output folder"
                )
        stored = file.read([name for name in names if stored_schema.get_field_index(name) >= 0], use_threads=False)
        if len(stored) != file.metadata.num_rows:
            raise pa.ArrowInvalid(f"{count(len(stored), 'row')} where the file says {file.metadata.num_rows}")
        arrays = [
            stored[name] if name in stored.column_names else pa.nulls(len(stored), schema.field(name).type)
            for name in names
        ]
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DamagedError(f"{place}: not readable ({one_line(error, most=160)}); {cure}") from error
    return pa.Table.from_arrays(arrays, schema=pa.schema([schema.field(name) for name in names]))
