"""The colours of prepared pictures, as banks keep them, and giving them to results (``injection.match_colours``)."""

from __future__ import annotations

import numpy as np


def colours_of(pixels: np.ndarray) -> np.ndarray:
    """How many pixels have each value of each channel.

    Args:
        pixels: uint8 (N, S, S, 3).

    Returns:
        (N, 3, 256) uint32.
    """
    import torch

    from diffstyle.extensions import channel_histograms

    return channel_histograms(torch.from_numpy(np.ascontiguousarray(pixels))).numpy().astype(np.uint32)


def with_colours(pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A picture, uint8 (S, S, 3), with the colours of another one: its :func:`colours_of`, (3, 256)."""
    import torch

    from diffstyle.extensions import match_histograms

    wanted = torch.from_numpy(colours.astype(np.int64))[None]
    return match_histograms(torch.from_numpy(np.ascontiguousarray(pixels))[None], wanted)[0].numpy()
