"""Scores by networks that the user brought: a store for each network, its rows joined to the manifest by ``pair``.

``OUT/networks/NAME.json`` says which network it was, with its hash; ``NAME/scores`` has a row for each pair,
``NAME/sources`` the embeddings of contents and styles, where they are kept, and ``NAME/frechet.json`` the distances of
whole settings. A network is added, or replaced by another, without touching the other scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from diffstyle.errors import ConfigError
from pipeline.results.manifest import MANIFEST_SCHEMA
from pipeline.results.score_parts import merge_small, scored
from pipeline.results.scores import SCORES_SCHEMA, ScoreColumn
from pipeline.storage.differences import differences
from pipeline.storage.layout import OutputLayout
from pipeline.storage.pair_ids import PairIds
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place

#: 2: what is not finite is null, with an error.
NETWORK_SCORES_FORMAT_VERSION = 2

#: Embeddings of sources.
SOURCES_SCHEMA = pa.schema([("image", pa.string()), ("embedding", pa.binary())])


class NetworkScores:
    """What one network says of an output's pairs. Reading needs no lock; writing is the driver's alone.

    Args:
        output: The output folder.
        name: The network's.
    """

    def __init__(self, output: Place, name: str) -> None:
        folder = OutputLayout(output).networks
        self.output, self.name = output, name
        # Rows are all there is: no part has a payload, and no such folder is ever made.
        self.store = PartStore(folder, f"{name}/payload", f"{name}/scores", description=f"{name}.json")
        self.sources = PartStore(folder, f"{name}/payload", f"{name}/sources", description=f"{name}.json")
        self._frechet = folder / name / "frechet.json"
        self._about: dict[str, Any] | None = None

    @property
    def about(self) -> dict[str, Any]:
        """What the description says of the network and its columns."""
        if self._about is None:
            stored = self.store.description()
            self._about = {**stored.get("identity", {}), **stored.get("about", {})}
        return self._about

    @property
    def columns(self) -> dict[str, ScoreColumn]:
        """The columns of scores: name -> what it is."""
        about = self.about
        return {
            name: ScoreColumn(one["more_is_better"], one["says"], about["network"], about["hash"])
            for name, one in about["columns"].items()
        }

    @property
    def schema(self) -> pa.Schema:
        """Of the rows: pair, the columns with the network's name and hash in their metadata, embedding, error."""
        scores = [pa.field(name, pa.float32(), metadata=column.metadata) for name, column in self.columns.items()]
        own = {"network": self.about["network"], "hash": self.about["hash"]}
        return pa.schema(
            [
                ("pair", pa.string()),  # the manifest's
                *scores,
                ("embedding", pa.binary()),  # float32, little-endian, finite; only where Fréchet distances are wanted
                ("error", pa.string()),
                ("seconds", pa.float64()),
                ("created", pa.timestamp("us", tz="UTC")),
            ],
            metadata=own,
        )

    def open(self, identity: Mapping[str, Any], columns: Mapping[str, tuple[bool, str]]) -> list[str]:
        """Open the scores for rows of this network; those of another one of the same name are dropped.

        Args:
            identity: Of the network: all that must be equal for scores to be compared.
            columns: Name -> (whether more is better, what it says).

        Returns:
            A phrase for each thing in which the network differed from the one whose scores were dropped.
        """
        identity = {"kind": "network scores", "format_version": NETWORK_SCORES_FORMAT_VERSION, **identity}
        differing: list[str] = []
        if self.store.exists():
            stored = self.store.description().get("identity", {})
            differing = differences(stored, json.loads(json.dumps(identity)))
        if differing:
            self.drop()
        about = {"columns": {name: {"more_is_better": more, "says": text} for name, (more, text) in columns.items()}}
        self.store.describe(identity, about)
        self._about = None
        return differing

    @classmethod
    def check(cls, name: str, columns: Iterable[str]) -> None:
        """Raise ConfigError where a network's columns would be called like others."""
        for column in columns:
            if column in {*SCORES_SCHEMA.names, *MANIFEST_SCHEMA.names}:
                raise ConfigError(f"network {name}: its column {column} would be called like another; rename it")

    def drop(self) -> None:
        """Remove all that this network says. Its description goes last: killed before, the next run drops the rest."""
        for store in (self.store, self.sources):
            for part in store.parts():
                store.drop(part)
        self._frechet.delete()
        (OutputLayout(self.output).networks / f"{self.name}.json").delete()

    def remove_uncommitted(self) -> None:
        """What a killed run left half-written. Call it while holding the output's lock."""
        for store in (self.store, self.sources):
            store.remove_uncommitted()

    def table(self, columns: Iterable[str] | None = None) -> pa.Table:
        """A row for each scored pair. Memory: the columns asked for."""
        schema = self.schema
        return self.store.rows(schema, list(schema.names if columns is None else columns))

    def scored(self) -> PairIds:
        """The pairs that have scores."""
        return scored(self.store, self.schema)

    def merge_small(self) -> None:
        """Merge small parts once there are many. For the holder of the output."""
        merge_small(self.store, self.schema)
        merge_small(self.sources, SOURCES_SCHEMA)

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
        """Rows as a table of :attr:`schema`; missing columns are null."""
        schema = self.schema
        return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)

    # ---- distances of whole settings ----
    def frechet(self) -> list[dict[str, Any]]:
        """The Fréchet distances as they were last found: a mapping for each setting and side."""
        return json.loads(self._frechet.read_bytes())["distances"] if self._frechet.is_file() else []  # type: ignore[no-any-return]

    def write_frechet(self, distances: Sequence[Mapping[str, Any]]) -> None:
        """Replace the Fréchet distances."""
        about = {"network": self.about["network"], "hash": self.about["hash"], "distances": list(distances)}
        self._frechet.write_bytes(json.dumps(about, indent=1, ensure_ascii=False).encode() + b"\n")


def networks_of(output: Place) -> list[NetworkScores]:
    """The networks by which an output was scored, by name."""
    files = OutputLayout(output).networks.list(".json")
    return [NetworkScores(output, name) for name in sorted(entry.place.name.removesuffix(".json") for entry in files)]


def vectors(column: pa.ChunkedArray) -> np.ndarray:
    """Embeddings (N, D) of a column that holds them as bytes, without the nulls."""
    column = column.drop_null()
    if not len(column):
        return np.zeros((0, 0), np.float32)
    rows = np.frombuffer(b"".join(column.to_pylist()), "<f4")
    return rows.reshape(len(column), -1)
