"""Stage 1 in the driver: which pictures of a data set are missing, their blocks on workers, and the commits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.shards.decode import PIXEL_LIMIT, preparation
from pipeline.shards.passed_over import read_passed_over, total, write_passed_over
from pipeline.shards.rows import INDEX_SCHEMA, REJECTS_SCHEMA
from pipeline.shards.store import ShardError, ShardStore
from pipeline.shards.write import write_block
from pipeline.sources import Block, Source
from pipeline.sources.passed_over import PassedOver
from pipeline.stages.commit import OnDone, commit_outcomes
from pipeline.storage.place import Place
from pipeline.workers.base import Pool
from pipeline.workers.unit import Outcome

WriteBlock = Callable[[Block], tuple[pa.Table, pa.Table]]


@dataclass(frozen=True)
class BlockUnit:
    """A block as a unit of work."""

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


@dataclass
class ShardSummary:
    """What a run of the stage did: pictures ``done`` and ``rejected`` now, and all that the source passes over."""

    done: int = 0
    rejected: int = 0
    passed_over: PassedOver = field(default_factory=PassedOver)


def shard_stage(
    pool: Pool,
    source: Source,
    root: Place,
    size: int,
    *,
    reading: Mapping[str, str] | None = None,
    on_done: OnDone = lambda done, rejected, outcome: None,
    retry_failed: bool = False,
    block_size: int = 256,
    pixel_limit: int = PIXEL_LIMIT,
) -> ShardSummary:
    """Prepare, at ``size`` px, what the store below ``root`` lacks of ``source``. Call it holding the store's lock.

    Pictures known by source and version are not read again, nor are rejects, unless ``retry_failed``. ``reading``: the
    columns that the source is read by, as for :meth:`ShardStore.describe`.

    Raises DescriptionError for a store of another size, preparation or reading, SourceError for a data set that is
    missing or empty, ShardError where no picture could be decoded, Stopped where the store can't be written.
    """
    store = ShardStore(root)
    prepared = preparation(size)
    store.describe(prepared, reading)
    store.remove_uncommitted()
    write = functools.partial(write_block, root=root, prepared=prepared, pixel_limit=pixel_limit)
    summary = ShardSummary()
    known = store.known(retry_failed)
    blocks = source.blocks(known, block_size)
    readings = functools.cache(store.readings)  # only where something is read again

    def commit(outcome: Outcome) -> tuple[int, int]:
        block: Block = outcome.unit.block
        if outcome.error is None:
            rows, rejects = outcome.result
            if any(one in known for one in rows["source"].to_pylist()):
                rows = _numbered(rows, readings())
        else:  # the one picture that is left of a block that brings workers down
            (item,) = block.items
            rejected = {"source": item.source, "source_version": item.version, "reason": outcome.error}
            rows, rejects = INDEX_SCHEMA.empty_table(), pa.Table.from_pylist([rejected], REJECTS_SCHEMA)
        store.commit(block.name, rows, rejects)
        return len(rows), len(rejects)

    units = (BlockUnit(write, block) for block in blocks)
    summary.done, summary.rejected = commit_outcomes(pool, units, commit, on_done)
    earlier = read_passed_over(root)
    by_file = source.passed_over_by_file(earlier)
    if by_file != earlier:
        write_passed_over(root, by_file)
    summary.passed_over = total(by_file)
    if gone := set(store.rejects()["source"].to_pylist()):
        gone.difference_update(source.listing())  # those that are left the data set, or are a folder that opens now
        store.forget_rejects(gone)
    if not store.rows(["key"]).num_rows:
        first = store.rejects().slice(0, 1).to_pylist()
        example = f"; the first: {first[0]['source']}: {first[0]['reason']}" if first else ""
        raise ShardError(f"{source.text}: none of the pictures could be read{example}; see {root / 'rejects'}")
    return summary


def _numbered(rows: pa.Table, readings: Mapping[str, int]) -> pa.Table:
    """Rows with the number of this reading, where their source has rows already: so the newest one is known."""
    numbers = [readings[one] + 1 if one in readings else None for one in rows["source"].to_pylist()]
    field = INDEX_SCHEMA.field("reading")
    return rows.set_column(rows.column_names.index(field.name), field, pa.array(numbers, field.type))
