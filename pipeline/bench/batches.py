"""Batches of pairs, side by side on the cores: small networks gain more from that than from threads within a call."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from pipeline.models.accelerate import torch_threads

Result = TypeVar("Result")


def over_batches(run: Callable[[Tensor], Result], count: int, batch: int = 16) -> list[Result]:
    """``run`` of the numbers 0 to ``count`` - 1, some at a time, and its results in their order.

    As many batches at once as torch has threads, each of them with one; so the results do not depend on how many. The
    batches are of one size (or one less) and of an even number, so that two cores end together.

    Args:
        run: gets the numbers of a batch, (n,) int64.
        count: how many numbers.
        batch: the largest n.
    """
    batches = torch.arange(count).tensor_split(min(2 * math.ceil(count / (2 * batch)), count) or 1)
    threads = min(torch.get_num_threads(), len(batches))
    with torch_threads(1), ThreadPoolExecutor(max_workers=max(threads, 1)) as pool:
        return list(pool.map(run, batches))
