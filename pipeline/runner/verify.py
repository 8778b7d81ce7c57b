"""Is a run's output what it says it is? Pictures, manifest, shards and banks, each by its own district's check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa

from diffstyle.errors import DiffStyleError
from pipeline.banks import verify as banks
from pipeline.monitoring.status import NoRunError, read_plan
from pipeline.results.manifest import Manifest
from pipeline.results.network_scores import SOURCES_SCHEMA, networks_of
from pipeline.results.scores import SCORES_SCHEMA, Scores
from pipeline.results.verify import ResultsReport, check_results, drop_damaged
from pipeline.runner.journal import damaged_job, unreadable_events
from pipeline.shards.verify import ShardsReport, check_shards, drop_parts
from pipeline.storage.counts import count, data_size
from pipeline.storage.layout import SIDES, OutputLayout
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.stored_description import DescriptionError
from pipeline.storage.tables import DamagedError

Progress = Callable[[str], None]


@dataclass
class RunReport:
    """What :func:`verify_run` saw in an output folder.

    Attributes:
        results: Of the manifest and its pictures.
        shards: By the store's place.
        banks: By the bank's place.
        problems: A line for each thing that is wrong, of all of them.
        seals: Those that can't be read (``storage/parts.py``). What they seal is not checked before they are dropped.
        plan: Whether ``plan.json`` is as it was written.
        scores: Parts of the scores that can't be read.
        kept: Those of the problems that :func:`repair_run` can't do anything about.
        notes: What is no problem.
    """

    output: Place
    results: ResultsReport
    shards: dict[Place, ShardsReport] = field(default_factory=dict)
    banks: dict[Place, banks.BankReport] = field(default_factory=dict)
    seals: list[Place] = field(default_factory=list)
    plan: bool = True
    scores: list[tuple[PartStore, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def summary(self) -> str:
        """One line for people."""
        pictures = sum(report.pictures for report in self.shards.values())
        images = sum(report.images for report in self.banks.values())
        checked = (
            f"{count(self.results.pairs, 'pair')} ({data_size(self.results.bytes)} of pictures), "
            f"{count(pictures, 'prepared picture')} in {count(len(self.shards), 'shard store')}, "
            f"{count(images, 'image')} in {count(len(self.banks), 'bank')}"
        )
        n = len(self.problems)
        if self.seals:
            checked = "the parts can't be checked before the seals are dropped"
        return f"{checked}: {count(n, 'problem') if n else 'all is well'}"


def verify_run(output: Place, progress: Progress = lambda line: None) -> RunReport:
    """Check everything that a run keeps in its output; changes nothing.

    Args:
        output: The output folder.
        progress: Called with a line before each thing that is checked.

    Raises:
        NoRunError: There is nothing of a run here.
    """
    layout = OutputLayout(output)
    manifest = Manifest(output)
    shards = [layout.shards(side) for side in SIDES if PartStore(layout.shards(side)).exists()]
    bank_places = [place for side in SIDES for place in layout.banks(side)]
    if not (layout.job.is_file() or manifest.store.exists() or shards or bank_places):
        raise NoRunError(f"{output}: nothing of a run is here; give a job's output folder")
    networks = [store for one in networks_of(output) for store in (one.store, one.sources)]
    stores = [manifest.store, Scores(output).store, *networks, *map(PartStore, shards + bank_places)]
    if seals := {place: why for store in stores for place, why in store.damaged_seals().items()}:
        return RunReport(output, ResultsReport(), seals=list(seals), problems=list(seals.values()))
    progress(f"{layout.manifest} and {layout.pictures}")
    report = RunReport(output, check_results(manifest))
    report.problems += map(str, report.results.problems)
    try:
        read_plan(output)
    except DamagedError as error:
        report.plan = False
        report.problems.append(str(error))
    if (damaged := damaged_job(output)) is not None:
        report.kept.append(damaged)
    for run, n in unreadable_events(output).items():
        report.notes.append(
            f"{layout.events}/{run}.jsonl: {count(n, 'line')} can't be read, as of a run that was killed while "
            "writing; no result depends on it"
        )
    _check_scores(report)
    _check_networks(report)
    for place in shards:
        progress(str(place))
        try:
            report.shards[place] = shard_report = check_shards(place)
        except DiffStyleError as error:
            report.kept.append(f"{error}; or delete {place}, and the next run prepares the pictures again")
            continue
        report.problems += map(str, shard_report.problems)
        report.notes += shard_report.notes
    for place in bank_places:
        progress(str(place))
        try:
            report.banks[place] = bank_report = banks.verify(place)
        except DiffStyleError as error:
            report.kept.append(f"{error}; or delete {place}, and the next run inverts the pictures again")
            continue
        report.problems += [f"{place}: {problem}" for problem in bank_report.problems]
        report.notes += bank_report.notes
    report.problems += report.kept
    return report


def _check_scores(report: RunReport) -> None:
    scores = Scores(report.output)
    if not scores.exists():
        return
    try:
        scores.store.description()
    except DescriptionError as error:
        report.kept.append(f"{error}; or delete it and {OutputLayout(report.output).scores}, and score the run again")
        return
    _check_parts(report, scores.store, SCORES_SCHEMA)


def _check_networks(report: RunReport) -> None:
    for network in networks_of(report.output):
        try:
            schema = network.schema
        except (DescriptionError, KeyError) as error:
            folder = OutputLayout(report.output).networks
            report.kept.append(f"{error}; or delete it and {folder / network.name}, and score the run again")
            continue
        _check_parts(report, network.store, schema)
        _check_parts(report, network.sources, SOURCES_SCHEMA)


def _check_parts(report: RunReport, store: PartStore, schema: pa.Schema) -> None:
    for part in store.parts():
        try:
            store.part_rows(part, schema, schema.names[:1])
        except DamagedError as error:
            report.scores.append((store, part))
            report.problems.append(str(error).partition("; run ")[0])
        except FileNotFoundError:  # a run that is under way has merged it
            continue


def repair_run(report: RunReport) -> None:
    """Drop what is broken, so that the next run makes it again. Call it while holding the output's lock.

    Where seals were broken, check again after it: until then, nothing below them was checked.
    """
    if report.ok:
        return
    for seal in report.seals:
        seal.delete()
    drop_damaged(Manifest(report.output), report.results)
    if not report.plan:
        OutputLayout(report.output).plan.delete()
    for store, part in report.scores:
        store.drop(part)
    for place, shards in report.shards.items():
        drop_parts(place, shards.broken)
    for place, bank in report.banks.items():
        if not bank.ok:
            banks.repair(place, bank)
