"""Distances of feature maps, whichever network made them: content as correlation, style as Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.measures.pixels import correlation


def content_correlation(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    """Correlation of the last feature maps over channels and places: the same things in the same places.

    Args:
        x: feature maps (N, C, h, w), of which the last is compared, each channel centred.
        y: the same of other pictures.

    Returns:
        (N,), -1 to 1.
    """
    u, v = (_scaled(z[-1]) for z in (x, y))
    u, v = (z - z.mean((2, 3), keepdim=True) for z in (u, v))
    return correlation(u.flatten(1), v.flatten(1))


def gram_distance(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    """Distance of Gram matrices (Gatys et al. 2016), relative to their size, mean over the layers.

    Args:
        x: feature maps (N, C, h, w), one for each layer.
        y: the same of other pictures.

    Returns:
        (N,), 0 for the same texture and colours.
    """
    return distance_of_grams([gram(z) for z in x], [gram(z) for z in y])


def gram(z: Tensor) -> Tensor:
    """The Gram matrices (N, C, C) of feature maps (N, C, h, w): far smaller than these, and all that is compared."""
    flat = z.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def distance_of_grams(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    """:func:`gram_distance` of feature maps whose Gram matrices are known.

    Args:
        x: Gram matrices (N, C, C), one for each layer.
        y: The same of other pictures.
    """
    distances = []
    for a, b in zip(x, y, strict=True):
        largest = _largest(a).maximum(_largest(b))  # one scale for both: it cancels, and squares can't overflow
        a, b = a / largest, b / largest
        scale = (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1)).sqrt()
        distances.append((a - b).flatten(1).norm(dim=1) / scale.clamp_min(1e-12))
    return torch.stack(distances).mean(0)


def unit_feature_distance(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    """How different two pictures look: LPIPS (Zhang et al. 2018, eq. 1) with equal weights in place of learned ones.

    At each place the channels are scaled to length 1; the squared difference is averaged over places and layers.

    Args:
        x: feature maps (N, C, h, w), one for each layer, none negative.
        y: the same of other pictures.

    Returns:
        (N,), 0 for equal pictures, 2 where no feature is shared.
    """
    layers = [
        (F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)).square().sum(1).mean((1, 2))
        for a, b in zip(x, y, strict=True)
    ]
    return torch.stack(layers).mean(0)


def position(z: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """How far ``z`` lies from ``start`` (0) toward ``end`` (1), along the straight line between them.

    Args:
        z: (N, ...).
        start: the same shape.
        end: the same shape.

    Returns:
        (N,); 0 where start and end are the same.
    """
    way, moved = (end - start).flatten(1), (z - start).flatten(1)
    return (way * moved).sum(1) / way.square().sum(1).clamp_min(1e-12)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of the angle between (N, ...) tensors, (N,)."""
    return F.cosine_similarity(_scaled(x).flatten(1), _scaled(y).flatten(1))


def _largest(z: Tensor) -> Tensor:
    """The largest size of a number in each of N rows, (N, 1, ...); above 0 for rows of zeros too."""
    most = z.flatten(1).abs().amax(1).clamp_min(torch.finfo(z.dtype).tiny)
    return most.reshape(-1, *(1 for _ in z.shape[1:]))


def _scaled(z: Tensor) -> Tensor:
    """Rows whose largest number is 1: the squares of 1e30 are infinite in float32, and those of 1e-30 are 0."""
    return z / _largest(z)
