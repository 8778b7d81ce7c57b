"""Scores: a row for each pair, beside the manifest and joined to it by ``pair``. The manifest is never rewritten.

``pandas.read_parquet(OUT/scores)`` reads them all; the folder grows by whole parts, as the manifest does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.score_parts import merge_small, scored, with_rows
from pipeline.storage.counts import count
from pipeline.storage.layout import OutputLayout
from pipeline.storage.pair_ids import PairIds, PairValues, packed
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.stored_description import DescriptionError

SCORES_FORMAT_VERSION = 1

#: name -> (whether more is better, what it says); None where neither end is good by itself.
SCORES: Mapping[str, tuple[bool | None, str]] = {
    "content_kept": (True, "where the result's h lies between the style's (0) and the content's (1)"),
    "content_cosine": (True, "cosine between the result's h and the content's"),
    "edges": (True, "correlation of edges with the content's"),
    "style_gram": (False, "distance of the first skip features' Gram matrices to the style's; 0 is the same texture"),
    "style_colour": (False, "distance of the colour histogram to the style's, 0 to 1"),
    "style_returns": (True, "dB at which the style itself comes back from its x_T; what is lost there can't be kept"),
    "psnr_style": (None, "dB to the style: very high where nothing happened"),
    "psnr_content": (None, "dB to the content: very high where it was only copied"),
    "contrast": (None, "standard deviation of luminance, relative to the mean of the two sources'; near 0: collapsed"),
    "clipped": (False, "share of values at the ends of the range, beyond that of the sources"),
    "dark": (False, "share of black pixels, beyond that of the sources; near 1: a black frame"),
}


#: Side -> the scores that need its prepared picture.
SCORES_OF_SIDES: Mapping[str, tuple[str, ...]] = {
    "content": ("edges", "content_cosine", "content_kept", "psnr_content", "contrast", "clipped", "dark"),
    "style": ("style_colour", "style_gram", "content_kept", "psnr_style", "contrast", "clipped", "dark"),
}


#: Why a pair that was scored may lack such a score, in words.
NO_SOURCES = "the prepared pictures of their contents or styles are neither in this run nor beside its banks"


@dataclass(frozen=True)
class ScoreColumn:
    """What a column of scores is.

    Attributes:
        better: Whether more is better; None where neither end is good by itself.
        says: What it says, in words.
        network: The name of the network that the user brought for it; empty where there is none.
        hash: SHA-256 of that network's files.
    """

    better: bool | None
    says: str
    network: str = ""
    hash: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        """For the column's field in a schema; :meth:`of` reads it."""
        words = {True: "more", False: "less", None: ""}[self.better]
        return {
            "better": words,
            "says": self.says,
            **({"network": self.network, "hash": self.hash} if self.network else {}),
        }

    @classmethod
    def of(cls, field: pa.Field) -> ScoreColumn | None:
        """What a field's metadata say; None where it is no score."""
        stored = {name.decode(): value.decode() for name, value in (field.metadata or {}).items()}
        if "better" not in stored:
            return None
        better = {"more": True, "less": False}.get(stored["better"])
        return cls(better, stored.get("says", ""), stored.get("network", ""), stored.get("hash", ""))


#: The same with the columns' own class.
OWN_COLUMNS: Mapping[str, ScoreColumn] = {name: ScoreColumn(better, text) for name, (better, text) in SCORES.items()}

SCORES_SCHEMA = pa.schema(
    [
        ("pair", pa.string()),  # the manifest's
        *[pa.field(name, pa.float32(), metadata=column.metadata) for name, column in OWN_COLUMNS.items()],
        ("phash", pa.binary(8)),  # 64-bit difference hash: near-duplicates differ in few bits
        ("error", pa.string()),  # why scores are missing: the picture can't be read, or a score is not finite
        ("seconds", pa.float64()),  # this pair's share of its batch
        ("created", pa.timestamp("us", tz="UTC")),
    ]
)


class Scores:
    """The scores of an output folder. Reading needs no lock; writing is the driver's alone."""

    def __init__(self, output: Place) -> None:
        self.output = output
        layout = OutputLayout(output)
        # Rows are all there is: no part has a payload, and no such folder is ever made.
        self.store = PartStore(output, "scores-payload", layout.SCORES, description=layout.SCORES_DESCRIPTION)

    def __repr__(self) -> str:
        return f"<Scores {self.output}: {count(len(self.scored()), 'pair')}>"

    def exists(self) -> bool:
        """Whether the output was ever scored."""
        return self.store.exists()

    def open(self, identity: Mapping[str, Any]) -> None:
        """Open the scores for rows of this identity; DescriptionError where they were made in another way."""
        self.store.describe(
            _identity(identity),
            {"scores": {name: {"more_is_better": better, "says": text} for name, (better, text) in SCORES.items()}},
        )

    def check(self, identity: Mapping[str, Any]) -> None:
        """Refuse as :meth:`open` does, and write nothing."""
        if self.exists():
            stored = self.store.description().get("identity", {}).get("model_fingerprint")
            if stored != identity["model_fingerprint"]:
                raise DescriptionError(
                    f"{self.output}: its scores were made with another model (fingerprint {str(stored)[:8]}; this "
                    f"job's is {identity['model_fingerprint'][:8]}), and scores of two models can't be compared; run "
                    "this job with score: false, or into another output folder"
                )
        self.store.check(_identity(identity))

    def table(self, columns: Iterable[str] | None = None) -> pa.Table:
        """A row for each scored pair. Memory: the columns asked for."""
        return self.store.rows(SCORES_SCHEMA, list(SCORES_SCHEMA.names if columns is None else columns))

    def scored(self) -> PairIds:
        """The pairs that have scores."""
        return scored(self.store, SCORES_SCHEMA)

    def lacking(self, name: str) -> PairIds:
        """The pairs that were scored and have nothing in a column."""

        def ids(rows: pa.Table) -> np.ndarray:
            return packed(rows["pair"].filter(pc.and_(pc.is_null(rows["error"]), pc.is_null(rows[name]))))

        return PairIds(*self.store.each(ids, SCORES_SCHEMA, ["pair", "error", name]))

    def drop(self, pairs: PairIds) -> None:
        """Drop the rows of some pairs, which then count as not scored; part by part, each whole or not at all."""
        for part in self.store.parts() if len(pairs) else ():
            rows = self.store.part_rows(part, SCORES_SCHEMA)
            kept = rows.filter(pa.array(~pairs.contains(packed(rows["pair"]))))
            if not len(kept):
                self.store.drop(part)
            elif len(kept) < len(rows):
                self.store.commit(part, kept)

    def fill(self, name: str, values: PairValues) -> int:
        """Fill in a column where it is empty and leave the rest as it is; part by part, each whole or not at all.

        Args:
            name: The column.
            values: Of pairs.

        Returns:
            How many pairs got theirs.
        """
        filled, column = 0, SCORES_SCHEMA.get_field_index(name)
        for part in self.store.parts():
            before = self.store.part_rows(part, SCORES_SCHEMA)
            empty = pc.and_(pc.is_null(before["error"]), pc.is_null(before[name]))
            new = pa.array(values.of(packed(before["pair"])), pa.float32(), from_pandas=True)  # NaN is null
            filled_in = pc.if_else(empty, new, before[name])
            rows = before.set_column(column, SCORES_SCHEMA.field(name), filled_in)
            if gained := before[name].null_count - rows[name].null_count:
                self.store.commit(part, rows)
                filled += gained
        return filled

    def unreadable(self) -> int:
        """How many pairs have no scores since their pictures can't be read, or since a score is not finite."""
        if not self.exists():
            return 0
        without = with_rows(self.store, SCORES_SCHEMA, "error", is_null=False)
        return len(without.without(self.scored())) if len(without) else 0

    def commit(self, part: str, rows: pa.Table) -> None:
        """Make a part count."""
        self.store.commit(part, rows)

    def merge_small(self) -> None:
        """Merge small parts once there are many. For the holder of the output."""
        merge_small(self.store, SCORES_SCHEMA)


def score_rows(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of SCORES_SCHEMA; missing columns are null."""
    return pa.Table.from_pylist([{name: row.get(name) for name in SCORES_SCHEMA.names} for row in rows], SCORES_SCHEMA)


def _identity(scored: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "scores", "format_version": SCORES_FORMAT_VERSION, **scored}
