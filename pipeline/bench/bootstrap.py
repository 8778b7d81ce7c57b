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

    @property
    def short(self) -> str:
        """With two digits; a dash where there is no such number."""
        if not np.isfinite(self.value):
            return "-"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


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
    resampled = [
        statistic(np.concatenate([groups[k] for k in chosen])) for chosen in _resamples(len(groups), draws, seed)
    ]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(statistic(np.arange(len(drawings))), float(low), float(high))


def ratio_interval(
    above: np.ndarray, below: np.ndarray, drawings: Sequence[str], draws: int = 2000, seed: int = 0
) -> Interval:
    """The sum of one value over that of another, with the interval that :func:`interval` gives, but faster.

    above, below: (N,), for each pair. Not a number where what is below comes to nothing.
    """
    names = {drawing: n for n, drawing in enumerate(dict.fromkeys(drawings))}
    group = np.array([names[drawing] for drawing in drawings])
    sums = np.stack([np.bincount(group, z, len(names)) for z in (above, below)])
    resampled = sums[:, _resamples(len(names), draws, seed)].sum(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.percentile(resampled[0] / resampled[1], [2.5, 97.5])
        return Interval(float(np.sum(above) / np.sum(below)), float(low), float(high))


def mean_interval(values: np.ndarray, drawings: Sequence[str]) -> Interval:
    """The mean of a value for each pair."""
    return ratio_interval(values, np.ones(len(values)), drawings)


def _resamples(count: int, draws: int, seed: int) -> np.ndarray:
    """The numbers of resampled drawings, (draws, count)."""
    return np.random.default_rng(seed).integers(0, count, (draws, count))
