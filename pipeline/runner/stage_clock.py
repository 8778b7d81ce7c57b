"""What surrounds the stages of a run: progress, events, the failure limit, and a clock that knows work from start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from pipeline.monitoring.activity import MEASURING, STARTING, Activity
from pipeline.monitoring.progress import Progress, duration
from pipeline.monitoring.summary import RunCounts
from pipeline.storage.counts import count
from pipeline.storage.errors import Stopped
from pipeline.storage.visible import on_one_line
from pipeline.workers.unit import Outcome


class StageClock:
    """Times the stages of a run. What passes until the first worker is ready is the workers' start, and no stage's.

    counts  where seconds and failures are counted
    log     the run's event log
    limit   stop after more failures than this; None: never
    quiet   show no progress
    """

    def __init__(self, counts: RunCounts, log: Callable[..., None], limit: int | None, quiet: bool) -> None:
        self._counts, self._log, self._limit, self._quiet = counts, log, limit, quiet
        self._deaths = 0  # of workers
        self._starting: float | None = None  # since when workers are being started
        self._progress: Progress | None = None

    def starting(self) -> None:
        """Workers are about to be started."""
        self._starting = time.perf_counter()

    def on_event(self, name: str, /, **fields: Any) -> None:
        """What pools say; the log hears of it too."""
        self._deaths += name == "worker_died"
        if name == "measuring_batch" and self._progress is not None:
            self._progress.note("measuring how many pictures go through the network at once")
        if name == "batch_measured":
            self._book(MEASURING, fields["seconds"])
            if self._starting is not None:
                self._starting += fields["seconds"]
        self._log(name, **fields)
        if name == "worker_started" and self._starting is not None:
            seconds, self._starting = time.perf_counter() - self._starting, None
            self._book(STARTING, seconds)
            self._log("workers_started", seconds=seconds)
            if self._progress is not None:
                self._progress.restart(f"workers started in {duration(seconds)}")

    def tell(self, line: str) -> None:
        """Show a line of its own where progress is shown."""
        if not self._quiet:
            click.echo(on_one_line(line), err=True)

    def _book(self, kind: str, seconds: float) -> None:
        self._counts.seconds[kind] = self._counts.seconds.get(kind, 0.0) + seconds

    def _no_stage(self) -> float:
        return sum(self._counts.seconds.get(kind, 0.0) for kind in (STARTING, MEASURING))

    @contextmanager
    def stage(
        self, name: str, total: int | None, unit: str, tidy: Callable[[], Any]
    ) -> Iterator[Callable[[int, int, Outcome | None], None]]:
        """Progress, events, the failure limit and the clock around a stage; yields its ``on_done``.

        ``tidy`` removes what workers that died in this stage had half-written.
        """
        begun, deaths, before = time.perf_counter(), self._deaths, self._no_stage()
        word = "rejected" if name.startswith("shard ") else "failed"  # as summaries and `status` call them
        quiet = self._quiet or total == 0  # of nothing there is nothing to tell
        with Progress(total, name, unit=unit, quiet=quiet, failed_word=word) as self._progress:
            progress = self._progress

            def on_done(done: int, failed: int, outcome: Outcome | None = None) -> None:
                self._counts.failures_now += failed
                progress.advance(done + failed, failed)
                part: dict[str, Any] = {}
                if outcome is not None:
                    timing, calls = outcome.timing, getattr(outcome.unit, "network_calls", 0)
                    part = {"part": outcome.unit.name, "worker": outcome.worker, "calls": calls, **timing.said()}
                    activity = self._counts.activity.setdefault(name, Activity())
                    activity.add(outcome.worker, timing.began, timing.compute, calls)
                self._log("part_done", stage=name, done=done, failed=failed, **part)
                self._check_failures()

            try:
                yield on_done
            finally:
                self._progress = None
        if self._deaths > deaths:
            tidy()
        seconds = max(0.0, time.perf_counter() - begun - (self._no_stage() - before))
        self._book(name, seconds)
        self._log("stage_done", stage=name, seconds=seconds)

    def _check_failures(self) -> None:
        if self._limit is not None and self._counts.failures_now > self._limit:
            failures = count(self._counts.failures_now, "failure", "is/are")
            raise Stopped(
                f"{failures} more than the limit of {self._limit} (--max-failures or "
                "compute.max_failures); fix the cause, then run the job again (with --retry-failed for those)"
            )
