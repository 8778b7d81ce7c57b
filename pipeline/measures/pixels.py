"""How much of one picture's content and another's style a result has: from (N, 3, H, W) in [-1, 1] to (N,)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMINANCE = (0.299, 0.587, 0.114)


def edge_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation of the Sobel magnitudes of luminance: where lines and shapes are, whatever their colour."""
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=x.device)
    kernels = torch.stack([sobel, sobel.T]).unsqueeze(1)

    def edges(z: Tensor) -> Tensor:
        padded = F.pad(_luminance(z), (1, 1, 1, 1), mode="replicate")
        return F.conv2d(padded, kernels).square().sum(1).sqrt().flatten(1)

    return correlation(edges(x), edges(y))


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation of (N, D) rows."""
    x, y = (F.normalize(z - z.mean(1, keepdim=True), dim=1) for z in (x, y))
    return (x * y).sum(1)


def colour_distance(x: Tensor, y: Tensor, bins: int = 4) -> Tensor:
    """Half the L1 distance of joint RGB histograms of bins**3 cells: 0 the same colours, 1 none in common."""

    def histogram(z: Tensor) -> Tensor:
        cells = ((z.clamp(-1, 1) + 1) / 2 * bins).long().clamp(max=bins - 1)
        index = ((cells[:, 0] * bins + cells[:, 1]) * bins + cells[:, 2]).flatten(1)
        counts = torch.zeros(len(z), bins**3, device=z.device)
        return counts.scatter_add_(1, index, torch.ones_like(index, dtype=counts.dtype)) / index.shape[1]

    return (histogram(x) - histogram(y)).abs().sum(1) / 2


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures, clipped to [-1, 1] first; 100 dB at most, for equal ones."""
    error = ((x.clamp(-1, 1) - y.clamp(-1, 1)) / 2).square().flatten(1).mean(1)
    return -10 * torch.log10(error.clamp_min(1e-10))


def matched_colours(x: Tensor, y: Tensor) -> Tensor:
    """x with each channel's histogram made y's: the plainest style transfer, a baseline."""
    order = x.flatten(2).argsort(2)
    matched = torch.empty_like(x.flatten(2))
    matched.scatter_(2, order, y.flatten(2).sort(2).values)
    return matched.reshape(x.shape)


def contrast(x: Tensor) -> Tensor:
    """Standard deviation of luminance, in [0, 1]: 0 for a flat picture, 0.5 for half black and half white."""
    return _luminance(x).flatten(1).std(1, correction=0) / 2


def clipped(x: Tensor) -> Tensor:
    """Share of the values that lie at the ends of the range, 0 to 1."""
    return (x.abs() >= 1 - 0.5 / 127.5).float().flatten(1).mean(1)


def dark(x: Tensor) -> Tensor:
    """Share of pixels that are black, or nearly (luminance below 2 %), 0 to 1: 1 for a black frame."""
    return (_luminance(x) < -0.96).float().flatten(1).mean(1)


def difference_hash(x: Tensor) -> Tensor:
    """A 64-bit perceptual hash: whether each cell of a 8 x 9 thumbnail is lighter than its left neighbour.

    Pictures that look alike differ in few bits, whatever their size and exact colours.

    Returns:
        (N, 8) uint8, most significant bit first.
    """
    small = F.interpolate(_luminance(x), size=(8, 9), mode="bilinear", antialias=True)[:, 0]
    bits = (small[:, :, 1:] > small[:, :, :-1]).flatten(1)
    weights = 2 ** torch.arange(7, -1, -1, device=x.device)
    return (bits.view(len(x), 8, 8) * weights).sum(2).to(torch.uint8)


def _luminance(x: Tensor) -> Tensor:
    """(N, 1, H, W) in [-1, 1]."""
    return (x.clamp(-1, 1) * torch.tensor(_LUMINANCE, device=x.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
