"""A job from its file to its pictures: the stages in order, on one pool of workers.

Each stage reads what the one before committed and does what is missing, so running a job again goes on where it was.
"""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import diffstyle
from diffstyle.errors import ConfigError
from pipeline.bank import BankDescription, LatentBank
from pipeline.cluster import plan_workers, start_ray
from pipeline.context import ContextMaker, ModelFacts, default_batch, model_facts, resolve_device
from pipeline.decode import preparation
from pipeline.engine import Outcome, Pool, Resources, Stopped
from pipeline.events import EventLog
from pipeline.job import BankSpec, Job, SampleSpec
from pipeline.lock import OutputLock
from pipeline.manifest import Manifest
from pipeline.models import load_model_config
from pipeline.pairs import entries, wanted_pairs
from pipeline.precompute import invert_stage, missing_rows, missing_samples, open_bank, sample_stage
from pipeline.progress import Progress
from pipeline.recipe import needed_h
from pipeline.report import contact_sheets
from pipeline.sample import sampling_settings
from pipeline.shards import WriteBlock, on_pool, open_shards, shard_stage
from pipeline.sources import Block, open_source
from pipeline.storage import Place


@dataclass(frozen=True)
class Options:
    """How a job is run, as opposed to what it makes."""

    address: str | None = None  # of a Ray cluster; None: an embedded Ray
    retry_failed: bool = False
    quiet: bool = False


@dataclass
class Tally:
    """What the stages did."""

    prepared: int = 0
    rejected: int = 0  # pictures that can't be read, in this run or before
    inverted: int = 0
    not_inverted: int = 0  # likewise
    pairs_made: int = 0
    pairs_there: int = 0
    pairs_failed: int = 0  # likewise
    failures_now: int = 0  # of all kinds, in this run
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """What the job wanted and does not have."""
        return self.rejected + self.not_inverted + self.pairs_failed


@dataclass(frozen=True)
class Side:
    """Contents, styles, or both at once where the job names the same source twice."""

    name: str  # folder below shards/ and banks/
    role: str  # "content", "style" or "both"
    spec: Any  # SourceSpec, SampleSpec or BankSpec
    output: Place

    @property
    def shards(self) -> Place:
        return self.output / "shards" / self.name

    @property
    def bank(self) -> Place:
        return Place.parse(self.spec.bank) if isinstance(self.spec, BankSpec) else self.output / "banks" / self.name

    @property
    def needs_shards(self) -> bool:
        return not isinstance(self.spec, BankSpec | SampleSpec)


def sides(job: Job) -> list[Side]:
    """The job's sides. The same source as content and style is prepared and inverted once."""
    output = Place.parse(job.output)
    if job.content == job.style:
        return [Side("both", "both", job.content, output)]
    return [Side("content", "content", job.content, output), Side("style", "style", job.style, output)]


def bank_description(job: Job, side: Side, facts: ModelFacts) -> BankDescription:
    """The bank that a job makes for a side."""
    if isinstance(side.spec, SampleSpec):
        inversion = sampling_settings(side.spec, job.inversion)
    else:
        inversion = {"steps": job.inversion.steps, "t_0": job.inversion.t_0}
    inversion["precision"] = job.compute.precision
    return BankDescription(
        model_fingerprint=facts.fingerprint,
        model_name=facts.name,
        image_size=facts.image_size,
        role=side.role,
        format=job.bank.format,
        inversion=inversion,
        preprocessing=preparation(facts.image_size),
        h_timesteps=() if side.role == "style" else needed_h(job, inversion),
        h_shape=facts.h_shape,
        h_dtype=job.bank.h,
        x_t_dtype=job.bank.x_t,
    )


class Run:
    """One run of a job, over any of its stages. A context manager: it holds the output's lock and the workers."""

    def __init__(self, job: Job, options: Options = Options()) -> None:
        self.job = job
        self.options = options
        self.output = Place.parse(job.output)
        self.sides = sides(job)
        self.tally = Tally()
        self.sheets: list[Place] = []
        self._stack = ExitStack()
        self._pool: Pool | None = None
        self._facts: ModelFacts | None = None
        self._listed: dict[str, set[str] | None] = {}

    def __enter__(self) -> Run:
        self.lock = self._stack.enter_context(OutputLock(self.output))
        run_id = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        self.events = self._stack.enter_context(EventLog(self.output, run_id))
        self.events.log("run_started", diffstyle=diffstyle.__version__, host=platform.node(), job=self.job.to_yaml())
        (self.output / "job.yaml").write_bytes(self.job.to_yaml().encode())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        outcome = "done" if error is None else f"{kind.__name__ if kind else ''}: {error}"
        self.events.log("run_ended", outcome=outcome, **vars(self.tally))
        self._stack.__exit__(kind, error, trace)

    # ---- what stages share ----

    @property
    def facts(self) -> ModelFacts:
        """The model, loaded once and strictly: a wrong checkpoint ends the run before anything else starts."""
        if self._facts is None:
            self._facts = model_facts(self.job.model, self.job.weights)
            self.events.log("model", **vars(self._facts))
        return self._facts

    @property
    def batch(self) -> int:
        """How many pictures go through the network at once."""
        if self.job.compute.batch != "auto":
            return self.job.compute.batch
        return default_batch(resolve_device(self.job.compute.device), self.facts.image_size)

    @property
    def pool(self) -> Pool:
        """The workers that hold the model; they start when first asked for and serve all stages."""
        if self._pool is None:
            compute, facts = self.job.compute, self.facts
            start_ray(self.options.address)
            device = resolve_device(compute.device)
            actors, threads = (None if value == "auto" else value for value in (compute.actors, compute.threads))
            n, resources = plan_workers(device, actors, threads)
            maker = ContextMaker(
                self.job.model, self.job.weights, facts.fingerprint, device, compute.precision, self.batch
            )
            self.events.log("workers", n=n, device=device, batch=self.batch, **vars(resources))
            self._pool = self._stack.enter_context(Pool(n, maker, resources, on_event=self.events.log))
        return self._pool

    def _shard_pool(self) -> Pool:
        """Workers without a model, for decoding: beside a GPU's workers there are CPUs to use."""
        import ray

        start_ray(self.options.address)
        n = max(1, int(ray.cluster_resources().get("CPU", 1)))
        return Pool(n, None, Resources(num_cpus=1.0, threads=1), on_event=self.events.log)

    @contextmanager
    def _stage(self, name: str, total: int | None, unit: str) -> Iterator[Callable[[int, int, Outcome | None], None]]:
        """Progress, events, the failure limit and the clock around a stage; yields its ``on_done``."""
        begun = time.perf_counter()
        with Progress(total, name, unit=unit, quiet=self.options.quiet) as progress:

            def on_done(done: int, failed: int, outcome: Outcome | None = None) -> None:
                self.lock.check()
                self.tally.failures_now += failed
                progress.advance(done, failed)
                timing = vars(outcome.timing) if outcome is not None else {}
                unit_name = outcome.unit.name if outcome is not None else None
                self.events.log("part_done", stage=name, part=unit_name, done=done, failed=failed, **timing)
                limit = self.job.compute.max_failures
                if limit is not None and self.tally.failures_now > limit:
                    raise Stopped(
                        f"{self.tally.failures_now} failures are more than compute.max_failures {limit}; mend it, "
                        "then run the job again (--retry-failed for those that failed)"
                    )

            yield on_done
        seconds = time.perf_counter() - begun
        self.tally.seconds[name] = self.tally.seconds.get(name, 0) + seconds
        self.events.log("stage_done", stage=name, seconds=seconds)

    # ---- the stages ----

    def check_model(self) -> None:
        """Load the model before any work is done for it."""
        self.events.log("model_checked", **vars(self.facts))

    def shard(self) -> None:
        """Stage 1 for each side that reads a data set."""
        size = load_model_config(self.job.model).size
        with ExitStack() as stack:
            pool: Pool | None = None

            def execute(write: WriteBlock, blocks: Iterable[Block]) -> Iterator[Any]:
                nonlocal pool
                left = iter(blocks)
                for first in left:  # where there is nothing to do, no worker is started for it
                    pool = pool or stack.enter_context(self._shard_pool())
                    yield from on_pool(pool)(write, itertools.chain([first], left))

            for side in self.sides:
                if not side.needs_shards:
                    continue
                counted = [0, 0]
                with self._stage(f"shard {side.name}", None, "pictures") as on_done:

                    def progress(done: int, rejected: int, on_done: Any = on_done, counted: Any = counted) -> None:
                        on_done(done - counted[0], rejected - counted[1])
                        counted[:] = done, rejected

                    summary = shard_stage(
                        open_source(side.spec),
                        side.shards,
                        size,
                        execute=execute,
                        progress=progress,
                        retry_failed=self.options.retry_failed,
                    )
                self.tally.prepared += summary.done
                self.tally.rejected += len(open_shards(side.shards).rejects())
                for reason, n in summary.passed_over.items():
                    self.events.log("passed_over", side=side.name, reason=reason, n=n)

    def _wanted(self, side: Side) -> set[str] | None:
        """The images that the side's source lists now; None for a bank, which is taken as it is.

        A picture that has left its data set stays in shards and bank, but no pair is made with it any more.
        """
        if side.name not in self._listed:
            if not side.needs_shards:
                self._listed[side.name] = None
            else:
                sources = {item.source for block in open_source(side.spec).blocks({}) for item in block.items}
                rows = open_shards(side.shards).current().select(["source", "image"]).to_pylist()
                self._listed[side.name] = {row["image"] for row in rows if row["source"] in sources}
        return self._listed[side.name]

    def precompute(self) -> None:
        """Stage 2 for each side that is not a bank already."""
        for side in self.sides:
            if isinstance(side.spec, BankSpec):
                continue
            about = {
                **versions(),
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            writer = open_bank(side.bank, bank_description(self.job, side, self.facts), about)
            writer.remove_uncommitted()
            part, retry = self.job.bank.part_size, self.options.retry_failed
            if isinstance(side.spec, SampleSpec):
                total = len(missing_samples(writer, side.spec))
                with self._stage(f"sample {side.name}", total, "pictures") as on_done:
                    pool = self.pool if total else None
                    part = min(part, self._share(total))
                    done = sample_stage(pool, side.spec, writer, part, on_done=on_done)
            else:
                todo, aliases = missing_rows(writer, side.shards, self._wanted(side), retry)
                with self._stage(f"invert {side.name}", len(todo), "pictures") as on_done:
                    pool = self.pool if todo else None
                    part = min(part, self._share(len(todo)))
                    done = invert_stage(pool, side.shards, writer, todo, aliases, part, on_done=on_done)
            self.tally.inverted += done
            self.tally.not_inverted += len(writer.failed_images())

    def banks(self) -> tuple[LatentBank, LatentBank]:
        """(content bank, style bank), opened. BankError or DescriptionError where one is not there."""
        first, last = self.sides[0], self.sides[-1]
        return LatentBank.open(first.bank), LatentBank.open(last.bank)

    def inject(self) -> None:
        """Stage 3."""
        from pipeline.inject import check_banks, inject_stage, manifest_columns, recipes, remaining, units

        job, facts = self.job, self.facts
        content_bank, style_bank = self.banks()
        check_banks(facts, content_bank, style_bank)
        contents = entries(content_bank.index, self._wanted(self.sides[0]))
        styles = entries(style_bank.index, self._wanted(self.sides[-1]))
        for side, found in (("content", contents), ("style", styles)):
            if not len(found):
                raise ConfigError(f"{side}: the bank has no pictures; see its rejects and failures")
        wanted = wanted_pairs(job, contents, styles)
        manifest = Manifest(self.output)
        manifest.open()
        manifest.store.remove_uncommitted()
        done, failed = manifest.known()
        if self.options.retry_failed:
            failed = set()
        work = [
            remaining(recipe, contents, styles, wanted, done, failed)
            for recipe in recipes(job, facts, content_bank, style_bank, contents)
        ]
        self.tally.pairs_there += sum(one.n_done for one in work)
        self.tally.pairs_failed += sum(one.n_failed for one in work)
        total = sum(len(one.contents) for one in work)
        tiles = (
            unit
            for one in work
            for unit in units(
                one,
                contents,
                styles,
                manifest_columns(job, facts, one.recipe, content_bank),
                output=self.output,
                content_bank=content_bank.place,
                style_bank=style_bank.place,
                pictures=job.pictures,
                pairs_per_tile=self._share(total),
            )
        )
        with self._stage("inject", total, "pairs") as on_done:
            if total:
                retry = self.options.retry_failed
                made, not_made = inject_stage(self.pool, manifest, tiles, retry_failed=retry, on_done=on_done)
                self.tally.pairs_made += made
                self.tally.pairs_failed += not_made

    def _share(self, total: int, most: int = 256) -> int:
        """How many items a unit gets: whole batches, and enough units that all workers end at about the same time."""
        if not total:
            return 1
        batches = -(-total // (4 * self.pool.size * self.batch))
        return max(self.batch, min(most // self.batch, batches) * self.batch)

    def report(self) -> None:
        """A contact sheet for each point of the sweep."""
        shards = [side.shards for side in self.sides if side.needs_shards]
        self.sheets = contact_sheets(self.output, Manifest(self.output).table(), shards)

    def summary(self, stages: Sequence[str]) -> list[str]:
        """What was made, how fast, where, what failed and how to try that again."""
        tally, lines = self.tally, []
        if "shard" in stages:
            lines.append(f"prepared {tally.prepared} pictures")
        if "precompute" in stages:
            lines.append(f"inverted {tally.inverted} pictures")
        if "inject" in stages:
            seconds = tally.seconds.get("inject", 0)
            rate = f" in {seconds:.1f} s ({tally.pairs_made / seconds:.2f} pairs/s)" if tally.pairs_made else ""
            lines.append(f"made {tally.pairs_made} pairs{rate}; {tally.pairs_there} were there already")
            lines.append(f"pictures: {self.output / 'pictures'}   manifest: {self.output / 'manifest'}")
            lines += [f"contact sheet: {sheet}" for sheet in self.sheets]
        if tally.rejected:
            lines.append(f"{tally.rejected} pictures can't be read: {self.output / 'shards'}/*/rejects/ says why")
        if tally.not_inverted:
            lines.append(f"{tally.not_inverted} pictures could not be inverted: `diffstyle bank info` says why")
        if tally.pairs_failed:
            lines.append(f"{tally.pairs_failed} pairs failed: the manifest's rows with status 'failed' say why")
        if tally.failed:
            lines.append("try them again with --retry-failed")
        return lines


def versions() -> dict[str, str]:
    """Versions of what can change numbers, for a bank's description."""
    import numpy
    import torch

    return {
        "diffstyle": diffstyle.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }
