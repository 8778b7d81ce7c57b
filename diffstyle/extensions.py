"""Extensions beyond the paper, off by default: another start, and the style's colours given to the result.

Both are plain functions, called before and after :func:`diffstyle.sampling.inject`, which knows nothing of them.
docs/notes/leads.md has what they do on the demo's model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffstyle.blend import slerp

LEVELS = 256


def start_from_content(x_T: Tensor, x_T_content: Tensor, fraction: float, mask: Tensor | None = None) -> Tensor:
    """The style's x_T moved toward the content's along the sphere: content gets a say in the layout before any step.

    Between two x_T, which are near to Gaussian noise, the sphere keeps the norm that the network expects; a straight
    line would not.

    Args:
        x_T: Of the style images, (B, 3, H, W).
        x_T_content: Of the content images, the same shape.
        fraction: How far along the arc: 0 is the style's x_T, 1 the content's.
        mask: Where, (B or 1, 1, h, w) in [0, 1] on any grid: at each place ``fraction`` times its value. Where it is 0
            the style's x_T stays, bit for bit. A cell counts for all the pixels it covers. None: everywhere.

    Returns:
        (B, 3, H, W), of ``x_T``'s type.

    Raises:
        ValueError: The shapes differ, or ``fraction`` is not from 0 to 1.
    """
    if x_T.shape != x_T_content.shape:
        raise ValueError(f"x_T of shape {tuple(x_T.shape)} and of the content {tuple(x_T_content.shape)}")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be from 0 to 1, not {fraction}")
    share = torch.full((1, 1, 1, 1), fraction, dtype=x_T.dtype, device=x_T.device)
    if mask is not None:
        share = share * F.interpolate(mask.to(x_T), size=x_T.shape[-2:], mode="nearest-exact")
    return slerp(share, x_T, x_T_content)


def channel_histograms(pixels: Tensor) -> Tensor:
    """How often each value is in each channel.

    Args:
        pixels: uint8, (B, H, W, 3).

    Returns:
        (B, 3, 256) int64.
    """
    batch, channels = len(pixels), pixels.shape[-1]
    first = LEVELS * torch.arange(batch * channels).reshape(batch, 1, 1, channels)
    index = (pixels.cpu().long() + first).flatten()
    return torch.bincount(index, minlength=batch * channels * LEVELS).reshape(batch, channels, LEVELS)


def match_histograms(pixels: Tensor, histograms: Tensor) -> Tensor:
    """Pictures with the histogram of each channel made another picture's: the plainest transfer of colours.

    A value becomes the one that has its middle rank in the other picture. Pixels that were equal stay equal, so flat
    areas stay flat; where no two values tie, the histogram is exactly the other's. All in whole numbers: the same
    pixels give the same result on any machine.

    Args:
        pixels: uint8, (B, H, W, 3).
        histograms: Those wanted, of :func:`channel_histograms`, (B or 1, 3, 256), of as many pixels or of others.

    Returns:
        uint8, (B, H, W, 3).
    """
    batch, height, width, channels = pixels.shape
    own = channel_histograms(pixels)
    wanted = histograms.cpu().long().expand(batch, channels, LEVELS).cumsum(2)
    below = own.cumsum(2) - own
    rank = below + (own - 1).clamp_min(0) // 2
    rank = (rank * wanted[..., -1:] // (height * width)).clamp_max(wanted[..., -1:] - 1)
    table = torch.searchsorted(wanted.contiguous(), rank.contiguous(), right=True)
    values = pixels.cpu().long().permute(0, 3, 1, 2).flatten(2)
    matched = table.gather(2, values).reshape(batch, channels, height, width)
    return matched.permute(0, 2, 3, 1).contiguous().to(torch.uint8)
