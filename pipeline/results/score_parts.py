"""What all tables of scores share: they are read and changed part by part, in 16 bytes a pair."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.merging import small_parts
from pipeline.storage.pair_ids import PairIds, packed
from pipeline.storage.parts import PartStore


def scored(store: PartStore, schema: pa.Schema) -> PairIds:
    """The pairs that have scores: those with a row without an error."""
    return with_rows(store, schema, "error", is_null=True)


def with_rows(store: PartStore, schema: pa.Schema, column: str, is_null: bool) -> PairIds:
    """The pairs with a row in which a column is null, or is not."""

    def ids(rows: pa.Table) -> np.ndarray:
        return packed(rows["pair"].filter(pc.equal(pc.is_null(rows[column]), is_null)))

    return PairIds(*store.each(ids, schema, ["pair", column]))


def merge_small(store: PartStore, schema: pa.Schema) -> None:
    """Merge small parts once there are many, so that a reader meets few files. For the holder of the output."""
    for merge in small_parts(store.entries()):
        store.merge(merge, pa.concat_tables(store.each(lambda rows: rows, schema, None, merge.parts)))
