"""Stage 1: prepared pictures in WebDataset shards, with an index and a table of rejects.

Workers read, decode and write the payload of a part (``write_block``) and hand its rows back; the driver commits
(:meth:`ShardStore.commit`). Every picture of the source ends in exactly one row: of the index, or of the rejects.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import diffstyle
from diffstyle.errors import DiffStyleError
from pipeline.decode import PIXEL_LIMIT, preparation
from pipeline.parts import PartStore
from pipeline.shard_part import INDEX_SCHEMA, REJECTS_SCHEMA, read_png, write_block
from pipeline.sources import Block, Source
from pipeline.storage import Place

FORMAT_VERSION = 1


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
        """How the pictures were prepared (``pipeline.decode.preparation``). DescriptionError where nothing is here."""
        identity = self._store.description().get("identity", {})
        if identity.get("kind") != "shards":
            raise ShardError(f"{self.root}: this is no folder of shards; check the path")
        return identity["preparation"]

    def describe(self, prepared: Mapping[str, Any]) -> None:
        """Open the store for pictures prepared so, or raise DescriptionError naming the field that differs."""
        identity = {"kind": "shards", "format": FORMAT_VERSION, "preparation": dict(prepared)}
        self._store.describe(identity, {"diffstyle": diffstyle.__version__})

    # ---- tables ----
    def rows(self, columns: list[str] | None = None) -> pa.Table:
        """The whole index (``INDEX_SCHEMA``): a row for each source picture, in order of part, then row.

        A source whose file has changed has a row for each version of it; :meth:`current` leaves the old ones out.
        """
        return self._store.rows(INDEX_SCHEMA, columns)

    def current(self) -> pa.Table:
        """The rows of the newest version of each source, in the order in which the sources first appear."""
        table = self.rows()
        newest: dict[str, int] = {}
        versions = table.column("source_version").to_pylist()
        for row, source in enumerate(table.column("source").to_pylist()):
            there = newest.get(source)
            if there is None or _time(versions[row]) >= _time(versions[there]):
                newest[source] = row
        return table if len(newest) == len(table) else table.take(list(newest.values()))

    def unique(self) -> list[dict[str, Any]]:
        """The first current row of each distinct ``image``: what later stages work on."""
        table = self.current()
        first = ~table.column("image").to_pandas().duplicated().to_numpy(dtype=bool)
        return table.filter(pa.array(first)).to_pylist()

    def rejects(self) -> pa.Table:
        """What could not be read and why (``REJECTS_SCHEMA``); a source that could be read since is left out."""
        indexed = self.rows(["source", "source_version"])
        good = _newest(indexed)
        found: dict[str, tuple[str, str]] = {}
        committed = set(self._store.parts())
        for entry in self._rejects.list(".parquet"):
            if entry.place.name.removesuffix(".parquet") not in committed:
                continue
            with entry.place.open() as stream:
                table = pq.read_table(stream, schema=REJECTS_SCHEMA)
            for source, version, reason in zip(*(column.to_pylist() for column in table.columns), strict=True):
                if source in good and _time(good[source]) >= _time(version):
                    continue
                if source not in found or _time(version) >= _time(found[source][0]):
                    found[source] = (version, reason)
        rows = [(source, *found[source]) for source in sorted(found)]
        return pa.Table.from_pylist([dict(zip(REJECTS_SCHEMA.names, row, strict=True)) for row in rows], REJECTS_SCHEMA)

    def known(self, retry_failed: bool = False) -> dict[str, str]:
        """source -> version of all that need not be read again; ``retry_failed`` leaves the rejects out."""
        known = _newest(self.rows(["source", "source_version"]))
        if not retry_failed:
            known |= _newest(self.rejects())
        return known

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
                text = " ".join(str(error).split())
                raise ShardError(
                    f"{place}: a picture can't be read ({text}); delete {part}.* in index/, data/ and rejects/ and run "
                    "the shard stage again"
                ) from error
        return pixels

    # ---- writing, for the driver ----
    def commit(self, part: str, rows: pa.Table, rejects: pa.Table) -> None:
        """Make a part count, once its payload is whole: the rejects first, then the index, which is the commit."""
        place = self._rejects / f"{part}.parquet"
        if len(rejects):
            with place.writer() as stream:
                pq.write_table(rejects, stream, compression="zstd")
        elif place.exists():  # of an earlier try at the same pictures
            place.delete()
        self._store.commit(part, rows)

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


# ---- the stage, in the driver ----
WriteBlock = Callable[[Block], tuple[pa.Table, pa.Table]]
Execute = Callable[[WriteBlock, Iterable[Block]], Iterator[tuple[Block, tuple[pa.Table, pa.Table] | Exception]]]


def run_here(
    write: WriteBlock, blocks: Iterable[Block]
) -> Iterator[tuple[Block, tuple[pa.Table, pa.Table] | Exception]]:
    """The simplest executor: one block after the other in this process."""
    for block in blocks:
        try:
            yield block, write(block)
        except Exception as error:  # noqa: BLE001 - handed to the stage, which knows which ones end the run
            yield block, error


@dataclass(frozen=True)
class BlockUnit:
    """A block as a unit of work of ``pipeline.engine.Pool``."""

    write: WriteBlock
    block: Block

    @property
    def name(self) -> str:
        return self.block.name

    def load(self) -> tuple[pa.Table, pa.Table]:
        return self.write(self.block)  # all of it beside other blocks: nothing here wants the worker's device

    def compute(self, context: Any, loaded: tuple[pa.Table, pa.Table]) -> tuple[pa.Table, pa.Table]:
        return loaded

    def save(self, computed: tuple[pa.Table, pa.Table]) -> tuple[pa.Table, pa.Table]:
        return computed

    def split(self) -> list[BlockUnit]:
        return [BlockUnit(self.write, piece) for piece in self.block.split()]


def on_pool(pool: Any) -> Execute:
    """An executor that runs blocks on a ``pipeline.engine.Pool`` (which retries and splits them itself)."""

    def execute(write: WriteBlock, blocks: Iterable[Block]) -> Iterator[Any]:
        for outcome in pool.run(BlockUnit(write, block) for block in blocks):
            yield outcome.unit.block, outcome.result if outcome.error is None else RuntimeError(outcome.error)

    return execute


@dataclass
class ShardSummary:
    """What a run of the stage did: pictures ``done`` and ``rejected`` now, what the source passed over, by reason."""

    done: int = 0
    rejected: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)


def shard_stage(
    source: Source,
    root: Place,
    size: int,
    *,
    execute: Execute = run_here,
    progress: Callable[[int, int], None] = lambda done, rejected: None,
    retry_failed: bool = False,
    block_size: int = 256,
    pixel_limit: int = PIXEL_LIMIT,
) -> ShardSummary:
    """Prepare, at ``size`` px, what the store below ``root`` lacks of ``source``. Call it holding the store's lock.

    ``execute`` runs the blocks and yields each with its result or its exception, in any order; ``progress`` hears how
    many pictures this run has done and rejected so far. Pictures known by source and version are not read again, nor
    are rejects, unless ``retry_failed``.

    Raises DescriptionError for a store of another size or preparation, SourceError for a data set that is missing or
    empty, ShardError where the store can't be written or no picture could be decoded.
    """
    store = ShardStore(root)
    prepared = preparation(size)
    store.describe(prepared)
    store.remove_uncommitted()
    write = functools.partial(write_block, root=root, prepared=prepared, pixel_limit=pixel_limit)
    summary = ShardSummary()
    blocks: Iterable[Block] = source.blocks(store.known(retry_failed), block_size)
    while blocks:
        halves: list[Block] = []
        for block, result in execute(write, blocks):
            if isinstance(result, DiffStyleError):
                raise result
            if isinstance(result, OSError):
                text = " ".join(str(result).split())
                raise ShardError(f"{root}: {text}; what was written is kept, mend it and run again") from result
            if isinstance(result, Exception):
                # Something in this block brings a worker down: halve it until the picture is found.
                halves += block.split()
                if len(block) > 1:
                    continue
                item = block.items[0]
                reason = f"{type(result).__name__}: {' '.join(str(result).split())}"
                rejected = {"source": item.source, "source_version": item.version, "reason": reason}
                result = INDEX_SCHEMA.empty_table(), pa.Table.from_pylist([rejected], REJECTS_SCHEMA)
            store.commit(block.name, *result)
            summary.done += len(result[0])
            summary.rejected += len(result[1])
            progress(summary.done, summary.rejected)
        blocks = halves
    summary.passed_over.update(source.notes)
    if not store.rows(["key"]).num_rows:
        first = store.rejects().slice(0, 1).to_pylist()
        example = f"; the first: {first[0]['source']}: {first[0]['reason']}" if first else ""
        raise ShardError(f"{source.text}: none of the pictures could be read{example}; see {root / 'rejects'}")
    return summary


def _newest(table: pa.Table) -> dict[str, str]:
    newest: dict[str, str] = {}
    for source, version in zip(
        table.column("source").to_pylist(), table.column("source_version").to_pylist(), strict=True
    ):
        if source not in newest or _time(version) >= _time(newest[source]):
            newest[source] = version
    return newest


def _time(version: str) -> int:
    """The modification time in a source version (``size-time...``); before all others where it has none."""
    pieces = version.split("-")
    return int(pieces[1]) if len(pieces) > 1 and pieces[1].isdigit() else -1
