"""What a run did, counted, and told at its end: what was made, how fast, where, what failed and how to retry it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.busy import Busy
from pipeline.storage import Place


@dataclass
class Tally:
    """What the stages did."""

    prepared: int = 0
    rejected: int = 0  # pictures that can't be read, in this run or before
    inverted: int = 0
    not_inverted: int = 0  # likewise
    pairs_made: int = 0
    pairs_there: int = 0
    pairs_failed: int = 0  # likewise
    failures_now: int = 0  # of all kinds, in this run
    seconds: dict[str, float] = field(default_factory=dict)
    busy: dict[str, Busy] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """What the job wanted and does not have."""
        return self.rejected + self.not_inverted + self.pairs_failed

    def figures(self) -> dict[str, Any]:
        """For the event log."""
        busy = {stage: round(one.share, 4) for stage, one in self.busy.items() if one.share is not None}
        return {**vars(self), "busy": busy}


def summary_lines(tally: Tally, output: Place, stages: Sequence[str], sheets: Sequence[Place]) -> list[str]:
    """The summary of a run of some stages."""
    lines = []
    if "shard" in stages:
        lines.append(f"prepared {tally.prepared} pictures")
    if "precompute" in stages:
        lines.append(f"inverted {tally.inverted} pictures")
    if "inject" in stages:
        seconds = tally.seconds.get("inject", 0)
        rate = f" in {seconds:.1f} s ({tally.pairs_made / seconds:.2f} pairs/s)" if tally.pairs_made else ""
        lines.append(f"made {tally.pairs_made} pairs{rate}; {tally.pairs_there} were there already")
        busy = tally.busy["inject"].share if "inject" in tally.busy else None
        if busy is not None:
            lines.append(f"the model was busy for {100 * busy:.1f} % of its workers' time")
        lines.append(f"pictures: {output / 'pictures'}   manifest: {output / 'manifest'}")
        lines += [f"contact sheet: {sheet}" for sheet in sheets]
    if tally.rejected:
        lines.append(f"{tally.rejected} pictures can't be read: {output / 'shards'}/*/rejects/ says why")
    if tally.not_inverted:
        lines.append(f"{tally.not_inverted} pictures could not be inverted: `diffstyle bank info` says why")
    if tally.pairs_failed:
        lines.append(f"{tally.pairs_failed} pairs failed: the manifest's rows with status 'failed' say why")
    if tally.failed:
        lines.append("try them again with --retry-failed")
    return lines
