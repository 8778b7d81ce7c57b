"""Units in this process, one after the other, without Ray: for small jobs, notebooks and tests.

A unit goes through the same phases as on a Ray actor, is tried again, split and named failed by the same rules, and
gives the same bytes. What only processes of their own can do is missing: a unit that ends its process ends the run, and
reading and writing do not overlap with computing.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from diffstyle.errors import ConfigError
from pipeline.storage.errors import Stopped
from pipeline.workers.actor import Worker
from pipeline.workers.base import OnEvent, OpenModel, no_check, no_event, opening
from pipeline.workers.queue import Queue
from pipeline.workers.unit import Device, Failure, IfFewer, Outcome, Resources

T = TypeVar("T")

log = logging.getLogger(__name__)

# Of the memory that is free, what a run may plan with: as Ray does, it leaves room for what nobody counts.
_SHARE = 0.7


class LocalPool:
    """One worker in this process. Its model is loaded when the first unit comes, and kept until the pool is left."""

    size = under_way = 1

    def __init__(
        self,
        make_context: Callable[[], Any] | None = None,
        threads: int | None = None,
        *,
        batch: int = 1,
        on_event: OnEvent = no_event,
        check: Callable[[], None] = no_check,
    ) -> None:
        self.batch = batch
        self._worker: Worker | None = None
        self._make_context = make_context
        self._threads = threads
        self._threads_before: int | None = None
        self._on_event = on_event
        self._check = check

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._worker = None
        if self._threads_before is not None:
            import torch

            torch.set_num_threads(self._threads_before)

    def run(self, units: Iterable[Any]) -> Iterator[Outcome]:
        """See :meth:`pipeline.workers.base.Pool.run`."""
        queue = Queue(units, 1, self._on_event)
        while (ticket := queue.next(alone=True)) is not None:
            if self._worker is None:
                self._worker = self._started()
            result, timing = self._worker.run(ticket.unit)
            outcome: Outcome | None
            if not isinstance(result, Failure):
                outcome = Outcome(ticket.unit, result, timing=timing, worker=0)
            elif result.stop is not None:
                raise result.stop
            else:
                ticket.errors += 1
                outcome = queue.failed(ticket, result.why, result.where)
            if outcome is not None:
                self._check()
                yield outcome

    def _started(self) -> Worker:
        if self._threads and self._threads_before is None:
            import torch

            self._threads_before = torch.get_num_threads()
        worker = Worker(self._make_context, self._threads)
        started = worker.setup()
        if isinstance(started, Failure):
            if started.stop is not None:
                raise started.stop
            self._on_event("worker_failed_to_start", worker=0, why=started.why, traceback=started.where)
            raise Stopped(f"the model can't be loaded ({started.why}); what was committed is kept, run the job again")
        self._on_event("worker_started", worker=0, **started)
        return worker


class LocalWorkers:
    """Workers in this process: see :class:`pipeline.workers.base.Workers`.

    Args:
        open_model: Opens the worker's model instead of its loader, which it is called with. For another network, or
            none, behind the same machinery.
    """

    def __init__(self, open_model: OpenModel | None = None) -> None:
        self.open_model = open_model

    def check_decoders(self, on: str | None) -> None:
        """There is always one, on this machine."""

    def plan(
        self,
        device: Device,
        actors: int | None,
        threads: int | None,
        *,
        gpu_share: float | None = None,
        if_fewer: IfFewer = "run",
    ) -> tuple[int, Resources]:
        """One worker, on as many threads as each of Ray's would have on this machine."""
        require_device(device)
        if device == "cpu":
            threads = threads or max(1, cores() // 4)
        return 1, Resources(num_gpus=float(device == "cuda"), threads=threads)

    def pool(
        self,
        n: int,
        load: Callable[[], Any] | None,
        resources: Resources,
        *,
        batch: int = 1,
        on_event: OnEvent = no_event,
        check: Callable[[], None] = no_check,
        unit_timeout: float | None = None,
        start_timeout: float | None = None,
    ) -> LocalPool:
        """The one worker there is, whatever ``n``."""
        if unit_timeout is not None:
            log.warning("compute.unit_timeout is ignored: a unit that hangs in this process can't be ended; run on Ray")
        make_context = opening(load, self.open_model)
        return LocalPool(make_context, resources.threads, batch=batch, on_event=on_event, check=check)

    def decoders(
        self,
        *,
        on_event: OnEvent = no_event,
        check: Callable[[], None] = no_check,
        unit_timeout: float | None = None,
        on: str | None = None,
    ) -> LocalPool:
        """One worker without a model."""
        return LocalPool(on_event=on_event, check=check)

    def given_batch(self, device: str) -> int | None:
        """One on a CPU, where larger batches gain little: to measure that would take longer than a small job."""
        return 1 if device == "cpu" or self.open_model is not None else None

    def memory(self) -> float:
        """A share of what this machine has free."""
        return _SHARE * _free_memory()

    def gpus(self) -> str:
        """The GPU that torch computes on."""
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else ""

    def call(self, function: Callable[[], T], resources: Resources) -> T:
        """``function()``."""
        return function()

    def close(self) -> None:
        """Nothing was started."""


def require_device(device: str, field: str = "compute.device") -> None:
    """Check that PyTorch can compute on a device in this process.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``, or one of several: ``cuda:1``.
        field: what the message calls it.

    Raises:
        ConfigError: PyTorch sees no such device on this machine.
    """
    kind = device.partition(":")[0]
    if kind == "cpu":
        return
    import torch

    absent = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if absent.get(kind):
        raise ConfigError(
            f"{field} is {device}, but PyTorch sees no {kind.upper()} device on this machine; use device: cpu"
        )


# What a driver of a GPU puts there: NVIDIA's on a machine of its own, under Windows, on a Jetson, and AMD's.
_DRIVERS = ("nvidiactl", "nvidia0", "dxg", "nvhost-ctrl-gpu", "nvmap", "kfd")


def gpu_driver_is_there() -> bool:
    """Whether PyTorch could see a GPU here: asked before it is imported, which takes a second. True where unknown."""
    return sys.platform != "linux" or any(Path("/dev", name).exists() for name in _DRIVERS)


def cores() -> int:
    """The CPU cores that this process may use, whole ones: what the machine, its mask and its container leave."""
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota, _, period = (_control_group("cpu.max") or "max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        count = min(count, int(quota) // int(period))
    return max(1, count)


def _free_memory() -> float:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024.0 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux: half of what there is, or Ray's own guess
        pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
        free = 0.5 * pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else float(4 << 30)
    limit, used = _control_group("memory.max") or "max", _control_group("memory.current") or "0"
    if limit.isdigit() and used.isdigit():
        free = min(free, max(0.0, float(int(limit) - int(used))))
    return free


def _control_group(name: str) -> str | None:
    """A limit of the container that this process is in, as Linux tells it; None where there is none."""
    try:
        return (Path("/sys/fs/cgroup") / name).read_text().strip()
    except OSError:
        return None
