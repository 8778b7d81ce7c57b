"""How busy the workers' devices are, from the run's own figures."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass
class _Span:
    first: float
    last: float
    computing: float
    parts: int


class Busy:
    """Adds up the computing phases of parts, worker by worker."""

    def __init__(self) -> None:
        self._spans: dict[Hashable, _Span] = {}

    def add(self, worker: Hashable, began: float, compute: float) -> None:
        """A part that computed for ``compute`` seconds from ``began`` (seconds since the epoch; 0: it did not)."""
        if not began:
            return
        span = self._spans.setdefault(worker, _Span(began, began, 0.0, 0))
        span.first, span.last = min(span.first, began), max(span.last, began + compute)
        span.computing += compute
        span.parts += 1

    @property
    def share(self) -> float | None:
        """The part of the time from a worker's first to its last computing in which it computed, over all workers.

        None before any worker has done two parts. Replacing a worker that died counts as waiting.
        """
        spans = [span for span in self._spans.values() if span.parts > 1]
        total = sum(span.last - span.first for span in spans)
        return min(1.0, sum(span.computing for span in spans) / total) if total > 0 else None
