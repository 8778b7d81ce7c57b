"""``keep`` in a job file: what settings made that the job no longer wants goes once it is old enough.

It goes once a run has made its pairs, and before it scores.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from pipeline.banks.drop import delete, made_before
from pipeline.jobfile.schema import Job
from pipeline.models.session import ModelFacts
from pipeline.results.manifest import Manifest
from pipeline.results.prune import Leavings, drop_leavings, find_leavings, is_under_way
from pipeline.results.retention import WantedOrYoung, all_stay, only_wanted_stay
from pipeline.runner.run import Run
from pipeline.runner.sides import PlannedBank
from pipeline.stages.inject import recipes
from pipeline.stages.pairs import Entries
from pipeline.stages.recipe import Recipe
from pipeline.storage.layout import SIDES, OutputLayout
from pipeline.storage.parts import now
from pipeline.storage.place import Place

log = logging.getLogger(__name__)


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
    """What a run drops; None for nothing. Most nights this reads two columns and lists nothing."""
    manifest = Manifest(output)
    if all_stay(manifest, rule) and not is_under_way(output):
        return None
    return find_leavings(manifest, rule)


def old_banks(output: Place, rule: WantedOrYoung, serving: Iterable[Place]) -> list[Place]:
    """The further banks of sides (``SIDE-DIGEST``) that go: old ones, where all rows that stay are of wanted settings.

    The first bank of a side stays, as jobs with other outputs may name it.

    Args:
        output: The output folder.
        rule: What stays of the rows.
        serving: The banks that serve the job.
    """
    layout, serving = OutputLayout(output), set(serving)
    further = [bank for side in SIDES for bank in layout.banks(side) if bank.name != side and bank not in serving]
    if not further or not only_wanted_stay(Manifest(output), rule):
        return []
    return [bank for bank in further if made_before(bank, rule.before)]


def would_drop(job: Job, facts: ModelFacts, banks: Sequence[PlannedBank], contents: Entries, today: datetime) -> str:
    """What a run would drop, in words; empty for nothing.

    Args:
        job: The job.
        facts: Of its model.
        banks: The banks of its sides, as they are or would be.
        contents: The pictures of that side.
        today: The time, in UTC.
    """
    output = Place.parse(job.output)
    if job.keep is None or not Manifest(output).store.exists():
        return ""
    rule = keep_rule(job.keep, recipes(job, facts, banks[0].description, banks[-1].description, contents), today)
    leavings = old_leavings(output, rule)
    names = [bank.name for bank in old_banks(output, rule, (bank.place for bank in banks))]
    goes = [str(leavings)] if leavings else []
    goes += [f"the banks {', '.join(names)}"] if names else []
    day = f"{rule.before:%Y-%m-%d %H:%M} UTC"
    return f"{' and '.join(goes)} of settings that this job does not want, made before {day}, would go" if goes else ""


def drop_old(run: Run, today: datetime) -> None:
    """Drop what ``job.keep`` says, in a run that has made its pairs and holds the output's lock.

    Killed at any moment, the next run goes on.

    Args:
        run: The run.
        today: The time, in UTC.
    """
    if run.job.keep is None or run.asked is None:
        return
    rule = keep_rule(run.job.keep, run.asked.recipes, today)
    leavings = old_leavings(run.output, rule)
    if leavings:
        run.lock.check()
        drop_leavings(Manifest(run.output), leavings, rule)
        run.counts.pairs_dropped = leavings.pairs
        before = rule.before.isoformat()
        run.log("dropped", pairs=leavings.pairs, files=leavings.files, bytes=leavings.size, before=before)
        run.asked.note(run.output, run.log, run.counts, Manifest(run.output).counts())
        run.report()
    for bank in old_banks(run.output, rule, run.bank_places().values()):
        run.lock.check()
        delete(bank)
        run.log("dropped_bank", bank=bank.name)
        log.info("dropped the bank %s, which only settings that this job no longer wants were made from", bank)
