"""Gamma over the timesteps: how strongly content is blended in at each injection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GammaSchedule:
    """Gamma along the injections, from the first (noisiest) to the last.

    Attributes:
        kind: ``constant``: one value; ``linear``, ``cosine``: from the first value to the second; ``values``: a list,
            interpolated where it is not as long as there are injections.
        values: Each in [0, 1].

    Raises:
        ValueError: The kind takes another number of values, or one is outside of [0, 1].
    """

    kind: Literal["constant", "linear", "cosine", "values"]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        wanted = {"constant": 1, "linear": 2, "cosine": 2}.get(self.kind, len(self.values))
        if len(self.values) != wanted or not self.values:
            raise ValueError(f"a {self.kind} gamma takes {wanted or 'at least 1'} value(s), got {len(self.values)}")
        if not all(0 <= value <= 1 for value in self.values):
            raise ValueError(f"gamma must lie in 0 .. 1, got {list(self.values)}")

    def at(self, injections: Sequence[int]) -> list[float]:
        """Gamma at each injection.

        Args:
            injections: their timesteps, descending (``Plan.injections``).
        """
        if not injections:
            return []
        first, last = injections[0], injections[-1]
        way = [(first - t) / max(1, first - last) for t in injections]  # 0 at the first injection, 1 at the last
        if self.kind == "cosine":
            way = [(1 - math.cos(math.pi * u)) / 2 for u in way]
        if self.kind == "values" and len(self.values) == len(injections):
            return list(self.values)
        return [_interpolated(self.values, u) for u in way]


def _interpolated(values: Sequence[float], u: float) -> float:
    position = u * (len(values) - 1)
    low = min(int(position), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (position - low) * (values[high] - values[low])
