"""Units of work on Ray actors: overlap, retry, replace, split, and name what failed.

A *unit* is a named, picklable block of work in three phases: ``load`` (reading), ``compute`` (on the worker's device)
and ``save`` (encoding and writing). A worker is an actor that holds the model and runs several units at once in
threads, but only one of them computes at a time; so the next unit is read and the last one written while the device is
busy.

When a worker dies, each of its units becomes a suspect and is tried again alone, so that a death is blamed on the right
one. A unit that keeps killing workers is split; the one item that is left at the end is reported as failed and
everything else completes. The driver only schedules and hears results; what counts is decided by whoever commits them.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from diffstyle.errors import DiffStyleError

log = logging.getLogger(__name__)


class Stopped(DiffStyleError):
    """The run can't go on (disk full, credentials lost, workers that die at start) but can be resumed."""

    exit_code = 4


class Unit(Protocol):
    """A block of work. Everything in it travels to the worker by pickle."""

    @property
    def name(self) -> str: ...
    def load(self) -> Any:
        """Read what the unit needs. Runs beside other units' computing."""

    def compute(self, context: Any, loaded: Any) -> Any:
        """Compute, alone on the worker's device. ``context`` is what the pool's ``make_context`` returned."""

    def save(self, computed: Any) -> Any:
        """Write payloads; the small value returned goes to the driver. Must be safe to repeat."""

    def split(self) -> Sequence[Unit]:
        """Smaller units that cover the same items; empty if this is a single item."""


@dataclass
class Timing:
    """Seconds that a unit spent in each phase; ``queued`` is the wait for the worker's device, after loading."""

    load: float = 0.0
    queued: float = 0.0
    compute: float = 0.0
    save: float = 0.0


@dataclass
class Outcome:
    """What became of a unit: a result, or the error of a single item that can't be done."""

    unit: Any
    result: Any = None
    error: str | None = None
    timing: Timing = field(default_factory=Timing)


class Worker:
    """The actor's class. ``make_context`` runs once, at ``setup``, with the worker's keyword arguments."""

    def __init__(self, make_context: Callable[[], Any] | None, threads: int | None) -> None:
        self._make_context = make_context
        self._threads = threads
        self._context: Any = None
        self._device = threading.Lock()
        self._set_up = threading.Event()

    def setup(self) -> int:
        """Load the model. Not in ``__init__``, since Ray loses the type of an error raised there. Returns the pid."""
        import os

        if self._threads:
            import torch

            torch.set_num_threads(self._threads)
        if self._make_context is not None:
            self._context = self._make_context()
        self._set_up.set()
        return os.getpid()

    def run(self, unit: Unit) -> tuple[Any, Timing]:
        timing, clock = Timing(), time.perf_counter
        begun = clock()
        loaded = unit.load()
        self._set_up.wait()  # the model loads beside the first units; if it fails, the driver ends this actor
        timing.load = (now := clock()) - begun
        with self._device:
            timing.queued = (begun := clock()) - now
            computed = unit.compute(self._context, loaded)
            timing.compute = (now := clock()) - begun
        result = unit.save(computed)
        timing.save = clock() - now
        return result, timing


@dataclass(frozen=True)
class Resources:
    """What a worker asks of Ray and of its process. ``num_cpus`` may be a fraction."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    threads: int | None = 1


@dataclass
class _Ticket:
    unit: Any
    deaths: int = 0  # workers that died while running it
    errors: int = 0  # exceptions it raised

    @property
    def suspect(self) -> bool:
        return self.deaths > 0


@dataclass
class _Slot:
    """A worker's place in the pool; the actor in it is replaced when it dies."""

    number: int
    actor: Any = None
    ready: bool = False
    running: dict[Any, _Ticket] = field(default_factory=dict)


class Pool:
    """Workers that stay alive over several :meth:`run` calls. Use as a context manager; needs ``ray.init`` before.

    n           how many workers
    make_context  called once in each worker: loads the model
    retries     how many more times a unit is tried after a death or an error, before it is split
    depth       units under way in a worker at once (1: no overlap)
    on_event    called with (name, fields) for what should be logged: worker_started, worker_died, unit_retried, ...
    """

    # A worker that can't even start, this many times in a row, is not bad luck.
    MAX_START_FAILURES = 3

    def __init__(
        self,
        n: int,
        make_context: Callable[[], Any] | None = None,
        resources: Resources = Resources(),
        *,
        retries: int = 3,
        depth: int = 3,
        on_event: Callable[..., None] | None = None,
    ) -> None:
        import ray

        self._ray = ray
        self._make_context = make_context
        self._resources = resources
        self._retries = retries
        self._depth = depth
        self._on_event = on_event or (lambda name, **fields: None)
        self._slots = [_Slot(number) for number in range(n)]
        self._start_failures = 0
        self._pids: dict[int, int] = {}
        remote = ray.remote(Worker)
        self._actor_class = remote.options(  # type: ignore[attr-defined]
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            max_concurrency=depth + 1,
            max_restarts=0,  # replacing is decided here, where the units are known
        )

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        for slot in self._slots:
            self._discard(slot)

    @property
    def size(self) -> int:
        """How many workers the pool has."""
        return len(self._slots)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are up (for watching, and for tests that kill them)."""
        return [self._pids[slot.number] for slot in self._slots if slot.ready]

    def run(self, units: Iterable[Any]) -> Iterator[Outcome]:
        """Run units, in any order, and yield each one's outcome. ``units`` is read only as fast as workers are free.

        Raises Stopped where going on is no use, and passes on a unit's DiffStyleError (wrong input is not retried).
        """
        source = iter(units)
        again: deque[_Ticket] = deque()
        try:
            while True:
                self._fill(source, again)
                waiting = {ref: slot for slot in self._slots for ref in slot.running}
                if not waiting:
                    return
                ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=10)
                if not ready and not any(slot.ready for slot in self._slots):
                    self._on_event(
                        "waiting_for_resources", cpus=self._resources.num_cpus, gpus=self._resources.num_gpus
                    )
                for ref in ready:
                    yield from self._collect(ref, waiting[ref], again)
        finally:
            # Left early (an error, Ctrl-C, or the caller stopped): nothing may go on writing behind the driver's back.
            for slot in self._slots:
                if slot.running:
                    self._discard(slot)

    # ---- scheduling ----

    def _fill(self, source: Iterator[Any], again: deque[_Ticket]) -> None:
        """Give every free place a unit: suspects alone on an idle worker, others up to ``depth`` at once."""
        for level in range(self._depth):  # breadth first: every worker has one unit before any has two
            for slot in self._slots:
                if len(slot.running) > level or any(t.suspect for t in slot.running.values()):
                    continue
                ticket = self._next(source, again, alone=not slot.running)
                if ticket is None:
                    continue
                self._start(slot)
                slot.running[slot.actor.run.remote(ticket.unit)] = ticket

    @staticmethod
    def _next(source: Iterator[Any], again: deque[_Ticket], alone: bool) -> _Ticket | None:
        for _ in range(len(again)):
            ticket = again.popleft()
            if alone or not ticket.suspect:
                return ticket
            again.append(ticket)
        unit = next(source, None)
        return None if unit is None else _Ticket(unit)

    def _start(self, slot: _Slot) -> None:
        if slot.actor is None:
            slot.actor = self._actor_class.remote(self._make_context, self._resources.threads)
            slot.running[slot.actor.setup.remote()] = _Ticket(None)

    def _discard(self, slot: _Slot) -> None:
        if slot.actor is not None:
            self._ray.kill(slot.actor)
        slot.actor, slot.ready, slot.running = None, False, {}

    # ---- outcomes ----

    def _collect(self, ref: Any, slot: _Slot, again: deque[_Ticket]) -> Iterator[Outcome]:
        ticket = slot.running.get(ref)
        if ticket is None:  # its worker's death was dealt with a moment ago
            return
        try:
            value = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            del slot.running[ref]
            cause = error.cause if isinstance(error.cause, Exception) else error
            if ticket.unit is None:
                self._discard(slot)
                raise (_fatal(cause) or cause) from error
            stop = _fatal(cause)
            if stop:
                raise stop from cause
            ticket.errors += 1
            yield from self._again_or_less(ticket, f"{type(cause).__name__}: {_one_line(cause)}", again)
        except self._ray.exceptions.RayError as error:  # the actor or its node died, or its answer was lost with it
            yield from self._worker_died(slot, error, again)
        else:
            del slot.running[ref]
            if ticket.unit is None:
                slot.ready, self._start_failures = True, 0
                self._pids[slot.number] = value
                self._on_event("worker_started", worker=slot.number, pid=value)
            else:
                result, timing = value
                yield Outcome(ticket.unit, result, timing=timing)

    def _worker_died(self, slot: _Slot, error: Exception, again: deque[_Ticket]) -> Iterator[Outcome]:
        tickets = [ticket for ticket in slot.running.values() if ticket.unit is not None]
        was_ready = slot.ready
        self._discard(slot)
        self._on_event("worker_died", worker=slot.number, units=[t.unit.name for t in tickets], error=_one_line(error))
        if not was_ready:
            self._start_failures += 1
            if self._start_failures >= self.MAX_START_FAILURES:
                raise Stopped(
                    f"workers die before they can start ({_one_line(error)}); out of memory? try fewer actors"
                )
            again.extend(tickets)  # they never ran
            return
        alone = len(tickets) == 1
        for ticket in tickets:
            ticket.deaths = max(1, ticket.deaths + alone)  # only a death while alone is certainly the unit's own
            yield from self._again_or_less(ticket, f"the worker died ({_one_line(error)})", again)

    def _again_or_less(self, ticket: _Ticket, reason: str, again: deque[_Ticket]) -> Iterator[Outcome]:
        """Try a unit again; when that has been done often enough, its parts; a single item has failed."""
        # An exception is mostly the same the second time, so it is tried only once more; a death may be anybody's.
        if ticket.deaths <= self._retries and ticket.errors <= min(1, self._retries):
            self._on_event(
                "unit_retried", unit=ticket.unit.name, deaths=ticket.deaths, errors=ticket.errors, why=reason
            )
            again.append(ticket)
            return
        pieces = ticket.unit.split()
        if not pieces:
            self._on_event("unit_failed", unit=ticket.unit.name, why=reason)
            yield Outcome(ticket.unit, error=reason)
            return
        self._on_event("unit_split", unit=ticket.unit.name, into=len(pieces), why=reason)
        # The pieces of a killer are suspects themselves: each runs alone.
        again.extend(_Ticket(piece, deaths=min(ticket.deaths, 1)) for piece in pieces)


def _one_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return " ".join(text.splitlines()[-1 if "Traceback" in text else 0].split())[:300]


_NO_USE_GOING_ON = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def _fatal(error: BaseException) -> DiffStyleError | None:
    """The error to stop the whole run with, or None if only the unit is concerned."""
    if isinstance(error, DiffStyleError):
        return error
    if isinstance(error, OSError) and error.errno in _NO_USE_GOING_ON:
        where = f" ({error.filename})" if error.filename else ""
        return Stopped(f"{error.strerror or error}{where}; what was committed is kept, mend it and run the job again")
    text = str(error)
    if isinstance(error, OSError) and any(word in text for word in ("ACCESS_DENIED", "NO_SUCH_BUCKET", "ExpiredToken")):
        return Stopped(f"{_one_line(error)}; what was committed is kept, mend the credentials and run the job again")
    return None
