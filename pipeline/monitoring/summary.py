"""What a run did, counted, and told at its end: what was made, how fast, where, what failed and how to retry it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.monitoring.activity import Activity, time_words
from pipeline.monitoring.progress import duration
from pipeline.storage.counts import count
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place


@dataclass(repr=False)
class RunCounts:
    """What the stages did; ``str()`` has a line for each figure that is not zero."""

    prepared: int = 0
    rejected: int = 0  # pictures that can't be read, in this run or before
    inverted: int = 0
    not_inverted: int = 0  # likewise
    corrected: int = 0  # names in the banks that have got another label, caption or metadata
    pairs_made: int = 0
    pairs_there: int = 0
    pairs_failed: int = 0  # likewise
    lost: list[tuple[str, str]] = field(default_factory=list)  # pairs of which a picture can't be used: name, reason
    pairs_dropped: int = 0  # of settings that the job no longer wants
    copies: int = 0  # pictures with the same pixels as another one of their side
    pairs_repeated: int = 0  # rows that ask for a pair once more
    scored: int = 0
    scored_before: int = 0
    scored_by: dict[str, tuple[int, int]] = field(default_factory=dict)  # network -> scored, scored before
    not_scored: int = 0  # pictures that can't be read, or of which a score is not finite
    notes: list[str] = field(default_factory=list)  # what else there is to say of the scores
    failures_now: int = 0  # of all kinds, in this run
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, and of starting the workers
    whole: float | None = None  # seconds of the run, once it has ended
    activity: dict[str, Activity] = field(default_factory=dict)  # of the workers, by stage

    @property
    def failed(self) -> int:
        """What the job wanted and does not have."""
        return self.rejected + self.not_inverted + self.pairs_failed + len(self.lost) + self.not_scored

    def __str__(self) -> str:
        figures = {"failed": self.failed, **{name: one for name, one in vars(self).items() if name != "activity"}}
        figures["lost"] = len(self.lost)
        figures["seconds"] = time_words(self.seconds, self.whole) if self.seconds else ""
        return "\n".join(f"{name:<16} {one}" for name, one in figures.items() if one or name == "failed")

    def __repr__(self) -> str:
        made, failed = count(self.pairs_made, "pair"), count(self.failed, "failure")
        return f"<RunCounts: made {made}, {self.pairs_there} there already, {failed}>"

    def figures(self) -> dict[str, Any]:
        """For the event log."""
        waiting = {stage: round(one.waiting, 4) for stage, one in self.activity.items() if one.waiting is not None}
        figures = {name: value for name, value in vars(self).items() if name != "activity"}
        return {**figures, "waiting": waiting, "lost": len(self.lost)}


def summary_lines(counts: RunCounts, output: Place, stages: Sequence[str], sheets: Sequence[Place]) -> list[str]:
    """The summary of a run of some stages."""
    lines = []
    if "shard" in stages:
        lines.append(f"prepared {count(counts.prepared, 'picture')}")
    if "precompute" in stages:
        lines.append(f"inverted {count(counts.inverted, 'picture')}")
        if counts.corrected:
            lines.append(
                f"took over the new label, caption or metadata of {count(counts.corrected, 'picture')}; pairs made "
                "before keep the old ones in the manifest"
            )
    if "inject" in stages:
        activity = counts.activity.get("inject", Activity())
        there_before = count(counts.pairs_there, "", "was/were")
        lines.append(f"made {count(counts.pairs_made, 'pair')}{_rate(counts, activity)}; {there_before} there already")
        if activity.waiting is not None:
            lines.append(f"the model waited for data {100 * activity.waiting:.0f} % of its workers' time")
        layout = OutputLayout(output)
        lines.append(f"pictures: {layout.pictures}   manifest: {layout.manifest}")
        lines += [f"contact sheet: {sheet}" for sheet in sheets]
    if counts.pairs_dropped:
        lines.append(f"dropped {count(counts.pairs_dropped, 'pair')} of settings that this job no longer wants (keep)")
    if "score" in stages:
        lines.append(f"scored {count(counts.scored, 'picture')}; {counts.scored_before} had scores already")
        for name, (now, before) in counts.scored_by.items():
            lines.append(f"network {name}: scored {count(now, 'picture')}; {before} had its scores already")
        lines += counts.notes
        lines.append(f"scores: {OutputLayout(output).scores}")
    if counts.activity:
        lines.append(f"time: {time_words(counts.seconds, counts.whole)}")
    if counts.rejected:
        lines.append(f"rejected {count(counts.rejected, 'picture')} that can't be read")
    if counts.not_inverted:
        lines.append(f"{count(counts.not_inverted, 'picture')} could not be inverted")
    if counts.copies:
        copies = count(counts.copies, "picture", "has/have")
        lines.append(f"{copies} the same pixels as another of its data set; such pictures count once")
    if counts.pairs_repeated:
        rows = count(counts.pairs_repeated, "row", "asks/ask")
        lines.append(f"{rows} for a pair that another row asks for; it is made once")
    if counts.lost:
        first, reason = counts.lost[0]
        pairs = count(len(counts.lost), "pair")
        lines.append(f"{pairs} can't be made, since a picture can't be used; the first is {first}: {reason}")
    if counts.pairs_failed:
        lines.append(f"{count(counts.pairs_failed, 'pair')} failed")
    if counts.not_scored:
        lines.append(f"{count(counts.not_scored, 'picture')} can't be scored: unreadable, or a score is not finite")
    if counts.failed:
        lines.append(f"why, for each: `diffstyle failures {output}`")
    if counts.rejected or counts.not_inverted or counts.pairs_failed or counts.lost:
        lines.append("try them again with --retry-failed")
    return lines


def _rate(counts: RunCounts, activity: Activity) -> str:
    seconds = counts.seconds.get("inject", 0)
    if not counts.pairs_made or not seconds:
        return ""
    calls = activity.calls_per_second
    per_call = "" if calls is None else f", {calls:.3g} network calls/s"
    return f" in {duration(seconds)}: {counts.pairs_made / seconds:.2f} pictures/s{per_call}"
