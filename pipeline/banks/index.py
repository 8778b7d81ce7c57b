"""Reading a bank's index: the committed parts, and a copy of many of them in one file that is quicker to read.

Decoding a small Parquet file takes a millisecond whatever is in it, and a bank of 100,000 has thousands. So the writer
keeps ``index.snapshot`` beside the index: the rows of all parts, with the hash of each part's file. A reader still
reads every part's bytes (a hundredth of the cost) and takes the snapshot's rows only for parts whose hash is the one
noted; other parts it decodes. So a snapshot can be old, missing or deleted, and the bank reads the same.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.banks.description import BankDescription
from pipeline.banks.tensors import BankError
from pipeline.storage.identity import digest
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.tables import DamagedError, OtherReleaseError, read_table, write_table

log = logging.getLogger(__name__)

# The hash of what follows, a line of JSON (part -> hash, rows), and the rows as Parquet.
SNAPSHOT = "index.snapshot"
_HASH_LENGTH = len(digest(b""))
SNAPSHOT_AFTER = 64  # parts that the last snapshot lacks: fewer are read in a tenth of a second

_CURE = "run `diffstyle bank repair` on the bank"

# A bank may come from a stranger. Its index names files (data), and keys and hashes name files that are made from it:
# none of them may lead out of a folder.
_NAMES = {
    "data": r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    "image": r"^[0-9a-f]{32}$",
    "key": r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$",
}


def read_description(store: PartStore) -> tuple[BankDescription, dict[str, Any]]:
    """The store's description and what else is good to know. Raises DescriptionError or BankError."""
    stored = store.description()
    return BankDescription.from_dict(stored.get("identity", {}), str(store.root)), stored.get("about", {})


class BankIndex:
    """The index of a bank with this description. Holds nothing but the address."""

    def __init__(self, store: PartStore, description: BankDescription):
        self.store = store
        self.description = description

    # ---- the parts ----
    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All committed rows, failed ones included. BankError, naming the file, if a part of the index is broken."""
        snapshot = self._snapshot(columns)
        tables: list[pa.Table] = []
        start = end = 0  # rows of the snapshot that are to be taken in one piece
        for part, data in self._files():
            rows = snapshot.rows_of(part, data) if snapshot else None
            if snapshot and rows is not None and rows[0] == end:
                end = rows[1]
                continue
            if snapshot and end > start:
                tables.append(snapshot.table.slice(start, end - start))
            start, end = rows or (0, 0)
            if rows is None:
                tables.append(self._decode(part, data, columns))
        if snapshot and end > start:
            tables.append(snapshot.table.slice(start, end - start))
        if tables:
            return pa.concat_tables(tables)
        schema = self.description.index_schema
        return (schema if columns is None else pa.schema([schema.field(name) for name in columns])).empty_table()

    def part(self, part: str) -> pa.Table:
        """The rows of one part. BankError if the file is not readable."""
        return self._decode(part, self._file(part).read_bytes(), None)

    def tensor_parts(self) -> dict[str, list[dict[str, Any]]]:
        """Part -> its rows, of the parts with a payload of their own; other names and failures have none."""
        names = self.store.parts()
        with ThreadPoolExecutor(8) as pool:
            tables = pool.map(lambda part: self.part(part).to_pylist(), names)
            rows_of = dict(zip(names, tables, strict=True))
        parts = {part: [row for row in rows if row["data"] == part] for part, rows in rows_of.items()}
        return {part: sorted(rows, key=lambda row: row["row"]) for part, rows in parts.items() if rows}

    def commit(self, part: str, rows: pa.Table | Iterable[Mapping[str, Any]]) -> None:
        """Make a part count. BankError for a row whose key, image or data could not be a file's name."""
        table = self.description.index_rows(rows)
        check_names(table, self._file(part))
        self.store.commit(part, table)

    def _file(self, part: str) -> Place:
        return self.store.index(part)

    def _files(self) -> Iterator[tuple[str, bytes]]:
        """Every part's name and the bytes of its file."""
        parts = self.store.parts()
        if self.store.root.is_local:
            for part in parts:
                yield part, self._file(part).read_bytes()
            return
        with ThreadPoolExecutor(16) as pool:
            yield from zip(parts, pool.map(lambda part: self._file(part).read_bytes(), parts), strict=True)

    def _decode(self, part: str, data: bytes, columns: list[str] | None) -> pa.Table:
        place = self._file(part)
        try:
            table = read_table(place, self.description.index_schema, columns, cure=_CURE, data=data)
        except DamagedError as error:
            raise BankError(str(error)) from error
        check_names(table, place)
        return table

    # ---- the snapshot ----
    def _snapshot(self, columns: list[str] | None) -> _Snapshot | None:
        place = self.store.root / SNAPSHOT
        try:
            data = place.read_bytes()
            body = data[_HASH_LENGTH:]
            if digest(body).encode() != data[:_HASH_LENGTH]:
                raise ValueError("its bytes have changed since it was written")
            head, _, table_bytes = body.partition(b"\n")
            parts = json.loads(head)
            table = read_table(place, self.description.index_schema, columns, cure="", data=table_bytes)
            check_names(table, place)
            if not isinstance(parts, dict) or not all(_is_noted(noted, len(table)) for noted in parts.values()):
                raise ValueError("it does not say which rows are of which part")
        except FileNotFoundError:
            return None
        except (DamagedError, OtherReleaseError, BankError, ValueError) as error:
            # Not needed for anything but speed. `bank verify` says it as well.
            log.warning("%s: not readable (%s), so the index is read part by part; delete it", place, error)
            return None
        return _Snapshot(table, {part: (noted[0], noted[1], noted[2]) for part, noted in parts.items()})

    def write_snapshot(self, after: int | None = None) -> bool:
        """Write a new snapshot if the last one lacks at least ``after`` parts; returns whether it did. For writers."""
        after = SNAPSHOT_AFTER if after is None else after
        if len(self.store.parts()) < after:
            return False
        snapshot = self._snapshot(None)
        tables, parts, n_rows, lacking = [], {}, 0, 0
        for part, data in self._files():
            rows = snapshot.rows_of(part, data) if snapshot else None
            lacking += rows is None
            if snapshot and rows is not None:
                table = snapshot.table.slice(rows[0], rows[1] - rows[0])
            else:
                table = self._decode(part, data, None)
            tables.append(table)
            parts[part] = (digest(data), n_rows, n_rows + len(table))
            n_rows += len(table)
        if lacking < max(after, 1):
            return False
        sink = io.BytesIO()
        write_table(sink, pa.concat_tables(tables).combine_chunks())
        body = json.dumps(parts).encode() + b"\n" + sink.getvalue()
        (self.store.root / SNAPSHOT).write_bytes(digest(body).encode() + body)
        return True

    def delete_snapshot(self) -> None:
        """Before rows are dropped that no file should hold any more."""
        (self.store.root / SNAPSHOT).delete()

    def check_snapshot(self) -> str | None:
        """What is wrong with the snapshot, if there is one: rows that are not those of the part they stand for."""
        if not (self.store.root / SNAPSHOT).is_file():
            return None
        snapshot = self._snapshot(None)
        if snapshot is None:
            return "not readable, or of another release"
        for part, data in self._files():
            rows = snapshot.rows_of(part, data)
            if rows is not None and not snapshot.table.slice(rows[0], rows[1] - rows[0]).equals(
                self._decode(part, data, None)
            ):
                return f"its rows of {part} are not those of the index"
        return None


@dataclass(frozen=True)
class _Snapshot:
    table: pa.Table
    parts: dict[str, tuple[str, int, int]]  # part -> hash of its file, its first row here, the row behind its last

    def rows_of(self, part: str, data: bytes) -> tuple[int, int] | None:
        """Where the rows of the part with these bytes are; None if the snapshot has not these."""
        noted = self.parts.get(part)
        return noted[1:] if noted is not None and noted[0] == digest(data) else None


def _is_noted(noted: object, rows: int) -> bool:
    """Whether it is a part's hash, its first row, and the row behind its last."""
    if not isinstance(noted, list) or len(noted) != 3 or not all(type(n) is int for n in noted[1:]):
        return False
    return 0 <= noted[1] <= noted[2] <= rows


def check_names(table: pa.Table, place: Place) -> None:
    """BankError, naming the file, for a row whose data, image or key could lead out of a folder."""
    for name, rule in _NAMES.items():
        if name not in table.column_names:
            continue
        good = pc.match_substring_regex(table[name], rule)
        if pc.all(good, min_count=0).as_py() is False:
            wrong = table[name].filter(pc.invert(good))[0].as_py()
            raise BankError(
                f"{place}: {name} is {wrong!r}, which is no name that this project gives; do not use this bank, or "
                "drop the file with `diffstyle bank repair`"
            )
