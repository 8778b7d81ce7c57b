"""A worker's place in a pool on Ray."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from pipeline.workers.queue import Ticket


@dataclass
class Slot:
    """A worker's place in the pool; the actor in it is replaced when it dies.

    It gets units only once it is ready: so it is clear what dies if it dies, and no unit waits at a worker that never
    starts (a node was lost and its place is nowhere else) while others are idle.
    """

    number: int
    actor: Any = None
    ready: bool = False
    running: dict[Any, Ticket] = field(default_factory=dict)
    signs: dict[Any, str] = field(default_factory=dict)  # what is heard when the process is "up", or "leaving"
    up_since: float | None = None  # when the process answered first, by time.monotonic()
    leaving: bool = False  # it was asked to end: it gets no more units
    node: str = ""
    hung_starts: int = 0  # in a row
    given_up: bool = False
    heard: float = 0.0  # when it last gave an outcome, or was given a unit while idle, by time.monotonic()

    def give(self, ticket: Ticket) -> None:
        """Run a ticket's unit."""
        ticket.given = time.monotonic()
        if not self.running:
            self.heard = ticket.given
        self.running[self.actor.run.remote(ticket.unit)] = ticket
