"""Stage 2: invert the prepared pictures of a shard store on the pool, and write a latent bank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.banks.description import BankDescription, entry_of, part_name
from pipeline.banks.fit import serves
from pipeline.banks.index import read_description
from pipeline.banks.thumbnails import thumbnail
from pipeline.banks.writer import BankWriter
from pipeline.jobfile.schema import SampleSpec
from pipeline.models.session import LoadedModel
from pipeline.shards.store import open_shards
from pipeline.stages.colours import colours_of
from pipeline.stages.commit import OnDone, commit_outcomes
from pipeline.stages.sample import SampleUnit, sample_source
from pipeline.stages.walk import Walk
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.workers.base import Pool
from pipeline.workers.unit import Outcome, halves


@dataclass(frozen=True)
class InvertUnit:
    """Pictures of a shard store to be inverted into one part of a bank."""

    shards: Place
    bank: Place
    description: BankDescription
    rows: tuple[dict[str, Any], ...]  # rows of the shard index

    @property
    def name(self) -> str:
        return part_name([row["image"] for row in self.rows])

    @property
    def network_calls(self) -> int:
        """On one picture each."""
        return Walk.of_bank(self.description).plan(keep=()).encodes * len(self.rows)

    def load(self) -> np.ndarray:
        return open_shards(self.shards).read_many(list(self.rows))

    def compute(self, context: LoadedModel, pixels: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The tensors by name, and the pixels themselves."""
        return invert_pictures(context, self.description, pixels), pixels

    def save(self, computed: tuple[dict[str, np.ndarray], np.ndarray]) -> tuple[pa.Table | None, list[dict[str, Any]]]:
        tensors, pictures = computed
        items = []
        for n, (row, pixels) in enumerate(zip(self.rows, pictures, strict=True)):
            own = {name: values[n] for name, values in tensors.items()}
            items.append((entry_of(self.description, row, thumbnail(pixels), **own), None))
        return BankWriter.write_storable(self.bank, self.description, self.name, items)

    def split(self) -> Sequence[InvertUnit]:
        return [replace(self, rows=half) for half in halves(self.rows)]


def invert_pictures(context: LoadedModel, description: BankDescription, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Invert pictures as a bank's description says.

    Args:
        context: The model on its device.
        description: Of the bank.
        pixels: uint8 (N, S, S, 3).

    Returns:
        ``x_t`` (N, 3, S, S) and ``h`` (N, K, C, h, w) at the description's timesteps, and ``colours`` (N, 3, 256) where
        the bank keeps them.
    """
    from diffstyle.images import to_tensor

    plan = Walk.of_bank(description).plan(keep=description.h_timesteps)
    x_T, h = context.walk(to_tensor(pixels), plan)
    # The walk keeps h in its own order, which ascends; so do a description's timesteps.
    return {"x_t": x_T, "h": h, **({"colours": colours_of(pixels)} if description.keeps("colours") else {})}


def open_bank(root: Place, description: BankDescription, about: dict[str, Any]) -> BankWriter:
    """Open a bank for growing. One that serves as it is, though it keeps more than is asked for, stays so."""
    if PartStore(root).exists() and serves(existing := read_description(PartStore(root))[0], description):
        description = existing
    return BankWriter.create_or_open(root, description, about)


class MissingRows(NamedTuple):
    """Rows of a shard index that a bank is to have.

    Attributes:
        todo: of pictures to be inverted.
        aliases: of further names of pictures.
        corrected: of names that the bank has, with another label, caption or metadata.
    """

    todo: list[dict[str, Any]]
    aliases: list[dict[str, Any]]
    corrected: list[Mapping[str, Any]]


def missing_rows(
    writer: BankWriter, shards: Place, wanted: set[str] | None = None, retry_failed: bool = False
) -> MissingRows:
    """The rows of the shard index that a bank lacks, and those that say something else than it does.

    ``wanted``: the images that count; None: all. Those that failed before are left out unless ``retry_failed``.
    """
    current = open_shards(shards).current().to_pylist()
    unique: dict[str, dict[str, Any]] = {}
    for row in current:
        if wanted is None or row["image"] in wanted:
            unique.setdefault(row["image"], row)
    known = writer.known_images()
    skipped = known if retry_failed else known | set(writer.failed_images())
    names = writer.known_names()
    # Of a picture that the bank has, any name that is new, be it the first in the shards: parts have no order in time.
    aliases = [
        row
        for row in current
        if row["image"] in unique
        and (row["image"] in known or unique[row["image"]]["key"] != row["key"])
        and (row["key"], row["image"]) not in names
    ]
    todo = [row for image, row in unique.items() if image not in skipped]
    return MissingRows(todo, aliases, writer.corrected(row for row in current if row["image"] in unique))


def invert_stage(
    pool: Pool | None,
    shards: Place,
    writer: BankWriter,
    rows: MissingRows,
    part_size: int,
    on_done: OnDone,
) -> int:
    """Write what a bank lacks (see :func:`missing_rows`); returns how many entries were made.

    ``pool`` may be None where there is nothing to invert.
    """
    units = (
        InvertUnit(shards, writer.root, writer.description, tuple(rows.todo[start : start + part_size]))
        for start in range(0, len(rows.todo), part_size)
    )
    n_done = _run(pool, units, writer, on_done)
    known = writer.known_images()
    writer.commit_aliases([row for row in rows.aliases if row["image"] in known])
    writer.commit_corrected(rows.corrected)
    return n_done


def missing_samples(writer: BankWriter, spec: SampleSpec) -> list[int]:
    """The numbers of the samples that the bank lacks."""
    known = writer.known_sources()
    return [n for n in range(spec.sample) if sample_source(spec.seed, n) not in known]


def sample_stage(pool: Pool | None, spec: SampleSpec, writer: BankWriter, part_size: int, on_done: OnDone) -> int:
    """Draw the samples that the bank lacks; returns how many entries were made."""
    todo = missing_samples(writer, spec)
    units = (
        SampleUnit(writer.root, writer.description, spec.seed, tuple(todo[start : start + part_size]))
        for start in range(0, len(todo), part_size)
    )
    return _run(pool, units, writer, on_done)


def _run(pool: Pool | None, units: Iterable[Any], writer: BankWriter, on_done: OnDone) -> int:
    def commit(outcome: Outcome) -> tuple[int, int]:
        if outcome.error is not None:
            table, failures = None, [{**row, "error": outcome.error} for row in outcome.unit.rows]
        else:
            table, failures = outcome.result
        if table is not None:
            writer.commit(outcome.unit.name, table)
        writer.commit_failures(failures)
        return 0 if table is None else len(table), len(failures)

    n_done, _ = commit_outcomes(pool, units, commit, on_done)
    writer.snapshot()
    return n_done
