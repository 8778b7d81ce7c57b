"""Stage 1: prepared pictures in WebDataset shards, with an index and a table of rejects.

Workers read, decode and write the payload of a part (``write_block``) and hand its rows back; the driver commits
(:meth:`ShardStore.commit`). Every picture of the source ends in exactly one row: of the index, or of the rejects.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

import diffstyle
from diffstyle.errors import DiffStyleError, one_line
from pipeline.shards.rows import INDEX_SCHEMA, REJECTS_SCHEMA, read_png
from pipeline.storage.errors import unanswered
from pipeline.storage.masking import without_variables
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.tables import read_table, write_table

FORMAT_VERSION = 1

#: The columns that say which row of a source is its newest.
_VERSIONS = ["source", "source_version", "reading"]


class ShardError(DiffStyleError):
    """A shard store that can't be read or written, or a data set of which nothing could be decoded."""


class ShardStore:
    """Prepared pictures below ``root``. Readers see committed parts only; any number of them, also while it grows."""

    def __init__(self, root: Place | str):
        self.root = Place.parse(root)
        self._store = PartStore(self.root)
        self._rejects = self.root / "rejects"

    # ---- opening ----
    @property
    def preparation(self) -> dict[str, Any]:
        """How the pictures were prepared (``shards.decode.preparation``). DescriptionError where nothing is here."""
        identity = self._store.description().get("identity", {})
        preparation = identity.get("preparation")
        if identity.get("kind") != "shards" or not isinstance(preparation, dict):
            raise ShardError(f"{self.root}: this is no folder of shards; check the path")
        return preparation

    def describe(self, prepared: Mapping[str, Any], reading: Mapping[str, str] | None = None) -> None:
        """Open the store for pictures prepared so, or raise DescriptionError naming the field that differs.

        Args:
            prepared: How pictures are prepared (``shards.decode.preparation``).
            reading: The columns that the source is read by, where the job names some. A picture is known by its file
                and row, so another column of the same rows must never be taken for it.
        """
        self._store.describe(_identity(prepared, reading), {"diffstyle": diffstyle.__version__})

    def check(self, prepared: Mapping[str, Any], reading: Mapping[str, str] | None = None) -> None:
        """Refuse as :meth:`describe` does, and write nothing."""
        self._store.check(_identity(prepared, reading))

    @property
    def parts(self) -> PartStore:
        """The parts themselves, for checking and repairing."""
        return self._store

    def rejects_of(self, part: str) -> Place:
        """The table of a part's rejects; a part without any has none."""
        return self._rejects / f"{part}.parquet"

    # ---- tables ----
    def rows(self, columns: list[str] | None = None) -> pa.Table:
        """The whole index (``INDEX_SCHEMA``): a row for each source picture, in order of part, then row.

        A source whose file has changed has a row for each version of it; :meth:`current` leaves the old ones out.
        """
        return self._store.rows(INDEX_SCHEMA, columns)

    def current(self) -> pa.Table:
        """The rows of the newest version of each source, in the order in which the sources first appear."""
        table = self.rows()
        newest = _newest_rows(table)
        return table if len(newest) == len(table) else table.take(list(newest.values()))

    def unique(self) -> list[dict[str, Any]]:
        """The first current row of each distinct ``image``: what later stages work on."""
        table = self.current()
        first = ~table.column("image").to_pandas().duplicated().to_numpy(dtype=bool)
        return table.filter(pa.array(first)).to_pylist()

    def rejects(self) -> pa.Table:
        """What could not be read and why (``REJECTS_SCHEMA``); a source that could be read since is left out."""
        rows = [dict(zip(REJECTS_SCHEMA.names, row, strict=True)) for row in self.rejected()]
        return pa.Table.from_pylist(rows, REJECTS_SCHEMA)

    def rejected(self) -> list[tuple[str, str, str]]:
        """The rows of :meth:`rejects`: (source, its version, reason), by source."""
        good = _newest(self.rows(_VERSIONS))
        rejected: dict[str, tuple[str, str]] = {}
        committed = set(self._store.parts())
        for entry in self._rejects.list(".parquet"):
            if entry.place.name.removesuffix(".parquet") not in committed:
                continue
            try:
                table = read_table(entry.place, REJECTS_SCHEMA, cure=self._store.cure)
            except FileNotFoundError:  # deleted since it was listed
                continue
            for source, version, reason in zip(*(column.to_pylist() for column in table.columns), strict=True):
                if source in good and _time(good[source]) >= _time(version):
                    continue
                if source not in rejected or _time(version) >= _time(rejected[source][0]):
                    rejected[source] = (version, reason)
        return [(source, *rejected[source]) for source in sorted(rejected)]

    def known(self, retry_failed: bool = False) -> dict[str, str]:
        """source -> version of all that need not be read again; ``retry_failed`` leaves the rejects out."""
        known = _newest(self.rows(_VERSIONS))
        if not retry_failed:
            known |= {source: version for source, version, _ in self.rejected()}
        return known

    def readings(self) -> dict[str, int]:
        """source -> the number of its last reading, 0 for the first."""
        readings: dict[str, int] = {}
        table = self.rows(["source", "reading"])
        for source, reading in zip(table["source"].to_pylist(), table["reading"].to_pylist(), strict=True):
            readings[source] = max(readings.get(source, 0), reading or 0)
        return readings

    # ---- pictures ----
    def read(self, row: Mapping[str, Any]) -> np.ndarray:
        """The picture of a row of the index, uint8 (S, S, 3). ShardError if it is not there or not that picture."""
        return self.read_many([row])[0]

    def read_many(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """The pictures of rows, uint8 (N, S, S, 3), in their order; each part is opened once."""
        side = self.preparation["size"]
        pixels = np.empty((len(rows), side, side, 3), np.uint8)
        by_part: dict[str, list[int]] = {}
        for n, row in enumerate(rows):
            by_part.setdefault(row["data"], []).append(n)
        for part, numbers in by_part.items():
            place = self._store.data(part, "tar")
            try:
                with place.open() as stream:
                    for n in sorted(numbers, key=lambda n: rows[n]["offset"]):
                        pixels[n] = read_png(stream.read_at(rows[n]["size"], rows[n]["offset"]), rows[n])
            except (OSError, ValueError) as error:
                if unanswered(error):
                    raise
                raise ShardError(f"{place}: a picture can't be read ({one_line(error)}); {self._store.cure}") from error
        return pixels

    # ---- writing, for the driver ----
    def commit(self, part: str, rows: pa.Table, rejects: pa.Table) -> None:
        """Make a part count, once its payload is whole: the rejects first, then the index, which is the commit."""
        place = self.rejects_of(part)
        if len(rejects):
            with place.writer() as stream:
                write_table(stream, rejects)
        elif place.exists():  # of an earlier try at the same pictures
            place.delete()
        self._store.commit(part, rows)

    def forget_rejects(self, sources: Collection[str]) -> None:
        """Drop the rejects of these sources, which their data set no longer lists."""
        for entry in self._rejects.list(".parquet") if sources else ():
            table = read_table(entry.place, REJECTS_SCHEMA, cure=self._store.cure)
            kept = table.filter(pa.array([source not in sources for source in table["source"].to_pylist()], pa.bool_()))
            if not len(kept):
                entry.place.delete()
            elif len(kept) < len(table):
                with entry.place.writer() as stream:
                    write_table(stream, kept)

    def remove_uncommitted(self) -> list[str]:
        """Delete what killed runs left behind; returns the files' names. Call it while holding the store's lock."""
        removed = self._store.remove_uncommitted()
        committed = set(self._store.parts())
        for entry in self._rejects.list(".parquet"):
            if entry.place.name.removesuffix(".parquet") not in committed:
                entry.place.delete()
                removed.append(entry.place.name)
        self._rejects.remove_unfinished()
        return removed


def open_shards(root: Place | str) -> ShardStore:
    """Open shards for reading. DescriptionError or ShardError, in one line, where there are none."""
    store = ShardStore(root)
    _ = store.preparation
    return store


def _identity(prepared: Mapping[str, Any], reading: Mapping[str, str] | None) -> dict[str, Any]:
    identity = {"kind": "shards", "format": FORMAT_VERSION, "preparation": dict(prepared)}
    if reading:
        identity["reading"] = {name: without_variables(column) for name, column in reading.items()}
    return identity


def _newest_rows(table: pa.Table) -> dict[str, int]:
    """source -> the number of its newest row, in the order in which the sources first appear."""
    newest: dict[str, int] = {}
    readings = table.column("reading").to_pylist()
    versions = table.column("source_version").to_pylist()

    def age(row: int) -> tuple[int, int]:
        return readings[row] or 0, _time(versions[row])  # earlier releases gave no numbers: then the file's time tells

    for row, source in enumerate(table.column("source").to_pylist()):
        known_row = newest.get(source)
        if known_row is None or age(row) >= age(known_row):
            newest[source] = row
    return newest


def _newest(table: pa.Table) -> dict[str, str]:
    """source -> the version of its newest row."""
    versions = table.column("source_version").to_pylist()
    return {source: versions[row] for source, row in _newest_rows(table).items()}


def _time(version: str) -> int:
    """The modification time in a source version (``size-time...``); before all others where it has none."""
    pieces = version.partition("+")[0].split("-")
    return int(pieces[1]) if len(pieces) > 1 and pieces[1].isdigit() else -1
