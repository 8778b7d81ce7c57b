"""What runs inside a worker: a unit's three phases, and the threads that it may use."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pipeline.storage.place import FENCES, Fence, Place
from pipeline.workers.unit import Failure, HandedBack, Timing, Unit


class Worker:
    """Runs units one after the other, or in several threads. ``make_context`` runs once, at ``setup``.

    ``fences`` are the driver's (``place.FENCES``), in a worker that is a process of its own.
    """

    def __init__(
        self,
        make_context: Callable[[], Any] | None,
        threads: int | None,
        fences: Mapping[Place, Fence] = MappingProxyType({}),
    ) -> None:
        FENCES.update(fences)
        self._make_context = make_context
        self._threads = threads
        self._context: Any = None
        self._device = threading.Lock()
        #: Set where this worker's process is about to end: what it does not compute yet it hands back.
        self.asked_to_end = threading.Event()

    def setup(self) -> dict[str, Any] | Failure:
        """Load the model (not in ``__init__``: what that raises has lost its type). Returns what the log should say."""
        try:
            self._use_threads()
            if self._make_context is not None:
                self._context = self._make_context()
        except Exception as error:  # noqa: BLE001 - the driver decides
            return Failure.of(error)
        return {"pid": os.getpid(), **({"note": self._note} if self._note else {})}

    def ping(self) -> None:
        """Answers if the worker is alive."""

    def run(self, unit: Unit) -> tuple[Any, Timing]:
        """A unit's result, Failure or HandedBack, and its timing."""
        timing, clock = Timing(), time.perf_counter
        begun = clock()
        try:
            loaded = unit.load()
            timing.load = (now := clock()) - begun
            with self._device:
                timing.queued = (begun := clock()) - now
                if self.asked_to_end.is_set():
                    return HandedBack(), timing
                timing.began = time.time()
                self._use_threads()
                before = self._note
                computed = unit.compute(self._context, loaded)
                timing.note = self._note if self._note != before else ""
                timing.compute = (now := clock()) - begun
            result = unit.save(computed)
            timing.save = clock() - now
        except Exception as error:  # noqa: BLE001 - the driver decides
            return Failure.of(error), timing
        return result, timing

    @property
    def _note(self) -> str:
        return getattr(self._context, "note", "")

    def _use_threads(self) -> None:
        # In every thread that computes: the number is OpenMP's, which keeps one for each thread, and a kernel that
        # asks before torch has passed it on would split its sums differently and change the last bits.
        if self._threads:
            import torch

            torch.set_num_threads(self._threads)
