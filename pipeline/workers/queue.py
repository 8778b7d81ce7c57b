"""Which unit comes next, and what is done with one that failed: again, then in halves, then by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.workers.base import OnEvent
from pipeline.workers.unit import Outcome


@dataclass(eq=False)
class Ticket:
    """A unit that is to be run, and how it fared so far."""

    unit: Any
    suspect: bool = False  # it was in a worker that died, with others: it is tried alone, so that the next death tells
    deaths: int = 0  # workers that died while running it alone
    errors: int = 0  # exceptions it raised
    losses: int = 0  # workers that were lost with their node or network while running it: not its fault
    given: float = 0.0  # when it was given to a worker, by time.monotonic()


class Queue:
    """What is to be run: what has to be repeated, and new units, which are read only as they are needed.

    retries  how many more times a unit is tried after a death or an error, before it is split
    """

    def __init__(self, units: Iterable[Any], retries: int, on_event: OnEvent) -> None:
        self.again: deque[Ticket] = deque()
        self._units = iter(units)
        self._dry = False
        self._retries = retries
        self._on_event = on_event

    @property
    def empty(self) -> bool:
        """Whether nothing is left, as far as anybody has asked."""
        return self._dry and not self.again

    def next(self, alone: bool) -> Ticket | None:
        """On an idle worker suspects first, then what is to be repeated, then new units."""
        for ticket in sorted(self.again, key=lambda t: not t.suspect):
            if alone or not ticket.suspect:
                self.again.remove(ticket)
                return ticket
        return self._read()

    def has(self, n: int) -> bool:
        """Whether at least ``n`` are left; reads no more than it must."""
        while len(self.again) < n and (ticket := self._read()) is not None:
            self.again.append(ticket)
        return len(self.again) >= n

    def _read(self) -> Ticket | None:
        unit = None if self._dry else next(self._units, None)
        self._dry = unit is None
        return None if unit is None else Ticket(unit)

    def failed(self, ticket: Ticket, reason: str, where: str | None = None) -> Outcome | None:
        """Try a unit again; when that has been done often enough, its parts; a single item has failed: its outcome.

        ``where``: the traceback, for the log.
        """
        # An exception is mostly the same the second time, so it is tried only once more. A worker may die
        # of another unit's fault.
        if ticket.deaths <= self._retries and ticket.errors <= min(1, self._retries):
            counts = {"deaths": ticket.deaths, "errors": ticket.errors}
            self._on_event("unit_retried", unit=ticket.unit.name, **counts, why=reason, traceback=where)
            self.again.append(ticket)
            return None
        pieces = ticket.unit.split()
        if not pieces:
            self._on_event("unit_failed", unit=ticket.unit.name, why=reason, traceback=where)
            return Outcome(ticket.unit, error=reason)
        self._on_event("unit_split", unit=ticket.unit.name, into=len(pieces), why=reason)
        # The pieces of a killer run alone too; that it is one of them is as good as a first death.
        deaths = min(ticket.deaths, 1, self._retries)
        self.again.extend(Ticket(piece, suspect=ticket.suspect, deaths=deaths) for piece in pieces)
        return None
