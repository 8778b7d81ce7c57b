"""The method written out plainly in float64, one picture at a time: what the tests hold ``diffstyle`` against.

Nothing here is fast or general, and nothing of the library's own arithmetic is used: betas, grids, slerp, inversion and
injection are stated again, from the papers (DDIM, arXiv 2010.02502; injection, arXiv 2303.15403). The network is one
of ``networks_by_the_book``, or a stand-in with the same two methods.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

TOP = 999

# alpha-bar by timestep, multiplied up in float32 as the reference does; alpha-bar of the finished picture is 1.
ALPHA_BAR: dict[int, float] = {-1: 1.0}
_product = np.float32(1)
for _t in range(TOP + 1):
    _beta = np.float32(1e-4 + (0.02 - 1e-4) * _t / TOP)
    _product = np.float32(_product * (np.float32(1) - _beta))
    ALPHA_BAR[_t] = float(_product)


class Calls(Protocol):
    """A noise-predicting network for one picture, cut at the bottleneck."""

    def encode(self, x: np.ndarray, t: int) -> tuple[np.ndarray, Any]:
        """x (3, H, W) -> h (C, h, w), and whatever ``decode`` needs besides."""

    def decode(self, h: np.ndarray, rest: Any) -> np.ndarray:
        """h (C, h, w) -> the noise estimate (3, H, W)."""


def seq(n: int, top: int = TOP) -> list[int]:
    """``n`` timesteps from 0 to ``top``."""
    return [int(s * top + 1e-6) for s in np.linspace(0, 1, n)]


def predicted(x: np.ndarray, e: np.ndarray, t: int) -> np.ndarray:
    """The picture that x would be, were e its noise."""
    return (x - math.sqrt(1 - ALPHA_BAR[t]) * e) / math.sqrt(ALPHA_BAR[t])


def towards(picture: np.ndarray, e: np.ndarray, t: int, direction: float = 1.0) -> np.ndarray:
    """The state at ``t`` that has this predicted picture and this noise."""
    return math.sqrt(ALPHA_BAR[t]) * picture + direction * math.sqrt(1 - ALPHA_BAR[t]) * e


def invert(network: Calls, picture: np.ndarray, n: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """(x_T, h by timestep) of a picture (3, H, W) in [-1, 1], by DDIM over seq(n)."""
    x, kept = picture.astype(np.float64), {}
    grid = seq(n)
    for i, j in itertools.pairwise(grid):
        h, rest = network.encode(x, i)
        kept[i] = h
        e = network.decode(h, rest)
        x = towards(predicted(x, e, i), e, j)
    return x, kept


def slerp(gamma: float, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Along the great circle from u (gamma 0) to v (gamma 1); along the line where they are parallel."""
    cosine = float((u * v).sum() / math.sqrt((u * u).sum()) / math.sqrt((v * v).sum()))
    w = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(w) < 1e-6:
        return (1 - gamma) * u + gamma * v
    return math.sin((1 - gamma) * w) / math.sin(w) * u + math.sin(gamma * w) / math.sin(w) * v


def blend(gamma: float, h: np.ndarray, hc: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The style's h with the content's hc in it; mask (1, h, w) or None."""
    if mask is None:
        return slerp(gamma, h, hc * math.sqrt((h * h).sum()) / math.sqrt((hc * hc).sum()))
    return slerp(gamma, mask * h, mask * hc) + (1 - mask) * h


def inject(
    network: Calls,
    x_T: np.ndarray,
    h_content: Mapping[int, np.ndarray],
    *,
    grid: Sequence[int],
    events: Sequence[int],
    gamma: float | Mapping[int, float],
    t_edit: int = 400,
    t_boost: int = 0,
    dt_lambda: float = 1.0,
    dt_end: int = 950,
    omega: float = 0.0,
    mask: np.ndarray | None = None,
    edit: Mapping[int, np.ndarray] | None = None,
    noise: Callable[[int], np.ndarray] | None = None,
) -> np.ndarray:
    """From the style's x_T (3, H, W) to the picture with the content in it, over ``grid`` joined with ``events``.

    gamma: one number, or one by the timestep of the injection. edit: what is added to the blended h, by the timestep of
    the content's h. noise: t -> (3, H, W) standard normal.
    """
    x = x_T.astype(np.float64)
    walk = sorted({*grid, *events}, reverse=True)
    for i, j in zip(walk, [*walk[1:], -1], strict=True):
        h, rest = network.encode(x, i)
        e = network.decode(h, rest)
        if i not in events:
            x = towards(predicted(x, e, i), e, j)
            continue
        e_tilde = e
        if i >= t_edit:
            nearest = max(h_content, key=lambda t: (-abs(t - i), t))
            strength = gamma[i] if isinstance(gamma, Mapping) else gamma
            blended = blend(strength, h, h_content[nearest], mask)
            e_tilde = network.decode(blended if edit is None else blended + edit[nearest], rest)
        picture = predicted(x, e_tilde, i)
        if omega != 0 and i >= t_edit:
            before = predicted(x, e, i)
            picture = (picture - picture.mean()) * before.std(ddof=1) / picture.std(ddof=1) + picture.mean()
            x = x + math.sqrt(ALPHA_BAR[i]) * (picture - before) + omega * math.sqrt(1 - ALPHA_BAR[i]) * (e_tilde - e)
            h, rest = network.encode(x, i)
            e = network.decode(h, rest)
            picture = predicted(x, e, i)
        if 0 < i <= t_boost:
            # A step of the DDPM sampler: the posterior of the state at j, given this picture and the state at i.
            a, b = ALPHA_BAR[i], ALPHA_BAR[j]
            deviation = math.sqrt((1 - b) / (1 - a) * (1 - a / b))
            assert noise is not None
            x = math.sqrt(b) * picture + math.sqrt(1 - b - deviation**2) * e + deviation * noise(i)
        elif dt_lambda != 1 and i >= dt_end and omega == 0:
            x = towards(picture, e, j, dt_lambda)
        else:
            x = towards(picture, e, j)
    return x
