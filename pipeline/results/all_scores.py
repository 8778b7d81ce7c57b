"""All scores of an output side by side: those of the run's own model, and those of each network of the user's."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.network_scores import NetworkScores, networks_of
from pipeline.results.scores import OWN_COLUMNS, SCORES_SCHEMA, ScoreColumn, Scores
from pipeline.storage.place import Place


class AllScores:
    """The columns of scores that an output has.

    Args:
        output: The output folder.

    Attributes:
        columns: Name -> what it is; empty where the output was never scored.
    """

    def __init__(self, output: Place) -> None:
        self._own = Scores(output)
        self._networks = networks_of(output)
        self.columns: dict[str, ScoreColumn] = {**OWN_COLUMNS} if self._own.exists() else {}
        for network in self._networks:
            self.columns |= network.columns

    @property
    def fields(self) -> list[pa.Field]:
        """The columns' fields, ``phash`` last; none where the output was never scored."""
        fields = [pa.field(name, pa.float32(), metadata=column.metadata) for name, column in self.columns.items()]
        return [*fields, SCORES_SCHEMA.field("phash")] if self._own.exists() else fields

    def of(self, pairs: pa.ChunkedArray, names: Collection[str]) -> Iterator[tuple[pa.Field, pa.Array]]:
        """Columns of scores, a value for each of some pairs; null where a pair has none.

        A pair that was scored twice, as where two runs wrote at once, has its newest row.

        Args:
            pairs: Ids of pairs.
            names: Those wanted of :attr:`fields`; or ``error``, why a pair has no scores.

        Yields:
            Each column's field and its values, in the order of ``pairs``.
        """
        stores: list[Scores | NetworkScores] = [self._own, *self._networks]
        for store in stores:
            if not store.store.exists():
                continue
            schema = store.schema if isinstance(store, NetworkScores) else SCORES_SCHEMA
            own = {*OWN_COLUMNS, "phash", "error"} if isinstance(store, Scores) else set(store.columns)
            wanted = [name for name in schema.names if name in names and name in own]
            if wanted:
                table = store.table(["pair", *wanted, *({"error", "created"} - set(wanted))])
                rows = _rows(table, pairs)
                for name in wanted:
                    yield schema.field(name), table[name].combine_chunks().take(rows)


def _rows(table: pa.Table, pairs: pa.ChunkedArray) -> pa.Array:
    """The number of each pair's row, null where it has none: of several the newest without an error."""
    rows = _plain(pc.index_in(pairs, _plain(table["pair"])))
    once = len(rows) - rows.null_count == len(table)  # each of its rows is some pair's, and so no pair's second
    if once or pc.count_distinct(table["pair"]).as_py() == len(table):
        return rows
    ranked = table.append_column("scored", pc.is_null(table["error"]))
    order = pc.sort_indices(ranked, [("scored", "descending"), ("created", "descending")])
    return order.take(_plain(pc.index_in(pairs, _plain(table["pair"].take(order)))))


def _plain(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
