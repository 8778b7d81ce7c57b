"""All scores of an output side by side: those of the run's own model, and those of each network of the user's."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.network_scores import NetworkScores, networks_of
from pipeline.results.scores import OWN_COLUMNS, SCORES_SCHEMA, ScoreColumn, Scores
from pipeline.storage.pair_ids import PairIds, packed
from pipeline.storage.parts import PartStore
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

        A pair that was scored twice, as where two runs wrote at once, has its newest row. Memory: the columns, and some
        50 bytes a pair; the scores are read part by part.

        Args:
            pairs: Ids of pairs.
            names: Those wanted of :attr:`fields`; or ``error``, why a pair has no scores.

        Yields:
            Each column's field and its values, in the order of ``pairs``.
        """
        asked: _Asked | None = None
        stores: list[Scores | NetworkScores] = [self._own, *self._networks]
        for store in stores:
            if not store.store.exists():
                continue
            schema = store.schema if isinstance(store, NetworkScores) else SCORES_SCHEMA
            own = {*OWN_COLUMNS, "phash", "error"} if isinstance(store, Scores) else set(store.columns)
            wanted = [name for name in schema.names if name in names and name in own]
            if wanted:
                asked = asked or _Asked(pairs)
                yield from asked.columns(store.store, schema, wanted)


class _Asked:
    """Some pairs, whose rows are looked for in stores of scores."""

    def __init__(self, pairs: pa.ChunkedArray) -> None:
        ids = packed(pairs)
        self._ids = PairIds(ids)
        self._places = self._ids.positions(ids)

    def columns(self, store: PartStore, schema: pa.Schema, names: list[str]) -> Iterator[tuple[pa.Field, pa.Array]]:
        """Each column's field and its values in the order of the pairs, from their newest rows without an error."""

        def own(rows: pa.Table) -> tuple[np.ndarray, np.ndarray, pa.Table]:
            places = self._ids.positions(packed(rows["pair"]))
            created = pc.fill_null(rows["created"].cast(pa.int64()), 0).to_numpy()
            rank = created + np.where(pc.is_null(rows["error"]).to_numpy(), 1 << 62, 0)  # without an error first
            asked = places >= 0
            return places[asked], rank[asked], rows.select(names).filter(pa.array(asked))

        # Parts may be merged meanwhile, so all is read at once.
        parts = store.each(own, schema, list(dict.fromkeys(["pair", "error", "created", *names])))
        best, numbers = np.full(len(self._ids), np.iinfo(np.int64).min), np.full(len(self._ids), -1)
        begin = 0
        for places, rank, _ in parts:
            order = np.argsort(rank, kind="stable")  # of a pair's rows in one part, the newest is written last
            order = order[rank[order] > best[places[order]]]
            best[places[order]], numbers[places[order]] = rank[order], begin + order
            begin += len(places)
        numbers = numbers[self._places]
        taken = pa.array(numbers, mask=numbers < 0)
        rows = pa.concat_tables([schema.empty_table().select(names), *(table for *_, table in parts)])
        del parts, best, numbers
        for name in names:
            yield schema.field(name), rows[name].combine_chunks().take(taken)
