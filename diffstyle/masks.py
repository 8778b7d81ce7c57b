"""Masks: where in the picture content is injected. A mask lives on the bottleneck's grid, values in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_mask() -> Tensor:
    """The one mask built into the reference, (1, 1, 8, 8): rows 4 to 6, columns 3 and 4, a centred face's mouth."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:-1, 3:5] = 1
    return mask


def rectangle_mask(top: float, left: float, bottom: float, right: float, size: int = 256) -> Tensor:
    """A rectangle in fractions of the picture's side.

    Args:
        top, left, bottom, right: Its edges; 0 is the picture's top or left, 1 its bottom or right.
        size: Side of the mask in pixels.

    Returns:
        (1, 1, size, size) float32: 1 inside, 0 outside.

    Raises:
        ValueError: Unless 0 <= top < bottom <= 1 and 0 <= left < right <= 1.
    """
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise ValueError(f"not a rectangle of fractions (top, left, bottom, right): {(top, left, bottom, right)}")
    mask = torch.zeros(1, 1, size, size)
    rows = slice(round(top * size), max(round(bottom * size), round(top * size) + 1))
    columns = slice(round(left * size), max(round(right * size), round(left * size) + 1))
    mask[..., rows, columns] = 1
    return mask


def to_h_grid(mask: Tensor, h: int, w: int) -> Tensor:
    """A mask on the h grid: the mean over the pixels that each cell covers.

    Args:
        mask: (B, 1, H, W), of any size, values in [0, 1].
        h: rows of the grid.
        w: its columns.

    Returns:
        (B, 1, h, w) float32.
    """
    return F.interpolate(mask.float(), size=(h, w), mode="area").clamp(0, 1)
