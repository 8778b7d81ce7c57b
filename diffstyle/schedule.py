"""The noise schedule of the DDPM family and the timestep grids on it.

``a[t]`` here is the paper's alpha-bar: the product of (1 - beta) up to t (Ho et al. 2020, arXiv 2006.11239, eq. 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch  # imported where tensors are made: plans need none, and it takes a second to import

N_TIMESTEPS = 1000


@lru_cache(maxsize=4)
def _alphas(n_timesteps: int, beta_start: float, beta_end: float) -> np.ndarray:
    """As :func:`alphas_cumprod`, without torch. The products are of float64 and rounded one by one, as torch's are."""
    betas = np.linspace(beta_start, beta_end, n_timesteps).astype(np.float32)
    return np.cumprod((1 - betas).astype(np.float64)).astype(np.float32)


@lru_cache(maxsize=4)
def alphas_cumprod(n_timesteps: int = N_TIMESTEPS, beta_start: float = 1e-4, beta_end: float = 0.02) -> torch.Tensor:
    """a[t] for t = 0 .. n_timesteps - 1: (n_timesteps,) float32 on the CPU, for linear betas.

    Held in float32, betas and product alike, because the reference does and its numbers are matched to 1e-5.
    """
    import torch

    return torch.from_numpy(_alphas(n_timesteps, beta_start, beta_end))


@cache  # at most N_TIMESTEPS + 1 values, each asked for several times a step
def a_at(t: int) -> float:
    """a[t] as a float; a[-1] is 1, the finished picture."""
    return 1.0 if t < 0 else float(_alphas(N_TIMESTEPS, 1e-4, 0.02)[t])


def sigma_at(t: int) -> float:
    """The noise beside a picture of scale 1, sqrt(1 - a[t]) / sqrt(a[t]): DDIM's own time variable; 0 at t = -1."""
    a = a_at(t)
    return sqrt((1 - a) / a)


def timesteps(n: int, t_0: int = N_TIMESTEPS - 1) -> tuple[int, ...]:
    """seq(n): n timesteps from 0 to ``t_0``, ascending and evenly spaced, as the reference rounds them."""
    if not 2 <= n <= t_0 + 1:
        raise ValueError(f"n must lie in 2 .. {t_0 + 1} for t_0 = {t_0}, got {n}")
    return tuple(int(s + 1e-6) for s in np.linspace(0, 1, n) * t_0)


def nearest(t: int, among: Sequence[int]) -> int:
    """The timestep of ``among`` nearest to ``t``; a tie goes to the larger (noisier) one."""
    return min(among, key=lambda other: (abs(other - t), -other))
