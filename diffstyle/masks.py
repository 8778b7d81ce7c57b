"""Masks: where in the picture content is injected. A mask lives on the bottleneck's grid, values in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from diffstyle.mask_arrays import on_h_grid, rectangle_array, reference_array


def reference_mask() -> Tensor:
    """The one mask built into the reference, (1, 1, 8, 8): rows 4 to 6, columns 3 and 4, a centred face's mouth."""
    return torch.from_numpy(reference_array())[None, None]


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
    return torch.from_numpy(rectangle_array(top, left, bottom, right, size))[None, None]


def to_h_grid(mask: Tensor, h: int, w: int) -> Tensor:
    """A mask on the h grid: the mean over the pixels that each cell covers.

    Args:
        mask: (B, 1, H, W), of any size, values in [0, 1].
        h: rows of the grid.
        w: its columns.

    Returns:
        (B, 1, h, w) float32, on the mask's device.
    """
    grids = [torch.from_numpy(on_h_grid(one, h, w)) for one in mask[:, 0].float().cpu().numpy()]
    return torch.stack(grids)[:, None].to(mask.device)
