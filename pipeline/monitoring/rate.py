"""How fast pairs are made, by the manifest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest

# The rate is that of the pairs made in so many seconds before the last one.
LATELY = 900.0


def rate(manifest: Manifest, since: float) -> float | None:
    """Pairs a second, lately, by the clocks of the machines that made them. Memory: that of a few parts."""
    columns = ["status", "created"]
    parts = manifest.store.parts()

    def made_since(rows: pa.Table) -> int:
        return int((_times(rows) >= begin).sum())

    try:
        spans = manifest.store.each(_span, MANIFEST_SCHEMA, columns, parts)
        last = max((span.last for span in spans), default=0.0)
        begin = max(since, last - LATELY)
        made = sum(span.made for span in spans if span.first >= begin)
        astride = [part for part, span in zip(parts, spans, strict=True) if span.first < begin <= span.last]
        made += sum(manifest.store.each(made_since, MANIFEST_SCHEMA, columns, astride))
    except FileNotFoundError:  # a run has merged parts meanwhile
        return rate(manifest, since)
    return made / (last - begin) if made and last > begin else None


@dataclass(frozen=True)
class _Span:
    """How many pairs a part of the manifest has, and when the first and the last was made, in seconds."""

    made: int
    first: float = 0.0
    last: float = 0.0


def _span(rows: pa.Table) -> _Span:
    times = _times(rows)
    return _Span(len(times), times.min(), times.max()) if len(times) else _Span(0)


def _times(rows: pa.Table) -> np.ndarray:
    """When the finished pairs of a part were made, (n,) seconds."""
    created = rows["created"].filter(pc.equal(rows["status"], "ok"))
    return created.to_numpy().astype("datetime64[us]").astype(np.int64) / 1e6
