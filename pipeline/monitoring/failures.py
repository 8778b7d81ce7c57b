"""Every source that was rejected and every pair that failed, with its reason, from an output's files alone."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from pipeline.banks.reader import LatentBank
from pipeline.monitoring.events import read_events, run_ids
from pipeline.monitoring.status import NoRunError, output_of, read_plan
from pipeline.results.manifest import Manifest
from pipeline.results.network_scores import networks_of
from pipeline.results.pictures import recipe_slug
from pipeline.results.scores import Scores
from pipeline.shards.store import open_shards
from pipeline.storage.layout import SIDES, OutputLayout
from pipeline.storage.masking import masking_errors
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.visible import on_one_line

if TYPE_CHECKING:
    from pipeline.jobfile.schema import Job

#: stage -> what has become of what failed there: a source, a picture, a pair, the scores of one.
KINDS = {"shard": "rejected", "precompute": "not inverted", "inject": "failed", "score": "not scored"}


@dataclass(frozen=True)
class FailedItem:
    """A picture or a pair that a job wanted and does not have.

    Attributes:
        stage: ``shard``, ``precompute``, ``inject`` or ``score``.
        name: Of a picture its source or its key, of a pair ``CONTENT__STYLE``, or the row of a list that asks for it.
        error: Why, in one line.
        settings: Of a pair the name of its point of the sweep, as its folder below ``pictures/`` is called; else empty.
    """

    stage: str
    name: str
    error: str
    settings: str = ""

    @property
    def kind(self) -> str:
        """``rejected``, ``not inverted``, ``failed`` or ``not scored``."""
        return KINDS[self.stage]

    def __str__(self) -> str:
        settings = f" ({self.settings})" if self.settings else ""
        return on_one_line(f"{self.kind:<12} {self.name}{settings}: {self.error}")


@masking_errors
def failures(run: str | os.PathLike[str] | Place | Job) -> list[FailedItem]:
    """Every source that was rejected, picture that was not inverted and pair that failed, by the files of an output.

    Args:
        run: The output folder or its address, a job file that names it, or a job.

    Returns:
        What the last run's job wanted and does not have, in the order of the stages.

    Raises:
        NoRunError: No job was run there.
    """
    output = output_of(run)
    if not OutputLayout(output).job.is_file():
        raise NoRunError(f"{output}: no job was run here (there is no job.yaml); give a job's output folder")
    plan = read_plan(output) or {}
    names, banks = plan.get("sides", SIDES), plan.get("banks", {})
    layout = OutputLayout(output)
    items = list(rejected(layout.shards(name) for name in names))
    items += not_inverted(layout.bank(name).parent / banks.get(name, name) for name in names)
    items += lost_pairs(output)
    return [*items, *failed_pairs(output), *not_scored(output)]


def rejected(shards: Iterable[Place]) -> Iterator[FailedItem]:
    """The sources that could not be read, of shards that are there."""
    for place in shards:
        if PartStore(place).exists():
            for source, _, reason in open_shards(place).rejected():
                yield FailedItem("shard", source, reason)


def not_inverted(banks: Iterable[Place]) -> Iterator[FailedItem]:
    """The pictures that could not be inverted, of banks that are there."""
    for place in banks:
        if PartStore(place).exists():
            for key, error in LatentBank.open(place).failed().items():
                yield FailedItem("precompute", key, error)


def lost_pairs(output: Place) -> list[FailedItem]:
    """The pairs that could not be made since a picture of theirs can't be used, as the last run that planned said."""
    for run in reversed(run_ids(output)):
        lost, planned = [], False
        for event in read_events(output, run):
            planned = planned or event["event"] == "pairs_planned"
            if event["event"] == "pair_lost":
                lost.append(
                    FailedItem("inject", lost_name(event["where"], event["content"], event["style"]), event["reason"])
                )
        if planned:
            return lost
    return []


def lost_name(where: str, content: str, style: str) -> str:
    """The name of a pair that is asked for in a row and can't be made."""
    return f"{where}: {content} x {style}"


def failed_pairs(output: Place) -> Iterator[FailedItem]:
    """The pairs that failed, by the manifest."""
    manifest = Manifest(output)
    if not manifest.store.exists():
        return
    columns = ["status", "error", "content_key", "style_key", "gamma", "gamma_schedule", "settings"]
    rows = manifest.table(columns)
    for row in rows.filter(pc.equal(rows["status"], "failed")).to_pylist():
        gamma = next(iter(json.loads(row["gamma_schedule"]))) if row["gamma"] is None else row["gamma"]
        name = f"{row['content_key']}__{row['style_key']}"
        yield FailedItem("inject", name, row["error"] or "unknown", recipe_slug(gamma, row["settings"]))


def not_scored(output: Place) -> Iterator[FailedItem]:
    """The pairs that lack scores, of the run's model or of a network: unreadable, or not finite."""
    own = Scores(output)
    tables = [own.table(["pair", "error"])] if own.exists() else []
    tables += [network.table(["pair", "error"]) for network in networks_of(output)]
    errors: dict[str, str] = {}  # a picture that can't be read lacks all scores, and is named once
    for table in tables:
        rows = table.to_pylist()
        done = {row["pair"] for row in rows if row["error"] is None}
        for row in rows:
            if row["pair"] not in done:
                errors.setdefault(row["pair"], row["error"])
    yield from (FailedItem("score", pair, error) for pair, error in errors.items())


def as_csv(items: Collection[FailedItem]) -> str:
    """A table with a header: kind, stage, name, settings, reason."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["kind", "stage", "name", "settings", "reason"])
    table.writerows([item.kind, item.stage, item.name, item.settings, item.error] for item in items)
    return stream.getvalue()
