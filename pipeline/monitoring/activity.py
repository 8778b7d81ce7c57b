"""What workers did with their time: computing, reading, writing, waiting for data; and a run's seconds, in words."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from pipeline.monitoring.progress import duration
from pipeline.storage.counts import count

#: The keys of ``RunCounts.seconds`` that are no stage: starting the workers, measuring how many pictures go at once.
STARTING, MEASURING = "start", "batch"

# The first word of a stage's name -> what it does.
_WORDS = {
    STARTING: "starting workers",
    MEASURING: "measuring the batch",
    "shard": "preparing pictures",
    "sample": "sampling",
    "invert": "inverting",
    "inject": "making pairs",
    "reconstruct": "reconstructing styles",
    "score": "scoring",
}


@dataclass
class _Span:
    first: float
    last: float
    computing: float
    parts: int


class Activity:
    """Adds up what parts took, worker by worker."""

    def __init__(self) -> None:
        self._spans: dict[Hashable, _Span] = {}
        self._calls = 0

    def add(self, worker: Hashable, began: float, compute: float, calls: int = 0) -> None:
        """A part that computed for ``compute`` seconds from ``began`` (seconds since the epoch; 0: it did not).

        Args:
            worker: which one.
            began: when.
            compute: for how long.
            calls: how many network calls, on one picture each, it was.
        """
        if not began:
            return
        span = self._spans.setdefault(worker, _Span(began, began, 0.0, 0))
        span.first, span.last = min(span.first, began), max(span.last, began + compute)
        span.computing += compute
        span.parts += 1
        self._calls += calls

    def __repr__(self) -> str:
        return f"<Activity: {count(sum(span.parts for span in self._spans.values()), 'part')}>"

    @property
    def waiting(self) -> float | None:
        """The part of the time from a worker's first to its last computing in which it waited, over all workers.

        It waits for what it reads, and for the driver; replacing a worker that died counts too. None before any worker
        has done two parts.
        """
        spans = [span for span in self._spans.values() if span.parts > 1]
        total = sum(span.last - span.first for span in spans)
        return max(0.0, 1.0 - sum(span.computing for span in spans) / total) if total > 0 else None

    @property
    def calls_per_second(self) -> float | None:
        """Network calls a second, of all workers together; None where nothing was computed."""
        spans = self._spans.values()
        passed = max((span.last for span in spans), default=0.0) - min((span.first for span in spans), default=0.0)
        return self._calls / passed if self._calls and passed > 0 else None


def time_words(seconds: Mapping[str, float], whole: float | None = None) -> str:
    """``starting workers 9 s, inverting 25 s, making pairs 4 min 27 s, the rest 2 s``; what took no time is left out.

    Args:
        seconds: by stage, as ``RunCounts.seconds`` has them.
        whole: of the run; None: not known, and nothing is said of the rest.
    """
    sums: dict[str, float] = {}
    for name, value in seconds.items():
        words = _WORDS.get(name.partition(" ")[0], name)
        sums[words] = sums.get(words, 0.0) + value
    order = {words: number for number, words in enumerate(_WORDS.values())}
    parts = sorted(sums.items(), key=lambda item: order.get(item[0], len(order)))
    if whole is not None:
        parts.append(("the rest", whole - sum(sums.values())))
    return ", ".join(f"{words} {duration(value)}" for words, value in parts if value >= 0.05)
