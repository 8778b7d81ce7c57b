"""Jobs from Python: run one, say beforehand what it would do, see how far it is. What ``import pipeline`` gives."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from diffstyle.errors import ConfigError
from pipeline.banks.reader import LatentBank
from pipeline.jobfile.load import load_job
from pipeline.jobfile.schema import Job
from pipeline.models.config import load_model_config
from pipeline.models.network_spec import NetworkSpec
from pipeline.monitoring.failures import FailedItem, failed_pairs, not_inverted, not_scored, rejected
from pipeline.monitoring.status import NoRunError
from pipeline.monitoring.summary import RunCounts, summary_lines
from pipeline.results.manifest import Manifest
from pipeline.results.scores import Scores
from pipeline.runner.dropping import Clock, drop_old
from pipeline.runner.inverting import precompute
from pipeline.runner.network_scoring import network_specs
from pipeline.runner.preview import Preview, preview_job
from pipeline.runner.run import Options, Run
from pipeline.runner.scoring import score
from pipeline.storage.counts import count
from pipeline.storage.errors import EXIT_DONE, EXIT_FAILURES
from pipeline.storage.layout import OutputLayout
from pipeline.storage.masking import masking_errors
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.visible import on_one_line
from pipeline.workers.base import Workers
from pipeline.workers.local import LocalWorkers
from pipeline.workers.ray_workers import RayWorkers

#: The stages of a job, in their order.
STAGES = ("shard", "precompute", "inject", "score")


@dataclass(frozen=True, repr=False)
class Result:
    """What :func:`run` did, and where everything is. ``print(result)`` shows the summary that the command prints.

    Attributes:
        output: The output folder.
        counts: How many pictures were prepared, inverted and rejected, how many pairs made, there before and failed,
            and the seconds of each stage.
        stages: The stages that ran.
        contact_sheets: A PNG file for each point of the sweep and, of several, one of them all; empty where ``inject``
            was not run.
        shard_places: Side (``content``, ``style`` or ``both``) -> the folder of its prepared pictures.
        bank_places: Side -> the folder of its latent bank.
    """

    output: Place
    counts: RunCounts
    stages: tuple[str, ...]
    contact_sheets: tuple[Place, ...]
    shard_places: dict[str, Place]
    bank_places: dict[str, Place]

    @property
    def pictures(self) -> Place:
        """The folder of the pictures; the manifest's column ``picture`` names each, below ``output``."""
        return OutputLayout(self.output).pictures

    @property
    def manifest(self) -> Manifest:
        """The manifest: a row for each pair of this output, also of earlier runs."""
        return Manifest(self.output)

    @property
    def scores(self) -> Scores:
        """The scores: a row for each pair that was scored, joined to the manifest by ``pair``."""
        return Scores(self.output)

    @property
    def banks(self) -> dict[str, LatentBank]:
        """Side -> its latent bank, opened; those that are made."""
        return {name: LatentBank.open(place) for name, place in self.bank_places.items() if PartStore(place).exists()}

    @property
    def failures(self) -> list[FailedItem]:
        """What the job wanted and does not have."""
        return list(self._failures())

    @property
    def exit_code(self) -> int:
        """That of the command: 0 all done, 3 done with failures."""
        return EXIT_FAILURES if self.counts.failed else EXIT_DONE

    def _failures(self) -> Iterator[FailedItem]:
        if "shard" in self.stages:
            yield from rejected(self.shard_places.values())
        if "precompute" in self.stages:
            yield from not_inverted(self.bank_places.values())
        yield from (FailedItem("inject", name, reason) for name, reason in self.counts.lost)
        if "inject" in self.stages:
            yield from failed_pairs(self.output)
        if "score" in self.stages:
            yield from not_scored(self.output)

    def __str__(self) -> str:
        lines = summary_lines(self.counts, self.output, self.stages, self.contact_sheets)
        return "\n".join(map(on_one_line, lines))

    def __repr__(self) -> str:
        counts = self.counts
        pairs = counts.pairs_made + counts.pairs_there
        made = f"{count(pairs, 'pair')}, {count(counts.failed, 'failure')}"
        return f"<Result {self.output}: {', '.join(self.stages)}; {made}>"


@masking_errors
def run(
    job: Job | str | os.PathLike[str],
    *,
    address: str | None = None,
    local: bool = False,
    workers: Workers | None = None,
    stages: Sequence[str] | None = None,
    networks: Sequence[str | os.PathLike[str]] = (),
    retry_failed: bool = False,
    max_failures: int | None = None,
    quiet: bool = False,
    counts: RunCounts | None = None,
) -> Result:
    """Run a job, or some of its stages: what is missing is made, what is there is kept.

    Args:
        job: As :func:`load_job` returns it, or the path of a job file.
        address: Join the Ray cluster at this address. Default: a Ray of this process's own.
        local: Compute in this process, without Ray: for small jobs and notebooks.
        workers: Compute on these, a ``RayWorkers`` or ``LocalWorkers``, instead of what ``address`` or ``local`` say.
            They are left open: a Ray that they started serves the next run, until ``workers.close()``.
        stages: Which of ``shard``, ``precompute``, ``inject`` and ``score`` to run; they run in this order. Default:
            the first three, and the last where the job says ``score``.
        networks: Files of networks that score the pictures too, besides those of the job.
        retry_failed: Try again what failed before.
        max_failures: Stop after more failed pictures or pairs than this; default: the job's ``compute.max_failures``.
        quiet: Show no progress.
        counts: Filled as the run goes on, and as :attr:`Result.counts` at its end; of use where the run is stopped.

    Returns:
        Counts, failures and where everything is. A job that is done with failures returns too; see ``exit_code``.

    Raises:
        DiffStyleError: Of its kinds: ConfigError for a wrong job or option, CheckpointError for wrong weights,
            SourceError for a data set that is missing, BankError for a bank that does not fit. One line each.
        Stopped: The run can't go on (a full disk, lost rights, too many failures); run it again to go on from there.
    """
    if max_failures is not None and (type(max_failures) is not int or max_failures < 0):
        raise ConfigError(f"max_failures: must be a whole number from 0, or None, not {max_failures!r}")
    if isinstance(stages, str):
        raise ConfigError(f'stages: give a list, ["{stages}"], not {stages!r}')
    clock = Clock()
    own = workers is None
    if workers is None:
        workers = choose_workers(address, local)
    elif address is not None or local:
        raise ConfigError("workers: they say where to compute; omit address and local")
    loaded = job if isinstance(job, Job) else load_job(job, check_inputs=True)
    if stages is None:
        stages = STAGES if loaded.score else STAGES[:-1]
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise ConfigError(f"stages: {unknown[0]!r} is none of {', '.join(STAGES)}")
    chosen = tuple(stage for stage in STAGES if stage in stages)
    judges = []
    if "score" in chosen and (files := [*loaded.score_networks, *networks]):
        judges = network_specs(list(dict.fromkeys(files)), load_model_config(loaded.model).size)
    with ExitStack() as stack:
        if own:
            stack.callback(workers.close)
        prepared = Run(loaded, Options(retry_failed, quiet, max_failures), workers, counts)
        prepared.check(chosen)
        running = stack.enter_context(prepared)
        for stage in chosen:
            carry_out(running, stage, judges)
            if stage == "inject":  # before scoring, which is of what stays
                drop_old(running, clock.now())
    return Result(
        output=running.output,
        counts=running.counts,
        stages=chosen,
        contact_sheets=tuple(running.sheets),
        shard_places={side.name: side.shards for side in running.sides if side.needs_shards},
        bank_places=running.bank_places(),
    )


def carry_out(run: Run, stage: str, judges: Sequence[NetworkSpec] = ()) -> None:
    """One stage of a run that is entered, which holds the lock.

    Args:
        run: The run.
        stage: One of STAGES.
        judges: For ``score``: networks that score the pictures too.
    """
    if stage == "score":
        score(run, judges)
    elif stage == "precompute":
        precompute(run)
    else:
        getattr(run, stage)()
    if stage == "inject":
        run.report()


def choose_workers(address: str | None = None, local: bool = False) -> Workers:
    """Where to compute.

    Args:
        address: Of a Ray cluster; None: a Ray of this process's own.
        local: In this process, without Ray.

    Raises:
        ConfigError: Both are given.
    """
    if local and address is not None:
        raise ConfigError("--local and --address: a run is either in this process or on a cluster; omit one of them")
    return LocalWorkers() if local else RayWorkers(address)


def job_of(run: str | os.PathLike[str]) -> Job:
    """The job of a run.

    Args:
        run: Its output folder, or the job file that names it.

    Raises:
        NoRunError: No job was run there.
    """
    place = Place.parse(run)
    file = place if place.is_local and place.is_file() else OutputLayout.own_job(place)
    if file is not None:
        return load_job(file.path, check_inputs=True)
    left = OutputLayout(place).job
    if not left.is_local:
        raise ConfigError(f"{place}: give the job file that names this output; only local folders can be given alone")
    if not left.is_file():
        raise NoRunError(f"{place}: no job was run here (there is no job.yaml); give a job's output folder")
    # The folder may have been moved since.
    return load_job(left.path).model_copy(update={"output": str(place)})


@masking_errors
def preview(
    job: Job | str | os.PathLike[str], *, retry_failed: bool = False, measure: bool = False, elsewhere: bool = False
) -> Preview:
    """What a job would do and write now, and why it can't run here. It reads lists, the output and a few pictures.

    Args:
        job: As :func:`load_job` returns it, or the path of a job file.
        retry_failed: Count what failed before as still to be done.
        measure: Measure the speed of the network by a few calls, for seconds to a minute; it is remembered in the cache
            folder. Else the time is told where that was done before.
        elsewhere: The job will run on other machines, so the devices of this one do not matter.

    Returns:
        What is done already; counts of pictures, pairs, network calls and bytes; the time, as a range.
        ``print(preview(job))`` shows them as the command does.

    Raises:
        DiffStyleError: For a job that can't run, as :func:`run` does.
    """
    loaded = job if isinstance(job, Job) else load_job(job, check_inputs=True)
    return preview_job(loaded, retry_failed, measure, elsewhere)
