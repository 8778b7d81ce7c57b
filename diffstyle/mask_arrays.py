"""Masks as plain arrays: what :mod:`diffstyle.masks` gives as tensors, for programs that would not import torch.

The hash of a mask on the h grid is part of what a result is, so these are the very bits that torch computes: sums in
float32, row by row.
"""

from __future__ import annotations

import numpy as np


def reference_array() -> np.ndarray:
    """The one mask built into the reference, (8, 8) float32: rows 4 to 6, columns 3 and 4, a centred face's mouth."""
    mask = np.zeros((8, 8), np.float32)
    mask[4:-1, 3:5] = 1
    return mask


def rectangle_array(top: float, left: float, bottom: float, right: float, size: int = 256) -> np.ndarray:
    """A rectangle in fractions of the picture's side.

    Args:
        top, left, bottom, right: Its edges; 0 is the picture's top or left, 1 its bottom or right.
        size: Side of the mask in pixels.

    Returns:
        (size, size) float32: 1 inside, 0 outside.

    Raises:
        ValueError: Unless 0 <= top < bottom <= 1 and 0 <= left < right <= 1.
    """
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise ValueError(f"not a rectangle of fractions (top, left, bottom, right): {(top, left, bottom, right)}")
    mask = np.zeros((size, size), np.float32)
    rows = slice(round(top * size), max(round(bottom * size), round(top * size) + 1))
    columns = slice(round(left * size), max(round(right * size), round(left * size) + 1))
    mask[rows, columns] = 1
    return mask


def picture_array(pixels: np.ndarray) -> np.ndarray:
    """A picture as a mask: white is 1, black 0, a colour the mean of its channels.

    Args:
        pixels: uint8, (H, W, 3).

    Returns:
        (H, W) float32.
    """
    red, green, blue = np.moveaxis(pixels.astype(np.float32) / np.float32(127.5) - np.float32(1), -1, 0)
    return ((red + green + blue) / np.float32(3) + np.float32(1)) / np.float32(2)


def on_h_grid(mask: np.ndarray, h: int, w: int) -> np.ndarray:
    """A mask on the h grid: the mean over the pixels that each cell covers.

    Args:
        mask: (H, W) float32, of any size, values in [0, 1].
        h: rows of the grid.
        w: its columns.

    Returns:
        (h, w) float32.
    """
    height, width = mask.shape
    grid = np.empty((h, w), np.float32)
    for row in range(h):
        rows = mask[row * height // h : -(-(row + 1) * height // h)]
        for column in range(w):
            cell = rows[:, column * width // w : -(-(column + 1) * width // w)]
            # cumsum, since sum adds in another order, which changes the last bit
            total = cell.ravel().cumsum(dtype=np.float32)[-1]
            grid[row, column] = total / np.float32(cell.shape[0]) / np.float32(cell.shape[1])
    return grid.clip(0, 1)
