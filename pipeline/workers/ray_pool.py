"""Units of work on Ray actors: overlap, retry, replace, split, and name what failed.

A *unit* is a named, picklable block of work in three phases: ``load`` (reading), ``compute`` (on the worker's device)
and ``save`` (encoding and writing). A worker is an actor that holds the model and runs several units at once in
threads, but only one of them computes at a time; so the next unit is read and the last one written while the device is
busy.

When a worker dies, each of its units becomes a suspect and is tried again alone, so that a death is blamed on the right
one. A unit that keeps killing workers is split; the one item that is left at the end is reported as failed and
everything else completes. A worker that is asked to end (``ray_actor.py``), or whose node is draining, gets no more
units; what it hands back, or takes along when it ends, runs elsewhere and is blamed on none. The driver only schedules
and hears results; what counts is decided by whoever commits them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipeline.storage.counts import count
from pipeline.storage.errors import Stopped, headline
from pipeline.storage.place import FENCES
from pipeline.workers.base import OnEvent, no_check, no_event
from pipeline.workers.queue import Queue, Ticket
from pipeline.workers.ray_actor import RayWorker
from pipeline.workers.ray_endings import draining_nodes, node_lost, why_died
from pipeline.workers.ray_slot import Slot
from pipeline.workers.unit import Failure, HandedBack, Outcome, Resources, Timing

log = logging.getLogger(__name__)


class RayPool:
    """Workers that stay alive over several :meth:`run` calls. Use as a context manager; needs ``ray.init`` before.

    n             how many workers
    make_context  called once in each worker: loads the model
    batch         how many pictures a worker sends through the network at once
    retries       how many more times a unit is tried after a death or an error, before it is split
    depth         units under way in a worker at once (1: no overlap)
    on_event      called with (name, fields) for what should be logged: worker_started, worker_died, unit_retried, ...
    check         called before each outcome is handed over
    room          says how many would fit into the cluster now; where more do, since nodes joined, more are started
    unit_timeout  seconds without a result after which a worker is taken for hung, and replaced; None: never
    start_timeout seconds after which a worker whose process is up, but does not end loading, is; None: never
    """

    # A worker that can't even start, this many times in a row, is not bad luck.
    MAX_START_FAILURES = 3
    # Nor is a unit whose node is lost each time.
    MAX_LOSSES = 10
    # Seconds between two looks for nodes that have joined, and between two warnings that nothing starts.
    LOOK_EVERY = 5.0
    WARN_EVERY = 60.0

    def __init__(
        self,
        n: int,
        make_context: Callable[[], Any] | None = None,
        resources: Resources = Resources(),  # noqa: B008 - frozen
        *,
        batch: int = 1,
        retries: int = 3,
        depth: int = 3,
        on_event: OnEvent = no_event,
        check: Callable[[], None] = no_check,
        unit_timeout: float | None = None,
        start_timeout: float | None = None,
        room: Callable[[], int] | None = None,
    ) -> None:
        import ray

        if n < 1:
            raise ValueError("a pool needs a worker")
        self._ray = ray
        self._make_context = make_context
        self._resources = resources
        self._retries = retries
        self._depth = depth
        self.batch = batch
        self._on_event = on_event
        self._check = check
        self._unit_timeout = unit_timeout
        self._start_timeout = start_timeout
        self._room = room
        self._looked = time.monotonic()
        self._slots = [Slot(number) for number in range(n)]
        self._start_failures = 0
        self._pids: dict[int, int] = {}
        remote = ray.remote(RayWorker)
        self._actor_class = remote.options(  # type: ignore[attr-defined]
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            resources={} if resources.on is None else {resources.on: 0.0001},
            max_concurrency=depth + 2,  # and a ping, and the wait for being asked to end
            max_restarts=0,  # replacing is decided here, where the units are known
        )

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *exc: object) -> None:
        for slot in self._slots:
            self._discard(slot)

    @property
    def size(self) -> int:
        """How many workers the pool has."""
        return len(self._slots)

    @property
    def under_way(self) -> int:
        """How many units a worker has at once."""
        return self._depth

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are up (for watching, and for tests that kill them)."""
        return [self._pids[slot.number] for slot in self._slots if slot.ready]

    def run(self, units: Iterable[Any]) -> Iterator[Outcome]:
        """See :meth:`pipeline.workers.base.Pool.run`."""
        queue = Queue(units, self._retries, self._on_event)
        finished = False
        since, warned = time.monotonic(), 0.0
        try:
            self._drop_dead()
            while True:
                self._look_at_nodes()
                self._fill(queue)
                waiting = {ref: slot for slot in self._slots for ref in (*slot.running, *slot.signs)}
                busy = any(ticket.unit is not None for slot in self._slots for ticket in slot.running.values())
                if not any(slot.running for slot in self._slots) or (queue.empty and not busy):
                    finished = True  # perhaps a worker is still starting; the next run may have use for it
                    return
                patience = min(10.0, self._unit_timeout or 10.0, self._start_timeout or 10.0)
                ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=patience)
                if not ready and not any(slot.ready for slot in self._slots):
                    seconds = round(time.monotonic() - since)
                    asked = {"cpus": self._resources.num_cpus, "gpus": self._resources.num_gpus}
                    self._on_event("waiting_for_workers", seconds=seconds, **asked)
                    if seconds >= warned + self.WARN_EVERY:
                        warned = seconds
                        log.warning(
                            "no worker has started for %d s: each asks for %g CPU and %g GPU; is the cluster in use?",
                            *(seconds, *asked.values()),
                        )
                for ref in ready:
                    for outcome in self._collect(ref, waiting[ref], queue):
                        self._check()
                        yield outcome
                for outcome in self._end_hung(queue):
                    self._check()
                    yield outcome
        finally:
            # Left early (an error, Ctrl-C, or the caller stopped): nothing may go on writing behind the driver's back.
            # All workers go, since an interrupt may have come between handing a unit over and noting that.
            if not finished:
                for slot in self._slots:
                    self._discard(slot)

    # ---- scheduling ----

    def _look_at_nodes(self) -> None:
        """Places for workers on nodes that have joined; no more units for those on nodes that are about to leave."""
        now = time.monotonic()
        if now - self._looked < self.LOOK_EVERY:
            return
        self._looked = now
        draining = draining_nodes()
        for slot in self._slots:
            if slot.node in draining and not slot.leaving:
                slot.actor.leave.remote()
                self._leaves(slot, "its node is draining")
        if self._room is not None and (n := self._room()) > len(self._slots):
            self._on_event("more_workers", n=n)
            self._slots += [Slot(number) for number in range(len(self._slots), n)]

    def _drop_dead(self) -> None:
        """Forget workers that died since the last run, before a unit is blamed for it."""
        for slot in self._slots:
            if not slot.ready:
                continue
            try:
                self._ray.get(slot.actor.ping.remote(), timeout=60)
            except self._ray.exceptions.RayError as error:
                self._on_event("worker_died", worker=slot.number, units=[], error=why_died(error))
                self._discard(slot)

    def _fill(self, queue: Queue) -> None:
        """Start workers that there is work for; give each that is up one suspect alone, or ``depth`` others at once."""
        for slot in self._slots:
            if slot.leaving and not slot.running:
                self._discard(slot)
        starting = sum(slot.actor is not None and not slot.ready for slot in self._slots)
        # Breadth first: every worker has one unit before any has two, those that are still starting included.
        for level in range(self._depth):
            for slot in self._slots:
                if level and not queue.has(starting + 1):
                    break
                if (
                    not slot.ready
                    or slot.leaving
                    or len(slot.running) > level
                    or any(t.suspect for t in slot.running.values())
                ):
                    continue
                ticket = queue.next(alone=not slot.running)
                if ticket is not None:
                    slot.give(ticket)
        for slot in self._slots:
            if slot.actor is None and not slot.given_up and queue.has(starting + 1):
                slot.actor = self._actor_class.remote(self._make_context, self._resources.threads, dict(FENCES))
                slot.signs = {slot.actor.ping.remote(): "up", slot.actor.until_asked_to_end.remote(): "leaving"}
                slot.running[slot.actor.setup.remote()] = Ticket(None)
                starting += 1

    def _discard(self, slot: Slot) -> None:
        # Asked of a Ray that was shut down, kill would start a new one.
        if slot.actor is not None and self._ray.is_initialized():
            self._ray.kill(slot.actor)
        slot.actor, slot.ready, slot.running, slot.signs = None, False, {}, {}
        slot.up_since, slot.leaving, slot.node = None, False, ""

    def _leaves(self, slot: Slot, why: str) -> None:
        slot.leaving = True
        self._on_event("worker_leaving", worker=slot.number, why=why)

    # ---- outcomes ----

    def _collect(self, ref: Any, slot: Slot, queue: Queue) -> Iterator[Outcome]:
        if ref in slot.signs:
            self._heed(slot, ref)
            return
        ticket = slot.running.get(ref)
        if ticket is None:  # its worker's death was dealt with a moment ago
            return
        exceptions = self._ray.exceptions
        try:
            value = self._ray.get(ref)
        except (exceptions.RayTaskError, exceptions.RaySystemError, exceptions.UnserializableException) as error:
            # The worker is well; a result that can't be pickled, or not be read back here.
            cause = getattr(error, "cause", None) or error
            value = Failure(f"{type(cause).__name__}: {headline(cause)}", str(error)[-4000:], None), Timing()
        except exceptions.LocalRayletDiedError as error:
            raise Stopped("Ray has ended on this machine; what was committed is kept, run the job again") from error
        except exceptions.RayError as error:  # the actor or its node died, or its answer was lost with it
            if "its owner has died" in str(error):  # the owner is this process: to Ray it went with its node
                raise Stopped(
                    "this process's Ray node was lost; what was committed is kept, run the job again"
                ) from error
            yield from self._worker_died(slot, error, queue)
            return
        del slot.running[ref]
        slot.heard = time.monotonic()
        if ticket.unit is None:
            self._set_up(slot, value)
            return
        result, timing = value
        if isinstance(result, HandedBack):
            queue.again.append(ticket)
            return
        if not isinstance(result, Failure):
            yield Outcome(ticket.unit, result, timing=timing, worker=slot.number)
            return
        if result.stop is not None:
            raise result.stop
        ticket.errors += 1
        if (outcome := queue.failed(ticket, result.why, result.where)) is not None:
            yield outcome

    def _heed(self, slot: Slot, ref: Any) -> None:
        """A sign of a worker's process. That it has died is told by what it was at; where that is nothing, here."""
        sign = slot.signs.pop(ref)
        try:
            self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            if not slot.running and slot.actor is not None:
                self._on_event("worker_died", worker=slot.number, units=[], error=why_died(error))
                self._discard(slot)
            return
        if sign == "up":
            slot.up_since = time.monotonic()
        elif not slot.leaving:
            self._leaves(slot, "its process was asked to end (SIGTERM)")

    def _set_up(self, slot: Slot, value: Any) -> None:
        if isinstance(value, dict):
            slot.ready, slot.node, slot.hung_starts, self._start_failures = True, value["node"], 0, 0
            self._pids[slot.number] = value["pid"]
            self._on_event("worker_started", worker=slot.number, **value)
            return
        failure: Failure = value if isinstance(value, Failure) else value[0]
        if failure.stop is not None:
            raise failure.stop
        self._on_event("worker_failed_to_start", worker=slot.number, why=failure.why, traceback=failure.where)
        self._discard(slot)
        self._start_failed(f"workers can't start ({failure.why}); too many for the device's memory? try fewer actors")

    def _start_failed(self, message: str) -> None:
        self._start_failures += 1
        if self._start_failures >= self.MAX_START_FAILURES:
            raise Stopped(message)

    def _worker_died(self, slot: Slot, error: Exception, queue: Queue) -> Iterator[Outcome]:
        tickets = [ticket for ticket in slot.running.values() if ticket.unit is not None]
        was_ready, why = slot.ready, why_died(error)
        for ref in self._ray.wait([*slot.signs], num_returns=len(slot.signs), timeout=0)[0] if slot.signs else []:
            self._heed(slot, ref)  # it may have been asked to end just before
        was_asked = slot.leaving
        self._discard(slot)
        self._on_event("worker_died", worker=slot.number, units=[t.unit.name for t in tickets], error=why)
        if was_asked or node_lost(error, self._ray.exceptions):
            for ticket in tickets:
                ticket.losses += 1
            if all(ticket.losses <= self.MAX_LOSSES for ticket in tickets):
                queue.again.extend(tickets)
                return
        if not was_ready:
            self._start_failed(f"workers die before they can start ({why}); out of memory? try fewer actors")
        alone = len(tickets) == 1
        for ticket in tickets:
            ticket.suspect = True
            ticket.deaths += alone  # among others it may be innocent
            if (outcome := queue.failed(ticket, f"the worker died ({why})")) is not None:
                yield outcome

    def _end_hung(self, queue: Queue) -> Iterator[Outcome]:
        """Replace workers that gave no result for too long.

        A unit waits for as many others as a worker has under way, so its own limit is that many times longer; it is
        reached by one that hangs beside others that go on.
        """
        for slot in self._slots:
            if not slot.ready:
                self._end_hung_start(slot)
        limit = self._unit_timeout
        if limit is None:
            return
        for slot in self._slots:
            now = time.monotonic()
            tickets = list(slot.running.values())
            silent = now - slot.heard > limit
            old = any(now - ticket.given > self._depth * limit for ticket in tickets)
            # What the driver has only not fetched yet, since it was busy itself, is a result.
            if not slot.ready or not tickets or not (silent or old) or self._ray.wait([*slot.running], timeout=0)[0]:
                continue
            self._discard(slot)
            why = f"no result within {limit:g} s (compute.unit_timeout)"
            self._on_event("worker_died", worker=slot.number, units=[t.unit.name for t in tickets], error=why)
            for ticket in tickets:
                ticket.suspect = True
                ticket.errors += len(tickets) == 1  # it would mostly hang again, so it is tried only once more
                if (outcome := queue.failed(ticket, why)) is not None:
                    yield outcome

    def _end_hung_start(self, slot: Slot) -> None:
        """Replace a worker whose process is up but does not end loading; after some times, say so and give it up."""
        limit = self._start_timeout
        if limit is None or slot.up_since is None or time.monotonic() - slot.up_since <= limit:
            return
        if self._ray.wait([*slot.running], timeout=0)[0]:
            return
        why = f"loading {getattr(self._make_context, 'loads', 'its model')} did not end within {limit:g} s"
        self._on_event("worker_failed_to_start", worker=slot.number, why=why, traceback=None)
        self._discard(slot)
        slot.hung_starts += 1
        if slot.hung_starts < self.MAX_START_FAILURES:
            return
        slot.given_up = True
        line = (
            f"a worker can't start: {why} (compute.start_timeout), {count(slot.hung_starts, 'time')} in a row; see "
            "whether the nodes can read it (a disk or store that hangs?), or raise the limit"
        )
        if not any(other.ready for other in self._slots):
            raise Stopped(f"{line}; what was committed is kept")
        log.warning("%s; the others go on", line)
