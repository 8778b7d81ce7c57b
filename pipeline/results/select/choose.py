"""Which pairs of a run are chosen: each rule in its turn, and how many pairs it left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffstyle.errors import ConfigError
from pipeline.results.manifest import Manifest
from pipeline.results.scores import NO_SOURCES, SCORES_OF_SIDES, Scores
from pipeline.results.select.keep_list import read_keep_list
from pipeline.results.select.licences import is_allowed
from pipeline.results.select.pairs import RunPairs, columns_of, matching, score_columns
from pipeline.results.select.ranking import best_first, within_quotas, without_duplicates
from pipeline.results.select.splits import By, splits_of
from pipeline.storage.counts import count
from pipeline.storage.pair_ids import PairIds, packed
from pipeline.storage.place import Place

#: The split of a data set for which none were asked.
ALL = "train"


@dataclass(frozen=True)
class Rules:
    """What is asked of the pairs, in the order in which it is applied.

    Attributes:
        where: An SQL condition over manifest and scores.
        keep: A CSV list with the columns ``pair`` and ``decision``.
        licences: Those that both sources of a pair must have, as ``allowed_list`` gives them; empty: any, or none.
        splits: Name -> share; empty: no splits.
        splits_by: What is held out.
        seed: Of the splits.
        duplicates: Up to how many bits of their hash two pictures are near-duplicates; None: not looked at.
        best: The score by which the best are taken; see ``best_first``.
        per_style: At most so many pairs of a style; None: any number.
        per_content: At most so many of a content.
        limit: At most so many in all.
    """

    where: str | None = None
    keep: Path | None = None
    licences: tuple[str, ...] = ()
    splits: Mapping[str, float] = field(default_factory=dict)
    splits_by: By = "both"
    seed: int = 0
    duplicates: int | None = None
    best: str | None = None
    per_style: int | None = None
    per_content: int | None = None
    limit: int | None = None

    @property
    def best_column(self) -> str | None:
        """The column that ``best`` names."""
        return None if self.best is None else self.best.lstrip("+-")

    def columns(self, names: Sequence[str]) -> set[str]:
        """Of all columns that there are, those that the rules look at."""
        needed = {self.best_column} if self.best_column else set()
        needed |= columns_of(self.where, names) if self.where is not None else set()
        needed |= {"content_licence", "style_licence"} if self.licences else set()
        needed |= {"phash"} if self.duplicates is not None else set()
        if self.splits or self.per_style is not None or self.per_content is not None:
            needed |= {"content_image", "style_image"}
        return needed

    def check(self) -> None:
        """ConfigError where two of them don't go together."""
        if self.best is not None and (self.duplicates, self.per_style, self.per_content, self.limit) == (None,) * 4:
            raise ConfigError(
                "--best: says which pairs come first, but all are taken; add --limit, --per-style, --per-content or "
                "--drop-duplicates"
            )


@dataclass(frozen=True)
class LeftOut:
    """How many pairs a rule left out, and in words why."""

    rule: str
    pairs: int
    why: str = ""

    def __str__(self) -> str:
        return f"{self.pairs:,} left out by {self.rule}" + (f" ({self.why})" if self.why else "")


@dataclass(frozen=True)
class Choice:
    """The chosen pairs.

    Attributes:
        table: Their rows as :class:`RunPairs` gives them, sorted by ``pair``, with a column ``split``.
        made: How many pictures the run has.
        left_out: What each rule left out, in order.
        notes: What the user should know.
    """

    table: pa.Table
    made: int
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    @property
    def splits(self) -> dict[str, int]:
        """Split -> how many pairs it has; without those that have none."""
        counts = Counter(self.table["split"].to_pylist())
        return {name: counts[name] for name in dict.fromkeys([*_order(self.table), *counts]) if counts[name]}

    def lines(self) -> list[str]:
        """What the command prints."""
        chosen = f"{len(self.table):,} of {count(self.made, 'pair')} chosen"
        if _order(self.table):
            chosen += ": " + ", ".join(f"{name} {n:,}" for name, n in self.splits.items())
        left_out = [str(one) for one in self.left_out if one.pairs]
        return [*left_out, *(f"note: {note}" for note in self.notes), chosen]


def _order(table: pa.Table) -> list[str]:
    names = (table.schema.field("split").metadata or {}).get(b"order", b"")
    return names.decode().split(",") if names else []


def choose(run: Place, rules: Rules, whole: bool = True) -> Choice:
    """Choose the pairs of a run.

    Args:
        run: The output folder, or its address on S3 or GCS.
        rules: What is asked of them.
        whole: Whether the chosen rows are wanted with all their columns; else those that the rules look at are enough.

    Raises:
        ConfigError: A rule is wrong, or there are no pictures.
    """
    rules.check()
    pairs = RunPairs(run)
    if rules.best_column is not None:
        pairs.number(rules.best_column, "--best")
    if rules.duplicates is not None and not pairs.scored:
        raise ConfigError("--drop-duplicates: this run has no scores yet; `diffstyle score RUN` makes them")
    table = pairs.table(rules.columns(pairs.names))
    made = len(table)
    left_out: list[LeftOut] = []
    notes: list[str] = []

    def keep(kept: pa.Array | pa.ChunkedArray, rule: str, why: str = "") -> None:
        nonlocal table
        before, table = len(table), table.filter(kept)
        left_out.append(LeftOut(rule, before - len(table), why if before > len(table) else ""))

    if rules.where is not None:
        notes += _without_scores(table, rules.where)
        fitting = PairIds(packed(matching(table, rules.where, pairs.unknown)))
        keep(pa.array(fitting.contains(packed(table["pair"]))), "--where")
    table = table.sort_by("pair").combine_chunks()
    if rules.keep is not None:
        decisions = read_keep_list(rules.keep)
        unknown = (decisions.keep | decisions.reject) - set(_all_ids(run))
        if unknown:
            notes.append(
                f"{count(len(unknown), 'pair')} of {rules.keep} {'is' if len(unknown) == 1 else 'are'} not in this run"
            )
        if decisions.keep:
            keep(pc.is_in(table["pair"], _texts(decisions.keep)), "--keep", "the list does not keep them")
        else:
            keep(pc.invert(pc.is_in(table["pair"], _texts(decisions.reject))), "--keep", "the list rejects them")
    if rules.licences:
        keep(*_licensed(table, rules.licences))
    table, split_why = _with_splits(table, rules)
    if rules.splits:
        keep(pc.is_valid(table["split"]), "--splits", split_why)
        notes += _other_shares(table, rules)
    if rules.duplicates is not None:
        unknown_hash = table["phash"].null_count
        if unknown_hash:
            notes.append(f"{count(unknown_hash, 'pair', 'has/have')} no scores and so no others to be compared with")
        order = best_first(table, rules.best)
        kept = without_duplicates(table["phash"].to_pylist(), order, rules.duplicates)
        keep(_mask(kept, len(table)), "--drop-duplicates", f"within {rules.duplicates} bits of one that is kept")
    if rules.per_style is not None or rules.per_content is not None:
        order = best_first(table, rules.best)
        kept = within_quotas(table, order, {"style_image": rules.per_style, "content_image": rules.per_content})
        given = {"--per-style": rules.per_style, "--per-content": rules.per_content}
        keep(_mask(kept, len(table)), " and ".join(name for name, value in given.items() if value is not None))
    if rules.limit is not None:
        keep(_mask(best_first(table, rules.best)[: rules.limit], len(table)), "--limit")
    if rules.best_column is not None and (empty := table[rules.best_column].null_count):
        why = _why_empty(run, table, rules.best_column)
        one = empty == 1
        notes.append(
            f"{empty:,} of the chosen pairs {'has' if one else 'have'} no {rules.best_column}; "
            f"{'it' if one else 'they'} came last{why}"
        )
    if whole:
        chosen = pairs.table(only=table["pair"]).sort_by("pair").combine_chunks()
        if len(chosen) < len(table):
            raise ConfigError(
                f"{run}: pairs were dropped from it meanwhile (prune, verify --repair or keep); choose again"
            )
        table = chosen.append_column(table.schema.field("split"), table["split"])
    choice = Choice(table, made, tuple(left_out), tuple(notes))
    lacking = [name for name in rules.splits if name not in choice.splits]
    if lacking and len(table):
        notes.append(f"no pair is in {', '.join(lacking)}: too few pictures for so small a share, or another --seed")
    return Choice(table, made, tuple(left_out), tuple(notes))


def _without_scores(table: pa.Table, condition: str) -> list[str]:
    """A note where pairs lack scores that a condition names: left out for that, they were not judged."""
    words = set(re.findall(r"\w+", condition.lower()))
    named = [name for name in score_columns(table) if name.lower() in words]
    lacking = {name: table[name].null_count for name in named if table[name].null_count}
    each = [f"{count(n, 'pair', 'has/have')} no {name}" for name, n in lacking.items()]
    return [f"--where: {', '.join(each)} to fulfil it; `diffstyle score RUN` scores what is new"] if each else []


def _why_empty(run: Place, table: pa.Table, column: str) -> str:
    """Why pairs that were scored lack a score; empty where that is not known."""
    if column not in {name for names in SCORES_OF_SIDES.values() for name in names}:
        return ""
    lacking = table["pair"].filter(pc.is_null(table[column]))
    return f": {NO_SOURCES}" if Scores(run).lacking(column).contains(packed(lacking)).any() else ""


def _all_ids(run: Place) -> list[str]:
    """The ids of a run's pairs, also of those that failed."""
    return Manifest(run).table(["pair"])["pair"].to_pylist()


def _texts(values: frozenset[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())


def _mask(rows: np.ndarray, n: int) -> pa.Array:
    mask = np.zeros(n, bool)
    mask[rows] = True
    return pa.array(mask)


def _licensed(table: pa.Table, allowed: tuple[str, ...]) -> tuple[pa.Array, str, str]:
    """Which pairs may be used, the rule's name, and how many pairs each other licence cost."""
    sides = [table[f"{side}_licence"].combine_chunks() for side in ("content", "style")]
    good = []
    for licences in sides:
        distinct = pc.unique(licences)
        verdicts = pa.array([is_allowed(licence, allowed) for licence in distinct.to_pylist()], pa.bool_())
        good.append(verdicts.take(pc.index_in(licences, distinct)))
    kept = pc.and_(*good)
    wrong = pc.if_else(good[0], sides[1], sides[0]).filter(pc.invert(kept))
    counts = Counter(
        {row["values"] or "no licence stated": row["counts"] for row in pc.value_counts(wrong).to_pylist()}
    )
    words = [f"{name}: {n:,}" for name, n in counts.most_common(8)]
    words += ["..."] if len(counts) > len(words) else []
    return kept, "--licence", ", ".join(words)


def _with_splits(table: pa.Table, rules: Rules) -> tuple[pa.Table, str]:
    if not rules.splits:
        return table.append_column("split", pa.array([ALL] * len(table), pa.string())), ""
    splits = splits_of(table["content_image"], table["style_image"], rules.splits, rules.seed, rules.splits_by)
    order = pa.field("split", pa.string(), metadata={"order": ",".join(rules.splits)})
    return table.append_column(order, splits), "their content and their style belong to different splits"


def _other_shares(table: pa.Table, rules: Rules) -> list[str]:
    """A note where a split has clearly more or less of the pairs than its share: what is held out are pictures.

    Not where one has none: that has a note of its own.
    """
    counts = Counter(table["split"].to_pylist())
    if len(counts) < len(rules.splits) or all(
        abs(counts[name] / len(table) - share) < 0.01 for name, share in rules.splits.items()
    ):
        return []
    sides = ("content", "style") if rules.splits_by == "both" else (rules.splits_by,)
    each = []
    for name in rules.splits:
        own = table.filter(pc.equal(table["split"], name))
        pictures = " and ".join(count(len(pc.unique(own[f"{side}_image"])), side) for side in sides)
        each.append(f"{name} has {pictures}, {counts[name] / len(table):.0%} of the pairs")
    held_out = " and ".join(f"{side}s" for side in sides)
    return [f"the shares of --splits are of {held_out}, each placed by its hash, not of pairs: {'; '.join(each)}"]
