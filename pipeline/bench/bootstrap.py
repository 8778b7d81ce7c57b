"""Confidence intervals by resampling whole drawings: pairs of one drawing are not independent of each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(
    statistic: Callable[[np.ndarray], float], drawings: Sequence[str], draws: int = 2000, seed: int = 0
) -> Interval:
    """``statistic`` of the pair numbers given, over all pairs, and its percentile interval over resampled drawings.

    drawings: for each pair the drawing that it belongs to.
    """
    members: dict[str, list[int]] = {}
    for n, drawing in enumerate(drawings):
        members.setdefault(drawing, []).append(n)
    groups = [np.array(group) for group in members.values()]
    generator = np.random.default_rng(seed)
    resampled = [
        statistic(np.concatenate([groups[k] for k in generator.integers(0, len(groups), len(groups))]))
        for _ in range(draws)
    ]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(statistic(np.arange(len(drawings))), float(low), float(high))


def mean_interval(values: np.ndarray, drawings: Sequence[str]) -> Interval:
    """The mean of a value for each pair."""
    return interval(lambda chosen: float(values[chosen].mean()), drawings)
