"""Reading a bank's index: the committed parts, and a copy of many of them in one file that is quicker to read.

Decoding a small Parquet file takes a millisecond whatever is in it, and a bank of 100,000 has thousands. So the writer
keeps ``index.snapshot`` beside the index: the rows of all parts, with the hash of each part's file. A reader still
reads every part's bytes (a hundredth of the cost) and takes the snapshot's rows only for parts whose hash is the one
noted; other parts it decodes. So a snapshot can be old, missing or deleted, and the bank reads the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.banks.description import INDEX_SCHEMA, BankDescription, BankError
from pipeline.storage.identity import digest
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place

log = logging.getLogger(__name__)

# The hash of what follows, a line of JSON (part -> hash, rows), and the rows as Parquet.
SNAPSHOT = "index.snapshot"
_HASH_LENGTH = len(digest(b""))
SNAPSHOT_AFTER = 64  # parts that the last snapshot lacks: fewer are read in a tenth of a second


def read_description(store: PartStore) -> tuple[BankDescription, dict[str, Any]]:
    """The store's description and what else is good to know. Raises DescriptionError or BankError."""
    stored = store.description()
    return BankDescription.from_dict(stored.get("identity", {}), str(store.root)), stored.get("about", {})


def read_index(store: PartStore, columns: list[str] | None = None) -> pa.Table:
    """All committed rows, failed ones included. BankError, naming the file, if a part of the index is broken."""
    snapshot = _read_snapshot(store, columns)
    tables: list[pa.Table] = []
    start = end = 0  # rows of the snapshot that are to be taken in one piece
    for part, data in _files(store):
        rows = snapshot.rows_of(part, data) if snapshot else None
        if snapshot and rows is not None and rows[0] == end:
            end = rows[1]
            continue
        if snapshot and end > start:
            tables.append(snapshot.table.slice(start, end - start))
        start, end = rows or (0, 0)
        if rows is None:
            tables.append(_decode(data, _file(store, part), columns))
    if snapshot and end > start:
        tables.append(snapshot.table.slice(start, end - start))
    return pa.concat_tables(tables) if tables else _index_schema(columns).empty_table()


def read_index_part(store: PartStore, part: str, columns: list[str] | None = None) -> pa.Table:
    """The rows of one part; a column that it lacks reads as null. BankError if the file is not readable."""
    place = _file(store, part)
    return _decode(place.read_bytes(), place, columns)


def tensor_parts(store: PartStore) -> dict[str, list[dict[str, Any]]]:
    """Part -> its rows, of the parts with a payload of their own; other names and failures are index parts alone."""
    names = store.parts()
    with ThreadPoolExecutor(8) as pool:
        tables = pool.map(lambda part: read_index_part(store, part).to_pylist(), names)
        parts = {part: [row for row in rows if row["data"] == part] for part, rows in zip(names, tables, strict=True)}
    return {part: sorted(rows, key=lambda row: row["row"]) for part, rows in parts.items() if rows}


def _file(store: PartStore, part: str) -> Place:
    return store.index_folder / f"{part}.parquet"


def _files(store: PartStore) -> Iterator[tuple[str, bytes]]:
    """Every part's name and the bytes of its file."""
    parts = store.parts()
    if store.root.is_local:
        for part in parts:
            yield part, _file(store, part).read_bytes()
        return
    with ThreadPoolExecutor(16) as pool:
        yield from zip(parts, pool.map(lambda part: _file(store, part).read_bytes(), parts), strict=True)


def _decode(data: bytes, place: Place, columns: list[str] | None) -> pa.Table:
    wanted = _index_schema(columns)
    try:
        there = pq.ParquetFile(pa.BufferReader(data)).read(columns, use_threads=False)
        if there.schema.equals(wanted):
            return there.replace_schema_metadata()
        arrays = [
            there[field.name].cast(field.type) if field.name in there.column_names else pa.nulls(len(there), field.type)
            for field in wanted
        ]
        return pa.Table.from_arrays(arrays, schema=wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        first = str(error).splitlines()[0]
        raise BankError(f"{place}: not readable ({first}); run `diffstyle bank repair`") from error


def _index_schema(columns: list[str] | None) -> pa.Schema:
    return INDEX_SCHEMA if columns is None else pa.schema([INDEX_SCHEMA.field(name) for name in columns])


# ---- the snapshot ----
@dataclass(frozen=True)
class _Snapshot:
    table: pa.Table
    parts: dict[str, tuple[str, int, int]]  # part -> hash of its file, its first row here, the row behind its last

    def rows_of(self, part: str, data: bytes) -> tuple[int, int] | None:
        """Where the rows of the part with these bytes are; None if the snapshot has not these."""
        noted = self.parts.get(part)
        return noted[1:] if noted is not None and noted[0] == digest(data) else None


def _read_snapshot(store: PartStore, columns: list[str] | None) -> _Snapshot | None:
    place = store.root / SNAPSHOT
    try:
        data = place.read_bytes()
        body = data[_HASH_LENGTH:]
        if digest(body).encode() != data[:_HASH_LENGTH]:
            raise ValueError("its bytes have changed since it was written")
        head, _, table_bytes = body.partition(b"\n")
        parts = json.loads(head)
        file = pq.ParquetFile(pa.BufferReader(table_bytes))
        if not file.schema_arrow.equals(INDEX_SCHEMA):
            return None  # of another release; the next writer makes it anew
        table = file.read(columns).replace_schema_metadata()
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, ValueError) as error:
        # Not needed for anything but speed. `bank verify` says it as well.
        log.warning("%s: not readable (%s), so the index is read part by part; delete it", place, error)
        return None
    return _Snapshot(table, {part: (noted[0], noted[1], noted[2]) for part, noted in parts.items()})


def write_snapshot(store: PartStore, after: int | None = None) -> bool:
    """Write the snapshot anew if it lacks at least ``after`` parts; returns whether it did. For writers."""
    after = SNAPSHOT_AFTER if after is None else after
    if len(store.parts()) < after:
        return False
    snapshot = _read_snapshot(store, None)
    tables, parts, n_rows, lacking = [], {}, 0, 0
    for part, data in _files(store):
        rows = snapshot.rows_of(part, data) if snapshot else None
        lacking += rows is None
        if snapshot and rows is not None:
            table = snapshot.table.slice(rows[0], rows[1] - rows[0])
        else:
            table = _decode(data, _file(store, part), None)
        tables.append(table)
        parts[part] = (digest(data), n_rows, n_rows + len(table))
        n_rows += len(table)
    if lacking < max(after, 1):
        return False
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables).combine_chunks(), sink, compression="zstd")
    body = json.dumps(parts).encode() + b"\n" + sink.getvalue().to_pybytes()
    (store.root / SNAPSHOT).write_bytes(digest(body).encode() + body)
    return True


def delete_snapshot(store: PartStore) -> None:
    """Before rows are dropped that no file should hold any more."""
    (store.root / SNAPSHOT).delete()


def check_snapshot(store: PartStore) -> str | None:
    """What is wrong with the snapshot, if there is one: rows that are not those of the part they stand for."""
    if not (store.root / SNAPSHOT).is_file():
        return None
    snapshot = _read_snapshot(store, None)
    if snapshot is None:
        return "not readable, or of another release"
    for part, data in _files(store):
        rows = snapshot.rows_of(part, data)
        if rows is not None and not snapshot.table.slice(rows[0], rows[1] - rows[0]).equals(
            _decode(data, _file(store, part), None)
        ):
            return f"its rows of {part} are not those of the index"
    return None
