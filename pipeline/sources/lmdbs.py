"""LSUN's lmdb: a database of encoded pictures by key. Needs the optional package lmdb, and a local disk."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.sources.addresses import resolve, stat, version_of
from pipeline.sources.attributes import plain_text
from pipeline.sources.base import MAX_BYTES, Cut, Item, RawPicture, Source, SourceError, failed
from pipeline.storage.errors import reason_of
from pipeline.storage.identity import source_text
from pipeline.storage.place import Place

# Entries that are read with the database open.
_AT_A_TIME = 16


@dataclass(frozen=True, slots=True)
class EntryAt:
    """A database and a key in it."""

    database: Place
    key: bytes


@dataclass(frozen=True)
class LmdbReader:
    """Reads entries of databases; LSUN says nothing of a picture but its key."""

    def read(self, items: Sequence[Item]) -> Iterator[RawPicture]:
        for database, group in itertools.groupby(items, lambda item: item.at.database):
            left = list(group)
            while left:
                # A few at a time, the database closed in between: one process must not hold it open twice.
                few, left = left[:_AT_A_TIME], left[_AT_A_TIME:]
                with _open(database) as environment, _reading(database), environment.begin() as transaction:
                    values = [transaction.get(item.at.key) for item in few]
                for item, value in zip(few, values, strict=True):
                    if value is None:
                        yield failed(item, "the database has no such key any more")
                    elif len(value) > MAX_BYTES:
                        yield failed(item, f"the entry is over {MAX_BYTES:,} bytes")
                    else:
                        yield RawPicture(item.source, item.version, item.name, value)


class LmdbSource(Source):
    """The pictures in one or several databases, in the order of the addresses and then of the keys."""

    def __init__(self, addresses: Sequence[str], base: str | Path | None, limit: int | None):
        super().__init__(", ".join(addresses), LmdbReader(), limit)
        self._databases = [place for address in addresses for place in resolve(address, base)]
        for database in self._databases:
            if not database.is_local:
                raise SourceError(f"{database}: an lmdb is read from a local disk only; copy it there")
            _open(database).close()

    def _cuts(self, known: Mapping[str, str], size: int) -> Iterator[Cut]:
        for database in self._databases:
            file = stat(database / "data.mdb" if database.is_dir() else database)
            version = version_of(file.size, file.mtime_ns) if file else ""
            keys = _keys(database, None, size)
            while keys:
                yield Cut([_item(database, version, key) for key in keys])
                keys = _keys(database, keys[-1], size)

    def _why_empty(self) -> str:
        return f"{self.text}: the database is empty"


def _item(database: Place, version: str, key: bytes) -> Item:
    try:
        name = key.decode("ascii")
    except UnicodeDecodeError:
        name = key.hex()
    return Item(source_text(plain_text(str(database)), name), version, name, EntryAt(database, key))


def _keys(database: Place, after: bytes | None, count: int) -> list[bytes]:
    """The next keys. Opened for each batch: one process must not hold a database open twice."""
    with _open(database) as environment, _reading(database), environment.begin() as transaction:
        cursor = transaction.cursor()
        has_key = cursor.first() if after is None else cursor.set_range(after)
        if has_key and after is not None and cursor.key() == after:
            has_key = cursor.next()
        if not has_key:
            return []
        return [bytes(key) for key in itertools.islice(cursor.iternext(keys=True, values=False), count)]


@contextlib.contextmanager
def _reading(database: Place) -> Iterator[None]:
    """Turn what a damaged database raises into one line that names it."""
    import lmdb

    try:
        yield
    except lmdb.Error as error:
        raise SourceError(f"{database}: a damaged lmdb database ({reason_of(error)}); fetch it again") from error


def _open(database: Place) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise SourceError(
            f"{database}: reading an lmdb needs the package lmdb: pip install 'diffstyle[lmdb]'"
        ) from error
    try:
        return lmdb.open(database.path, subdir=database.is_dir(), readonly=True, lock=False, readahead=False)
    except (lmdb.Error, OSError) as error:
        raise SourceError(f"{database}: not an lmdb database ({reason_of(error)}); check the path") from error
