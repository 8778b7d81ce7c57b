"""The manifest: a row for each pair, and the record of what a run's output holds.

The manifest is the index of the output's part store: a tile's pictures are written first, then its rows appear as one
Parquet file. ``pandas.read_parquet(OUT/manifest)`` reads it all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.counts import count
from pipeline.storage.identity import digest
from pipeline.storage.layout import OutputLayout
from pipeline.storage.merging import small_parts
from pipeline.storage.pair_ids import PairIds, packed
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place

if TYPE_CHECKING:
    import pandas as pd

MANIFEST_FORMAT_VERSION = 1

_SIDE = ("key", "image", "source", "source_hash", "label", "caption", "meta")

MANIFEST_SCHEMA = pa.schema(
    [
        ("pair", pa.string()),  # identity.pair_id
        ("status", pa.string()),  # "ok" or "failed"
        ("error", pa.string()),
        ("picture", pa.string()),  # path below OUT; TAR#MEMBER for a WebDataset
        ("picture_hash", pa.string()),  # BLAKE2b-128 of the file's bytes
        ("picture_bytes", pa.int64()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        *[(f"{side}_{name}", pa.string()) for side in ("content", "style") for name in _SIDE],
        ("settings", pa.string()),  # digest of all that the pairs of a recipe share
        ("recipe", pa.string()),  # JSON: what ``settings`` is the digest of
        ("gamma", pa.float64()),  # null where gamma is a schedule
        ("gamma_schedule", pa.string()),  # JSON
        ("t_edit", pa.int32()),
        ("t_start", pa.int32()),  # null where it is off
        ("t_boost", pa.int32()),
        ("events", pa.string()),
        ("dt_lambda", pa.float64()),
        ("dt_end", pa.int32()),
        ("omega", pa.float64()),
        ("mask", pa.string()),  # JSON
        ("edit", pa.string()),  # JSON; null where no direction was added
        ("start_from_content", pa.float64()),  # null where it is off
        ("match_colours", pa.string()),  # null where it is off
        ("plan", pa.string()),  # JSON
        ("network_calls", pa.int32()),
        ("seed", pa.int64()),  # null where no noise is drawn
        ("inversion", pa.string()),  # JSON
        ("precision", pa.string()),
        ("model", pa.string()),
        ("model_fingerprint", pa.string()),
        ("algorithm", pa.int32()),
        ("made_with", pa.string()),  # JSON: device, batch and versions, which decide the last bits
        ("seconds", pa.float64()),  # this pair's share of its batch
        ("created", pa.timestamp("us", tz="UTC")),
    ]
)

_IDENTITY = {"kind": "results", "format_version": MANIFEST_FORMAT_VERSION}
_FAILED = "failed-"

# Columns that may differ between two runs of the same job; everything else is a function of the inputs.
TIMING_COLUMNS = ("seconds", "created", "made_with")


def side_columns(side: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A bank's index row as the manifest's columns of one side (``content`` or ``style``)."""
    return {f"{side}_{name}": row.get(name) for name in _SIDE}


@dataclass(frozen=True)
class KnownPairs:
    """What a manifest says of pairs.

    Attributes:
        done: The pairs that are made.
        failed: Those that failed and were not made since.
        repeated: How many rows too many the finished pairs have: none, unless two runs wrote here at once.
    """

    done: PairIds = field(default_factory=PairIds)
    failed: PairIds = field(default_factory=PairIds)
    repeated: int = 0


class Manifest:
    """The manifest of an output folder: a row for each pair. Reading needs no lock; writing is the driver's alone.

    Args:
        output: The output folder, or its address on S3 or GCS.
    """

    def __init__(self, output: str | os.PathLike[str] | Place) -> None:
        self.output = Place.parse(output)
        self.store = PartStore(
            self.output, OutputLayout.PICTURES, OutputLayout.MANIFEST, description=OutputLayout.DESCRIPTION
        )

    def open(self) -> None:
        """Make the output a results folder, or check that it is one."""
        self.store.describe(_IDENTITY, {})

    def check(self) -> None:
        """Refuse as :meth:`open` does, and write nothing."""
        self.store.check(_IDENTITY)

    def commit(self, part: str, rows: pa.Table | Sequence[Mapping[str, Any]]) -> None:
        """Make a tile count: its pictures are whole by now.

        Args:
            part: the tile's name.
            rows: of ``MANIFEST_SCHEMA``, one for each of its pairs.
        """
        table = rows if isinstance(rows, pa.Table) else manifest_rows(rows)
        self.store.commit(part, table, _tars(table) - {part})

    def merge_small(self) -> None:
        """Merge small parts once there are many, so that a reader meets few files. For the holder of the output."""
        entries = self.store.entries()
        failed = {part: entry for part, entry in entries.items() if part.startswith(_FAILED)}
        made = {part: entry for part, entry in entries.items() if part not in failed}
        for merge in [*small_parts(made), *small_parts(failed, _FAILED)]:
            tables = self.store.each(lambda rows: rows, MANIFEST_SCHEMA, None, merge.parts)
            rows = pa.concat_tables(tables)
            self.store.merge(merge, rows, _tars(rows))

    def table(self, columns: Iterable[str] | None = None, pairs: PairIds | None = None) -> pa.Table:
        """A row for each pair, ok before failed: a retried failure that succeeded, or a repeated row, counts once.

        Args:
            columns: Names of those wanted, of ``MANIFEST_SCHEMA``; None: all. Of a million rows all are a gigabyte.
            pairs: Of these alone; None: of all. Memory: the rows of these.

        Returns:
            The rows committed so far; none where no pair was made yet.
        """
        wanted = list(MANIFEST_SCHEMA.names if columns is None else columns)

        def of_part(rows: pa.Table) -> pa.Table:
            return rows if pairs is None else rows.filter(pa.array(pairs.contains(packed(rows["pair"]))))

        read = [*wanted, *({"pair", "status"} - set(wanted))]
        if unknown := set(read) - set(MANIFEST_SCHEMA.names):
            self.store.rows(MANIFEST_SCHEMA, sorted(unknown))  # says which, and what was meant
        empty = pa.schema([MANIFEST_SCHEMA.field(name) for name in read]).empty_table()
        table = pa.concat_tables([empty, *self.store.each(of_part, MANIFEST_SCHEMA, read)])
        ids, ok = packed(table["pair"]), _is_ok(table)
        made = _first_of_each(ids, ok)
        if not made.all():
            failed = pc.fill_null(pc.equal(table["status"], "failed"), False).to_numpy()
            failed = _first_of_each(ids, failed & ~PairIds(ids[made]).contains(ids))
            table = pa.concat_tables([table.filter(pa.array(made)), table.filter(pa.array(failed))])
        return table.select(wanted)

    def drop_repeated(self) -> int:
        """Leave each finished pair its first row; returns how many rows were dropped. For the holder of the output."""
        first = _FirstRows(self)
        n = 0
        for part in self.store.parts() if first.any_repeated else []:
            rows = self.store.part_rows(part, MANIFEST_SCHEMA)
            keep = first.of(rows) | ~_is_ok(rows)
            n += int((~keep).sum())
            self.replace(part, rows, rows.filter(pa.array(keep)))
        return n

    def made(self, columns: Sequence[str], pairs: PairIds | None = None) -> Iterator[pa.Table]:
        """The rows of pairs that are made, part by part, each pair once. For the holder of the output.

        Memory: the columns of a part, and some 16 bytes a pair.

        Args:
            columns: Names of those wanted.
            pairs: Of these alone; None: of all.
        """
        if pairs is not None and not len(pairs):
            return
        first = _FirstRows(self)
        for part in self.store.parts():
            rows = self.store.part_rows(part, MANIFEST_SCHEMA, list(dict.fromkeys([*columns, "pair", "status"])))
            keep = first.of(rows)
            if pairs is not None:
                keep &= pairs.contains(packed(rows["pair"]))
            yield rows.filter(pa.array(keep)).select(list(columns))

    def images(self, side: str, pairs: PairIds | None = None) -> set[str]:
        """The contents or the styles that some pairs, or all, were made of. For the holder of the output.

        Args:
            side: ``content`` or ``style``.
            pairs: Of these alone; None: of all.
        """
        column = f"{side}_image"
        return {image for rows in self.made([column], pairs) for image in rows[column].unique().to_pylist()}

    def to_pandas(self, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """:meth:`table` as a data frame.

        Args:
            columns: names of those wanted; None: all.
        """
        return self.table(columns).to_pandas()

    def recipes(self) -> dict[str, str]:
        """The column ``settings`` -> the column ``recipe``, of those rows that have one."""
        recipes: dict[str, str] = {}
        for part in self.store.parts():  # all rows at once would be a kilobyte each
            table = self.store.part_rows(part, MANIFEST_SCHEMA, ["settings", "recipe"])
            for row in table.group_by(["settings", "recipe"]).aggregate([]).to_pylist():
                if row["recipe"] is not None:
                    recipes[row["settings"]] = row["recipe"]
        return recipes

    def __len__(self) -> int:
        return sum(self.counts())

    def __repr__(self) -> str:
        done, failed = self.counts()
        return f"<Manifest {self.output}: {count(done, 'pair')}, {failed} failed>"

    def known(self) -> KnownPairs:
        """Which pairs are done and which failed, in 16 bytes a pair."""

        def ids(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
            ok, pairs = _is_ok(rows), packed(rows["pair"])
            return pairs[ok], pairs[~ok]

        parts = self.store.each(ids, MANIFEST_SCHEMA, ["pair", "status"])
        done = PairIds(*(ok for ok, _ in parts))
        failed = PairIds(*(failed for _, failed in parts)).without(done)
        return KnownPairs(done, failed, sum(len(ok) for ok, _ in parts) - len(done))

    def counts(self) -> tuple[int, int]:
        """How many pairs are done, and how many failed."""
        known = self.known()
        return len(known.done), len(known.failed)

    def seconds_per_call(self, fingerprint: str, precision: str) -> float | None:
        """Seconds that a pair's network call took lately; None where no row says.

        Args:
            fingerprint: of the model.
            precision: that it computed in, such as ``float16``.
        """
        newest = sorted(self.store.entries().items(), key=lambda item: -item[1].mtime_ns)[:8]
        each = []
        columns = ["model_fingerprint", "precision", "seconds", "network_calls"]
        for part, _ in newest:
            rows = self.store.part_rows(part, MANIFEST_SCHEMA, columns)
            rows = rows.filter(
                pc.and_(pc.equal(rows["model_fingerprint"], fingerprint), pc.equal(rows["precision"], precision))
            )
            for row in rows.select(["seconds", "network_calls"]).to_pylist():
                if row["seconds"] and row["network_calls"]:
                    each.append(row["seconds"] / row["network_calls"])
        return float(np.median(each)) if each else None

    # ---- failures ----
    # They lie in parts of their own, so that a retry takes them out without touching a row of a finished pair.

    def commit_failures(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Say that pairs failed.

        Args:
            rows: their rows, with ``status`` failed and an ``error``.
        """
        self.commit(f"{_FAILED}{digest(*(row['pair'] for row in rows))[:20]}", rows)

    def drop_failures(self, pairs: PairIds) -> None:
        """Drop the failed rows of some pairs, before these are tried again.

        Killed after this, they are in no row, and the next run makes them: never is a pair in two rows.

        Args:
            pairs: their ids.
        """
        for part in self.store.parts():
            if part.startswith(_FAILED):
                rows = self.store.part_rows(part, MANIFEST_SCHEMA)
                self.replace(part, rows, rows.filter(pa.array(~pairs.contains(packed(rows["pair"])))))

    def replace(self, part: str, rows: pa.Table, kept: pa.Table) -> None:
        """Leave a part only some of its rows.

        Args:
            part: its name.
            rows: those that it has.
            kept: those that it keeps; of none, the part goes.
        """
        if len(kept) == 0:
            self.store.drop(part)
        elif len(kept) < len(rows):
            self.commit(part, kept)


class _FirstRows:
    """Which rows are the first of a finished pair, part by part: two runs at once may have left it several."""

    def __init__(self, manifest: Manifest) -> None:
        columns = ["pair", "status"]
        ids = manifest.store.each(lambda rows: packed(rows["pair"])[_is_ok(rows)], MANIFEST_SCHEMA, columns)
        self._repeated = PairIds.more_than_once(*ids)
        self._seen: set[str] = set()

    @property
    def any_repeated(self) -> bool:
        return len(self._repeated) > 0

    def of(self, rows: pa.Table) -> np.ndarray:
        """Which of the rows of the next part are: (n,) bool."""
        keep = _is_ok(rows).copy()
        for row in np.flatnonzero(keep & self._repeated.contains(packed(rows["pair"]))).tolist():
            pair = rows["pair"][row].as_py()
            keep[row] = pair not in self._seen
            self._seen.add(pair)
        return keep


def _is_ok(rows: pa.Table) -> np.ndarray:
    return pc.fill_null(pc.equal(rows["status"], "ok"), False).to_numpy()


def _tars(rows: pa.Table) -> set[str]:
    """The parts in whose tars the pictures of some rows lie."""
    if "picture" not in rows.column_names:
        return set()
    members = rows["picture"].filter(pc.match_substring(rows["picture"], ".tar#"))
    files = pc.unique(pc.replace_substring_regex(members, r"(?s)\.tar#.*", "")).to_pylist()
    return {file.rpartition("/")[2] for file in files}


def manifest_rows(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(
        [{name: row.get(name) for name in MANIFEST_SCHEMA.names} for row in rows], MANIFEST_SCHEMA
    )


def _first_of_each(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of some rows, (n,) bool, those that are the first with their id: (n,) bool. ``ids``: (n, 2)."""
    repeated = PairIds.more_than_once(ids[rows])
    kept, seen = rows.copy(), set()
    for row in np.flatnonzero(rows & repeated.contains(ids)).tolist():
        one = ids[row].tobytes()
        kept[row] = one not in seen
        seen.add(one)
    return kept
