"""A job from its file to its pictures: the stages in order, on one pool of workers.

Each stage reads what the one before committed and does what is missing, so running a job again goes on where it was.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

import diffstyle
from diffstyle.errors import ConfigError
from pipeline.banks.reader import LatentBank, cached_bank
from pipeline.jobfile.schema import BankSpec, Job, RandomPairs
from pipeline.launch.own_files import named_yaml
from pipeline.models.config import load_model_config
from pipeline.models.session import ModelFacts, model_facts, resolve_device
from pipeline.monitoring.failures import lost_name
from pipeline.monitoring.prometheus import Metrics
from pipeline.monitoring.summary import RunCounts, summary_lines
from pipeline.results.contact_sheets import contact_sheets
from pipeline.results.manifest import Manifest
from pipeline.results.sheet_rows import sheet_rows
from pipeline.results.sweep_sheet import sweep_sheet
from pipeline.runner.asked import Asked
from pipeline.runner.budget import Budget, WithinBudget
from pipeline.runner.check import check_job, require_made
from pipeline.runner.journal import Journal
from pipeline.runner.listing import listed_pictures
from pipeline.runner.pools import PoolOnDemand, crew, memory_of_a_tile, model_pool
from pipeline.runner.sides import PlannedBank, Side, bank_description, check_apart, plan_bank, sides
from pipeline.runner.stage_clock import StageClock
from pipeline.shards.store import ShardStore, open_shards
from pipeline.sources import open_source
from pipeline.stages.inject import (
    PairPlan,
    all_remaining,
    check_banks,
    inject_stage,
    manifest_columns,
    mixed_precision,
    recipes,
    too_short_plan,
    units,
)
from pipeline.stages.pairs import Listed, WantedPairs, entries, wanted_pairs
from pipeline.stages.recipe import needed_tensors
from pipeline.stages.shard import shard_stage
from pipeline.stages.tiles import Sizer, most_pairs
from pipeline.storage.counts import count
from pipeline.storage.errors import EXIT_DONE, EXIT_FAILURES, fatal, how_it_ended
from pipeline.storage.lock import OutputLock
from pipeline.storage.pair_ids import PairIds
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.workers.base import Pool, Workers
from pipeline.workers.ray_workers import RayWorkers
from pipeline.workers.unit import Outcome, Resources

__all__ = ["Options", "Run", "RunCounts", "Side", "bank_description", "sides"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How a job is run, as opposed to what it makes."""

    retry_failed: bool = False
    quiet: bool = False
    max_failures: int | None = None  # instead of the job's


class Run:
    """One run of a job, over any of its stages. A context manager: it holds the output's lock and the workers.

    ``workers`` says where the work runs; None: on a Ray of this process's own. ``counts`` are filled as it goes on.
    """

    def __init__(
        self,
        job: Job,
        options: Options = Options(),
        workers: Workers | None = None,
        counts: RunCounts | None = None,
    ) -> None:
        self.job = job
        self.options = options
        self.workers: Workers = RayWorkers() if workers is None else workers
        self.output = Place.parse(job.output)
        self.sides = sides(job)
        self.counts = RunCounts() if counts is None else counts
        self.sheets: list[Place] = []
        self._stack = ExitStack()
        self._pool: Pool | None = None
        self._banks: tuple[LatentBank, LatentBank] | None = None
        self._metrics = Metrics()
        self._budget = Budget(job.stop_after)
        self._journal = Journal(self.output, job)
        self.log: Callable[..., None] = self._journal.log
        limit = job.compute.max_failures if options.max_failures is None else options.max_failures
        self._clock = StageClock(self.counts, self.log, limit, options.quiet)
        self._begun = time.perf_counter()
        self._facts: ModelFacts | None = None
        self._crew: tuple[int, Resources] | None = None
        self._listed: dict[str, list[Listed] | None] = {}
        self._planned: dict[str, PlannedBank] = {}
        self.asked: Asked | None = None  # by the stage that makes the pairs

    def check(self, stages: Sequence[str]) -> None:
        """Refuse what can be refused before anything is written, and before the lock is taken."""
        self.log("run_started", diffstyle=diffstyle.__version__, host=platform.node(), job=named_yaml(self.job))
        check_apart(self.sides)
        facts = None
        if set(stages) != {"shard"}:
            device = resolve_device(self.job.compute.device)
            self._crew = crew(self.job.compute, device, self.workers)
            facts = self.facts
            self.log("model_checked", **vars(facts))
        if "shard" in stages and any(side.needs_shards for side in self.sides):
            self.workers.check_decoders(self.job.compute.decode_on)
        check_job(self.job, self.sides, stages, facts)

    def __enter__(self) -> Run:
        self.lock = self._stack.enter_context(OutputLock(self.output))
        self._planned.clear()  # another run may have made banks until now
        return self

    def begin(self) -> None:
        """Note that this run now changes the output: its job and its events are written from here on."""
        self._journal.begin()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self.counts.whole = time.perf_counter() - self._begun
        outcome, code = how_it_ended(error, EXIT_FAILURES if self.counts.failed else EXIT_DONE)
        self.log("run_ended", outcome=outcome, exit_code=code, **self.counts.figures())
        try:
            self._journal.close(refused=error is not None)
        finally:
            self._stack.__exit__(kind, error, trace)
        # A disk that fills up or rights that are lost while the driver commits: no bug, and the run can go on later.
        if isinstance(error, OSError) and (stop := fatal(error)) is not None:
            raise stop from error

    # ---- what stages share ----

    @property
    def facts(self) -> ModelFacts:
        """The model, loaded once and strictly: a wrong checkpoint ends the run before anything else starts."""
        if self._facts is None:
            self._facts = model_facts(self.job.model, self.job.weights)
            self.log("model", **vars(self._facts))
            if self._facts.weights:
                log.info("model %s: of the checkpoint's weights, the %s", self._facts.name, self._facts.weights)
        return self._facts

    def bank(self, side: Side) -> PlannedBank:
        """The bank that serves a side, looked for once; :meth:`bank_made` says that it is there now."""
        if side.name not in self._planned:
            self._planned[side.name] = plan_bank(self.job, side, self.facts)
        return self._planned[side.name]

    def bank_made(self, side: Side) -> None:
        """The side's bank is there from now on."""
        self._planned[side.name] = replace(self.bank(side), made=True)

    @property
    def pool(self) -> Pool:
        """The workers that hold the model; they start when first asked for and serve all stages."""
        if self._pool is None:
            self.begin()
            self._clock.starting()
            made = model_pool(self.job, self.facts, self.workers, self._clock.on_event, self.lock.check, self._crew)
            self._pool = self._stack.enter_context(WithinBudget(made, self._budget))
        return self._pool

    def stage(
        self, name: str, total: int | None, unit: str, tidy: Callable[[], Any]
    ) -> AbstractContextManager[Callable[[int, int, Outcome | None], None]]:
        """See :meth:`StageClock.stage`."""
        return self._clock.stage(name, total, unit, tidy)

    # ---- the stages ----

    def shard(self) -> None:
        """Stage 1 for each side that reads a data set."""
        size = load_model_config(self.job.model).size
        if not all(PartStore(side.shards).exists() for side in self.sides if side.needs_shards):
            self.begin()
        Manifest(self.output).open()  # marks the output as one, so that a data set around it leaves it out

        def decoders() -> Pool:
            self.begin()
            self._clock.starting()
            limit = self.job.compute.unit_timeout
            return self.workers.decoders(
                on_event=self._clock.on_event,
                check=self.lock.check,
                unit_timeout=limit,
                on=self.job.compute.decode_on,
            )

        with WithinBudget(PoolOnDemand(decoders), self._budget) as pool:
            for side in self.sides:
                if not side.needs_shards:
                    continue
                tidy = ShardStore(side.shards).remove_uncommitted
                with self.stage(f"shard {side.name}", None, "picture", tidy) as on_done:
                    summary = shard_stage(
                        pool,
                        open_source(side.spec),
                        side.shards,
                        size,
                        reading=side.spec.reading,
                        on_done=on_done,
                        retry_failed=self.options.retry_failed,
                    )
                self.counts.prepared += summary.done
                self.counts.rejected += len(open_shards(side.shards).rejected())
                if (line := summary.passed_over.line()) is not None:
                    log.warning("%s: %s", side.name, line)
                for reason, n in summary.passed_over.items():
                    self.log("passed_over", side=side.name, reason=reason, n=n)

    def _listing(self, side: Side) -> list[Listed] | None:
        """The pictures as the side's source lists them now, also those that can't be read; None for a bank or samples.

        A picture that has left its data set stays in shards and bank, but no pair is made with it any more.
        """
        if side.name not in self._listed:
            if not side.needs_shards:
                self._listed[side.name] = None
            else:
                self._listed[side.name] = listed_pictures(side, by_place=self.job.pairs == "zip")
        return self._listed[side.name]

    def _roots(self, side: Side) -> tuple[str, ...]:
        return open_source(side.spec).roots if side.needs_shards else ()

    def wanted_images(self, side: Side) -> set[str] | None:
        """The images that the side's source lists now; None where all that are there count."""
        listing = self._listing(side)
        return None if listing is None else {row.image for row in listing if row.image is not None}

    def bank_places(self) -> dict[str, Place]:
        """Side -> the bank that served in this run; where none was needed, the one that ``Side.bank`` says."""
        return {side.name: side.bank for side in self.sides} | {name: one.place for name, one in self._planned.items()}

    def banks(self) -> tuple[LatentBank, LatentBank]:
        """(content bank, style bank), opened once; :meth:`inject` reads their indexes again.

        Raises ConfigError where a bank is not made yet, BankError or DescriptionError where one can't be read.
        """
        if self._banks is not None:
            return self._banks
        planned = [self.bank(side) for side in self.sides]
        for bank in planned:
            require_made(bank)
        # As workers open them: those in this process share the ones opened here. Not those of an earlier run, whose
        # banks may have been changed since.
        cached_bank.cache_clear()
        self._banks = cached_bank(str(planned[0].place)), cached_bank(str(planned[-1].place))
        return self._banks

    def wanted(self) -> PairPlan:
        """What the job asks for, with the banks as they are now."""
        content_bank, style_bank = self.banks()
        check_banks(self.job, self.facts, content_bank, style_bank)
        contents, styles = (
            entries(bank.index, self._listing(side), self._roots(side))
            for bank, side in ((content_bank, self.sides[0]), (style_bank, self.sides[-1]))
        )
        for side, pictures, bank in (("content", contents, content_bank), ("style", styles, style_bank)):
            if not len(bank.index):
                raise ConfigError(f"{side}: the bank has no pictures; see its rejects and failures")
            if not len(pictures):
                raise ConfigError(
                    f"{side}: none of the pictures that the job lists now is in the bank, which has "
                    f"{len(bank.index):,} others; run the whole job first (`diffstyle run`)"
                )
        sweep = recipes(self.job, self.facts, content_bank.description, style_bank.description, contents)
        return PairPlan(sweep, contents, styles, wanted_pairs(self.job, contents, styles))

    def inject(self) -> None:
        """Stage 3."""
        job, facts, retry = self.job, self.facts, self.options.retry_failed
        if self._banks is not None:  # they may have grown since
            for bank in dict.fromkeys(self._banks):
                bank.refresh()
        content_bank, style_bank = self.banks()
        wanted = self.wanted()
        self.begin()
        for note in (mixed_precision(job, content_bank, style_bank), too_short_plan(job)):
            if note is not None:
                log.warning(note)
                self.log("warning", said=note)
        manifest = Manifest(self.output)
        manifest.open()
        manifest.store.remove_uncommitted()
        known_pairs = manifest.known()
        if known_pairs.repeated:
            n_repeated = manifest.drop_repeated()
            warning = f"{count(n_repeated, 'row')} of the manifest dropped: in another part too"
            log.warning(warning)
            self.log("warning", said=warning)
        work = all_remaining(wanted, known_pairs, retry)
        again = PairIds(*(one.again.ids() for one in work))
        if len(again):
            manifest.drop_failures(again)
        self.counts.pairs_there += sum(one.n_done for one in work)
        self.counts.pairs_failed += sum(one.n_failed for one in work)
        self._tell_lost(wanted.pairs)
        if job.pairs == "all" or isinstance(job.pairs, RandomPairs):  # in lists a picture may be named more than once
            listed = {self.sides[0].name: wanted.contents, self.sides[-1].name: wanted.styles}
            self.counts.copies = sum(one.copies for one in listed.values())
        rows = len(known_pairs.done), len(known_pairs.failed) - len(again)
        asked = len(wanted) - sum(one.n_twice for one in work)
        own = (side for side in self.sides if not isinstance(side.spec, BankSpec))
        made_here = {side.name: self.bank(side).place.name for side in own}
        self.asked = Asked(wanted.recipes, asked, len(wanted.pairs.lost), made_here)
        self.asked.note(self.output, self.log, self.counts, rows)
        del known_pairs
        total = sum(len(one.contents) for one in work)
        if not total:
            self._clock.tell(f"nothing to do: {count(self.counts.pairs_there, 'pair', 'is/are')} there")
        with self.stage("inject", total, "pair", manifest.store.remove_uncommitted) as on_done:
            if total:
                sizer = self._sizer(total, manifest)

                def measured(made: int, not_made: int, outcome: Outcome) -> None:
                    calls = outcome.unit.recipe.plan.encodes
                    self.counts.pairs_made += made
                    self.counts.pairs_failed += not_made
                    sizer.measured(len(outcome.unit.pairs), calls, outcome.timing.compute)
                    self._metrics.pairs(made, not_made, outcome.timing, calls * len(outcome.unit.pairs))
                    on_done(made, not_made, outcome)

                tiles = (
                    unit
                    for one in work
                    for unit in units(
                        one,
                        wanted,
                        manifest_columns(job, facts, one.recipe, content_bank),
                        output=self.output,
                        content_bank=content_bank.place,
                        style_bank=style_bank.place,
                        pictures=job.pictures,
                        size=lambda left, calls=one.recipe.plan.encodes: sizer.next(calls, left),  # type: ignore[misc]
                    )
                )
                inject_stage(self.pool, manifest, tiles, measured)

    def _tell_lost(self, pairs: WantedPairs) -> None:
        """Count and list the rows whose pictures can't be used, and those that ask for the same pair."""
        self.counts.pairs_repeated = pairs.repeated
        for lost in pairs.lost:
            self.counts.lost.append((lost_name(lost.where, lost.content, lost.style), lost.reason))
            self.log("pair_lost", where=lost.where, content=lost.content, style=lost.style, reason=lost.reason)

    def _sizer(self, total: int, manifest: Manifest) -> Sizer:
        """Tiles that take compute.tile_seconds and fit in memory."""
        compute, facts, pool = self.job.compute, self.facts, self.pool
        content = self.banks()[0].description
        pixels = 3 * facts.image_size**2
        h = 4 * len(content.h_timesteps) * facts.h_shape[0] * facts.h_shape[1] * facts.h_shape[2]
        if "x_t" in needed_tensors(self.job.settings())["content"]:
            h += 4 * pixels
        memory = memory_of_a_tile(self.workers, pool)
        most = most_pairs(memory, h, 4 * pixels, 3 * pixels)  # pixels, the encoded picture, and room for its making
        per_call = manifest.seconds_per_call(facts.fingerprint, compute.precision)
        self.log("tiles", seconds=compute.tile_seconds, most_pairs=most, seconds_per_call=per_call)
        return Sizer(total, pool.batch, pool.size, compute.tile_seconds, max(most, pool.batch), per_call)

    def share(self, total: int, most: int = 256) -> int:
        """How many pictures a part of a bank gets: whole batches, and parts enough that all workers end together."""
        if not total:
            return 1
        batch = self.pool.batch
        batches = -(-total // (4 * self.pool.size * batch))
        return max(batch, min(most // batch, batches) * batch)

    def report(self) -> None:
        """A contact sheet for each point of the sweep, and one of the sweep."""
        shards = [side.shards for side in self.sides if side.needs_shards]
        banks = [side.bank for side in self.sides]
        rows = sheet_rows(Manifest(self.output))
        self.sheets = contact_sheets(self.output, rows, shards, banks)
        self.sheets += sweep_sheet(self.output, rows, shards, banks)

    def summary(self, stages: Sequence[str]) -> list[str]:
        """What was made, how fast, where, what failed and how to try that again."""
        return summary_lines(self.counts, self.output, stages, self.sheets)
