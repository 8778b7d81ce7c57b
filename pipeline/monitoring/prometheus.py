"""Figures of a run for Prometheus, through Ray's own metrics endpoint (port and scraping: docs/running.md)."""

from __future__ import annotations

import sys
from typing import Any

from pipeline.workers.unit import Timing

#: name -> what it says. Ray puts ``ray_`` before each.
METRICS = {
    "diffstyle_pairs_done": "Pairs whose pictures are committed.",
    "diffstyle_pairs_failed": "Pairs that failed.",
    "diffstyle_seconds_per_step": "Seconds of one network call on one pair.",
    "diffstyle_waiting_seconds": "Seconds that a tile waited, after loading, for the worker's device.",
}


class Metrics:
    """Counts in the driver. Costs nothing until the first part is done: Ray is not asked for before."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def pairs(self, done: int, failed: int, timing: Timing, calls: int) -> None:
        """A tile is committed; its pairs took ``calls`` network calls in all."""
        if not self._made and not self._make():
            return
        if done:
            self._made["diffstyle_pairs_done"].inc(done)
        if failed:
            self._made["diffstyle_pairs_failed"].inc(failed)
        if calls and timing.compute:
            self._made["diffstyle_seconds_per_step"].observe(timing.compute / calls)
        self._made["diffstyle_waiting_seconds"].observe(timing.queued)

    def _make(self) -> bool:
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():  # the workers are of another kind
            return False
        from ray.util.metrics import Counter, Histogram

        steps = [10.0**power * factor for power in range(-4, 2) for factor in (1, 2, 5)]
        waits = [0.01, 0.1, 1, 5, 20, 60, 300, 1200]
        for name, text in METRICS.items():
            if name.startswith("diffstyle_pairs"):
                self._made[name] = Counter(name, text)
            else:
                self._made[name] = Histogram(name, text, boundaries=steps if name.endswith("step") else waits)
        return True
