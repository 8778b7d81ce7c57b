"""``keep`` in a job file: what settings made that the job no longer wants goes once it is old enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from pipeline.banks.description import BankDescription
from pipeline.jobfile.schema import Job
from pipeline.models.session import ModelFacts
from pipeline.results.manifest import Manifest
from pipeline.results.prune import Leavings, drop_leavings, find_leavings, is_under_way
from pipeline.results.retention import WantedOrYoung, all_stay
from pipeline.runner.run import Run
from pipeline.stages.inject import recipes
from pipeline.stages.pairs import Entries
from pipeline.stages.recipe import Recipe
from pipeline.storage.parts import now
from pipeline.storage.place import Place


class Clock:
    """The time of day, as far as a steady clock agrees: a jump forward while a run goes on makes nothing older.

    Args:
        today: Gives the time of day, in UTC.
        steady: Gives seconds that never jump.
    """

    def __init__(self, today: Callable[[], datetime] = now, steady: Callable[[], float] = time.monotonic) -> None:
        self._today, self._steady = today, steady
        self._began = today(), steady()

    def now(self) -> datetime:
        """The time, in UTC."""
        day, seconds = self._began
        return min(self._today(), day + timedelta(seconds=self._steady() - seconds))


def keep_rule(keep: float, sweep: Iterable[Recipe], today: datetime) -> WantedOrYoung:
    """What stays: all that is made by the recipes of a job, and what is younger than ``keep`` seconds."""
    before = datetime.fromtimestamp(max(0.0, today.timestamp() - keep), UTC)
    return WantedOrYoung(frozenset(recipe.digest for recipe in sweep), before)


def old_leavings(output: Place, rule: WantedOrYoung) -> Leavings | None:
    """What a run drops at its end; None for nothing. Most nights this reads two columns and lists nothing."""
    manifest = Manifest(output)
    if all_stay(manifest, rule) and not is_under_way(output):
        return None
    return find_leavings(manifest, rule)


def would_drop(
    job: Job, facts: ModelFacts, banks: tuple[BankDescription, BankDescription], contents: Entries, today: datetime
) -> str:
    """What a run would drop at its end, in words; empty for nothing.

    Args:
        job: The job.
        facts: Of its model.
        banks: The descriptions of the content bank and of the style bank, as they are or would be.
        contents: The pictures of that side.
        today: The time, in UTC.
    """
    output = Place.parse(job.output)
    if job.keep is None or not Manifest(output).store.exists():
        return ""
    rule = keep_rule(job.keep, recipes(job, facts, *banks, contents), today)
    leavings = old_leavings(output, rule)
    day = f"{rule.before:%Y-%m-%d %H:%M} UTC"
    return f"{leavings} of settings that this job does not want, made before {day}, would go" if leavings else ""


def drop_old(run: Run, today: datetime) -> None:
    """Drop what ``job.keep`` says, at the end of a run that made its pairs and holds the output's lock.

    Killed at any moment, the next run goes on.

    Args:
        run: The run.
        today: The time, in UTC.
    """
    if run.job.keep is None or run.asked is None:
        return
    rule = keep_rule(run.job.keep, run.asked.recipes, today)
    leavings = old_leavings(run.output, rule)
    if not leavings:
        return
    run.lock.check()
    drop_leavings(Manifest(run.output), leavings, rule)
    run.counts.pairs_dropped = leavings.pairs
    run.log("dropped", pairs=leavings.pairs, files=leavings.files, bytes=leavings.size, before=rule.before.isoformat())
    run.asked.note(run.output, run.log, run.counts, Manifest(run.output).counts())
    run.report()
