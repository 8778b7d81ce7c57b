"""Which rows of a manifest stay, and which are dropped by ``prune.py``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.storage.pair_ids import PairIds, packed


class Rule(Protocol):
    """Which rows stay.

    Attributes:
        columns: Of the manifest, that it looks at.
    """

    @property
    def columns(self) -> tuple[str, ...]: ...

    def stays(self, rows: pa.Table) -> np.ndarray:
        """Which of some rows, with ``columns``, stay: (n,) bool."""


@dataclass(frozen=True)
class Wanted:
    """Some pairs stay, whatever their age.

    Attributes:
        pairs: All that current jobs ask for.
    """

    pairs: PairIds
    columns: tuple[str, ...] = ("pair",)

    def stays(self, rows: pa.Table) -> np.ndarray:
        """See :class:`Rule`."""
        return self.pairs.contains(packed(rows["pair"]))


@dataclass(frozen=True)
class WantedOrYoung:
    """What was made with some settings stays, and what was not made before some time.

    A row that does not say when or how it was made stays too, and so does one from the future.

    Attributes:
        settings: The digests of settings that a job wants, as in the manifest's column ``settings``.
        before: What was made with other settings before this goes.
    """

    settings: frozenset[str]
    before: datetime
    columns: tuple[str, ...] = ("settings", "created")

    def stays(self, rows: pa.Table) -> np.ndarray:
        """See :class:`Rule`."""
        old = pc.less(rows["created"], pa.scalar(self.before, MANIFEST_SCHEMA.field("created").type))
        goes = pc.and_(pc.and_(old, pc.invert(self.wanted(rows))), pc.is_valid(rows["settings"]))
        return ~np.asarray(pc.fill_null(goes, False))

    def wanted(self, rows: pa.Table) -> pa.ChunkedArray:
        """Which of some rows are of wanted settings: bool."""
        return pc.is_in(rows["settings"], pa.array(sorted(self.settings), pa.string()))


def all_stay(manifest: Manifest, rule: Rule) -> bool:
    """Whether a rule drops no row. Reads its columns alone, part by part."""
    return all(manifest.store.each(lambda rows: bool(rule.stays(rows).all()), MANIFEST_SCHEMA, list(rule.columns)))


def only_wanted_stay(manifest: Manifest, rule: WantedOrYoung) -> bool:
    """Whether all rows that stay are of wanted settings."""

    def of_part(rows: pa.Table) -> bool:
        return bool((~rule.stays(rows) | np.asarray(rule.wanted(rows))).all())

    return all(manifest.store.each(of_part, MANIFEST_SCHEMA, list(rule.columns)))
