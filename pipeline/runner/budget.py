"""The time that a run may take: after it no new unit is begun, those under way end, and the run stops in order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from pipeline.storage.errors import Stopped
from pipeline.workers.base import Pool
from pipeline.workers.unit import Outcome


class Budget:
    """Seconds from now; None: no end."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._any = False
        self._withheld = False

    def units(self, units: Iterable[Any]) -> Iterator[Any]:
        """The units, as long as there is time; one in any case, so that runs with the shortest budget get on."""
        for unit in units:
            if self._any and self._ends is not None and time.monotonic() >= self._ends:
                self._withheld = True
                return
            self._any = True
            yield unit

    def check(self) -> None:
        """Raise Stopped where units were withheld: a stage that ended then would take itself for done."""
        if self._withheld:
            raise Stopped(
                f"stop_after: {self._seconds:g} s have passed; what was begun is finished and kept, run the job again"
            )


class WithinBudget:
    """A pool that begins no unit after a budget's end; once those before are handed over, its run ends with Stopped."""

    def __init__(self, pool: Pool, budget: Budget) -> None:
        self._pool = pool
        self._budget = budget

    @property
    def size(self) -> int:
        """See :class:`pipeline.workers.base.Pool`."""
        return self._pool.size

    @property
    def under_way(self) -> int:
        """See :class:`pipeline.workers.base.Pool`."""
        return self._pool.under_way

    @property
    def batch(self) -> int:
        """See :class:`pipeline.workers.base.Pool`."""
        return self._pool.batch

    def run(self, units: Iterable[Any]) -> Iterator[Outcome]:
        """See :meth:`pipeline.workers.base.Pool.run`."""
        yield from self._pool.run(self._budget.units(units))
        self._budget.check()

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, trace)
