"""What a run did, counted, and told at its end: what was made, how fast, where, what failed and how to retry it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.storage.counts import count
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place


@dataclass
class _Span:
    first: float
    last: float
    computing: float
    parts: int


class Utilization:
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


@dataclass
class RunCounts:
    """What the stages did."""

    prepared: int = 0
    rejected: int = 0  # pictures that can't be read, in this run or before
    inverted: int = 0
    not_inverted: int = 0  # likewise
    pairs_made: int = 0
    pairs_there: int = 0
    pairs_failed: int = 0  # likewise
    lost: list[tuple[str, str]] = field(default_factory=list)  # pairs of which a picture can't be used: name, reason
    pairs_repeated: int = 0  # rows that ask for a pair once more
    scored: int = 0
    scored_before: int = 0
    scored_by: dict[str, tuple[int, int]] = field(default_factory=dict)  # network -> scored, scored before
    not_scored: int = 0  # pictures that can't be read
    notes: list[str] = field(default_factory=list)  # what else there is to say of the scores
    failures_now: int = 0  # of all kinds, in this run
    seconds: dict[str, float] = field(default_factory=dict)
    busy: dict[str, Utilization] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """What the job wanted and does not have."""
        return self.rejected + self.not_inverted + self.pairs_failed + len(self.lost) + self.not_scored

    def figures(self) -> dict[str, Any]:
        """For the event log."""
        busy = {stage: round(one.share, 4) for stage, one in self.busy.items() if one.share is not None}
        return {**vars(self), "busy": busy, "lost": len(self.lost)}


def summary_lines(counts: RunCounts, output: Place, stages: Sequence[str], sheets: Sequence[Place]) -> list[str]:
    """The summary of a run of some stages."""
    lines = []
    if "shard" in stages:
        lines.append(f"prepared {count(counts.prepared, 'picture')}")
    if "precompute" in stages:
        lines.append(f"inverted {count(counts.inverted, 'picture')}")
    if "inject" in stages:
        seconds = counts.seconds.get("inject", 0)
        rate = f" in {seconds:.1f} s ({counts.pairs_made / seconds:.2f} pairs/s)" if counts.pairs_made else ""
        already = count(counts.pairs_there, "", "was/were")
        lines.append(f"made {count(counts.pairs_made, 'pair')}{rate}; {already} there already")
        busy = counts.busy["inject"].share if "inject" in counts.busy else None
        if busy is not None:
            lines.append(f"the model was busy for {100 * busy:.1f} % of its workers' time")
        layout = OutputLayout(output)
        lines.append(f"pictures: {layout.pictures}   manifest: {layout.manifest}")
        lines += [f"contact sheet: {sheet}" for sheet in sheets]
    if "score" in stages:
        lines.append(f"scored {count(counts.scored, 'picture')}; {counts.scored_before} had scores already")
        for name, (now, before) in counts.scored_by.items():
            lines.append(f"network {name}: scored {count(now, 'picture')}; {before} had its scores already")
        lines += counts.notes
        lines.append(f"scores: {OutputLayout(output).scores}")
    if counts.rejected:
        unread = count(counts.rejected, "picture")
        lines.append(f"{unread} can't be read: {OutputLayout(output).shards('*')}/rejects/ says why")
    if counts.not_inverted:
        lines.append(f"{count(counts.not_inverted, 'picture')} could not be inverted: `diffstyle bank info` says why")
    if counts.pairs_repeated:
        rows = count(counts.pairs_repeated, "row", "asks/ask")
        lines.append(f"{rows} for a pair that another row asks for; it is made once")
    if counts.lost:
        name, reason = counts.lost[0]
        lines.append(
            f"{count(len(counts.lost), 'pair')} can't be made, since a picture can't be used (events/ lists them); "
            f"the first is {name}: {reason}"
        )
    if counts.pairs_failed:
        lines.append(f"{count(counts.pairs_failed, 'pair')} failed: the manifest's rows with status 'failed' say why")
    if counts.not_scored:
        unread = count(counts.not_scored, "picture")
        lines.append(f"{unread} can't be read and so can't be scored: the column `error` says why")
    if counts.rejected or counts.not_inverted or counts.pairs_failed or counts.lost:
        lines.append("try them again with --retry-failed")
    return lines
