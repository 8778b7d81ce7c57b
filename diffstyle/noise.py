"""The noise of one picture: a function of its seed and the timestep, whatever the batch, order, worker or device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def seeded_noise(seeds: Sequence[int], t: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise of shape ``(B, *shape)``, float32 on the CPU: one counter-based stream for each (seed, t).

    Philox (Salmon et al. 2011) keyed by seed and timestep, so that nothing has to be drawn in order.

    Args:
        seeds: One for each of the B pictures, 0 to 2^64 - 1.
        t: The timestep, -1 to 999.
        shape: Of one picture, such as (3, H, W).
    """
    drawn = [np.random.Generator(np.random.Philox(key=[seed, t + 1])).standard_normal(shape) for seed in seeds]
    return torch.from_numpy(np.stack(drawn).astype(np.float32))
