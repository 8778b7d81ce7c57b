"""Stage 1 in the driver: which pictures of a data set are missing, their blocks on workers, and the commits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from diffstyle.errors import DiffStyleError
from pipeline.shards.decode import PIXEL_LIMIT, preparation
from pipeline.shards.passed_over import read_passed_over, total, write_passed_over
from pipeline.shards.store import ShardError, ShardStore
from pipeline.shards.write import INDEX_SCHEMA, REJECTS_SCHEMA, write_block
from pipeline.sources import Block, Source
from pipeline.sources.passed_over import PassedOver
from pipeline.storage.place import Place

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
    """A block as a unit of work of ``pipeline.workers.ray_pool.Pool``."""

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
    """An executor that runs blocks on a ``pipeline.workers.ray_pool.Pool`` (which retries and splits them itself)."""

    def execute(write: WriteBlock, blocks: Iterable[Block]) -> Iterator[Any]:
        for outcome in pool.run(BlockUnit(write, block) for block in blocks):
            yield outcome.unit.block, outcome.result if outcome.error is None else RuntimeError(outcome.error)

    return execute


@dataclass
class ShardSummary:
    """What a run of the stage did: pictures ``done`` and ``rejected`` now, and all that the source passes over."""

    done: int = 0
    rejected: int = 0
    passed_over: PassedOver = field(default_factory=PassedOver)


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
    earlier = read_passed_over(root)
    by_file = source.passed_over_by_file(earlier)
    if by_file != earlier:
        write_passed_over(root, by_file)
    summary.passed_over = total(by_file)
    if not store.rows(["key"]).num_rows:
        first = store.rejects().slice(0, 1).to_pylist()
        example = f"; the first: {first[0]['source']}: {first[0]['reason']}" if first else ""
        raise ShardError(f"{source.text}: none of the pictures could be read{example}; see {root / 'rejects'}")
    return summary
