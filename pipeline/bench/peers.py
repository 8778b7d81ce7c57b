"""Other ways to transfer style, with which the method is compared: two of colours alone, and a slow one of features."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.bench.batches import over_batches
from pipeline.measures.pixels import matched_colours
from pipeline.measures.vgg import VGGFeatures

# Of the slow peer: style's loss against content's; Adam's step in pixel values, which falls to a tenth along a line.
_STYLE_WEIGHT, _RATE = 10.0, 0.03
# The pixels at which it takes features: 32 ended farther from the truth, the measures' 128 cost four times more.
_SIDE = 64


def sliced_transport(x: Tensor, y: Tensor, rounds: int = 30, seed: int = 0) -> Tensor:
    """x with the colours of y, all three channels jointly: sliced optimal transport.

    Each round turns colour space by a random rotation, makes the distribution along each axis y's and turns it back
    (Pitié, Kokaram and Dahyot 2007, "Automated colour grading using colour distribution transfer", section 3).

    Args:
        x: (N, 3, H, W) in [-1, 1].
        y: the same shape.
        rounds: how many rotations.
        seed: of the rotations.

    Returns:
        (N, 3, H, W) in [-1, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(rounds):
        rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
        turned_x, turned_y = (torch.einsum("ij,njhw->nihw", rotation, z) for z in (x, y))
        x = torch.einsum("ji,njhw->nihw", rotation, matched_colours(turned_x, turned_y))
    return x.clamp(-1, 1)


def linear_transport(x: Tensor, y: Tensor) -> Tensor:
    """x with the mean and covariance of y's colours, by the linear map that moves colours least.

    With covariances U of x and V of y the map is U^-1/2 (U^1/2 V U^1/2)^1/2 U^-1/2 (Pitié and Kokaram 2007, "The linear
    Monge-Kantorovitch linear colour mapping for example-based colour transfer", eq. 15).

    Args:
        x: (N, 3, H, W) in [-1, 1].
        y: the same shape.

    Returns:
        (N, 3, H, W) in [-1, 1].
    """
    (flat_x, mean_x, u), (_, mean_y, v) = _colours(x), _colours(y)
    root = _power(u, 0.5)
    inverse = _power(u, -0.5)
    move = inverse @ _power(root @ v @ root, 0.5) @ inverse
    moved = move @ (flat_x - mean_x) + mean_y
    return moved.reshape(x.shape).to(x.dtype).clamp(-1, 1)


def _colours(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Colours (N, 3, P), their mean (N, 3, 1) and covariance (N, 3, 3), in float64."""
    flat = z.double().flatten(2)
    mean = flat.mean(2, keepdim=True)
    return flat, mean, (flat - mean) @ (flat - mean).transpose(1, 2) / flat.shape[2]


def _power(symmetric: Tensor, exponent: float) -> Tensor:
    """A power of symmetric matrices (N, 3, 3); what has no spread at all (a grey picture) is kept from exploding."""
    values, vectors = torch.linalg.eigh(symmetric)
    return vectors @ torch.diag_embed(values.clamp_min(1e-6).pow(exponent)) @ vectors.transpose(1, 2)


def statistics_transfer(vgg: VGGFeatures, content: Tensor, style: Tensor, steps: int = 100) -> Tensor:
    """Pixels optimised until features are the content's and their mean and deviation in each channel the style's.

    The losses are AdaIN's (Huang and Belongie 2017, "Arbitrary style transfer in real-time with adaptive instance
    normalization", eq. 12 and 13), without its decoder: as in Gatys, Ecker and Bethge 2016, gradient steps move the
    pixels. They start from the content in the style's colours (:func:`linear_transport`): started from the content, 100
    steps did not even bring the colours over. Each loss is relative to the size of what it compares, so that one weight
    serves all pictures; Adam (Kingma and Ba 2015) treats each picture of a batch by itself.

    Args:
        vgg: features; content is compared in the last map, style in all.
        content: (N, 3, H, W) in [-1, 1].
        style: the same shape.
        steps: gradient steps.

    Returns:
        (N, 3, H, W) in [-1, 1].
    """
    begin = linear_transport(content, style)

    def one(i: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = vgg.maps(content[i], _SIDE)[-1]
            statistics = [_statistics(z) for z in vgg.maps(style[i], _SIDE)]
        pixels = begin[i].clone().requires_grad_()
        optimiser = torch.optim.Adam([pixels], lr=_RATE)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = _RATE * (1 - 0.9 * step / steps)
            maps = vgg.maps(pixels, _SIDE)
            of_style = [_relative(_statistics(z), s) for z, s in zip(maps, statistics, strict=True)]
            loss = _relative(maps[-1], wanted) + _STYLE_WEIGHT * torch.stack(of_style).mean(0)
            (pixels.grad,) = torch.autograd.grad(loss.sum(), pixels)
            optimiser.step()
            with torch.no_grad():
                pixels.clamp_(-1, 1)
        return pixels.detach()

    return torch.cat(over_batches(one, len(content)))


def _statistics(z: Tensor) -> Tensor:
    """Mean and standard deviation of each channel of feature maps (N, C, h, w), (N, 2 C)."""
    return torch.cat([z.mean((2, 3)), (z.flatten(2).var(2, correction=0) + 1e-6).sqrt()], 1)


def _relative(x: Tensor, y: Tensor) -> Tensor:
    """Squared distance over the square of y's size, (N,)."""
    return (x - y).flatten(1).square().sum(1) / y.flatten(1).square().sum(1).clamp_min(1e-12)
