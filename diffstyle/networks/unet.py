"""What the two U-Net families share: the encode/decode interface and three small pieces.

The method splits a network call at the bottleneck. ``encode`` runs up to and including the middle block, whose output
is h; ``decode`` runs the rest. An injection decodes a second time with another h and the same skips and embedding, so
everything that both decodes need is computed once, in ``encode``.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffstyle.networks.architecture import IMAGE_CHANNELS, NORM_GROUPS, Architecture

_Module = TypeVar("_Module", bound=nn.Module)


class Encoded(NamedTuple):
    """The first half of a network call, all that ``decode`` needs. Tensors are in the module's dtype."""

    h: Tensor
    """Output of the middle block, (B, *h_shape)."""
    skips: tuple[Tensor, ...]
    """The decoder's skip inputs, each (B, C, h, w), in the order in which the encoder made them."""
    emb: Tensor
    """Time embedding after its last activation, (B, D), as every residual block takes it."""


class UNet(nn.Module):
    """A noise-predicting U-Net that can be called in two halves. Base of :class:`DDPMUNet` and :class:`ADMUNet`.

    Attributes:
        architecture: what it was built from.
        image_size: side of the images in pixels.
        h_shape: channels, height and width of h.
        fingerprint: names the weights; set by :func:`diffstyle.checkpoint.load_unet`, "" on a fresh network.
        weights: which of a file's sets of weights these are, "" where it held one.

    After ``cast`` to bf16 or fp16 the convolutions, linear layers and attentions run in that type; the network's ends
    and every GroupNorm's statistics stay float32, and so are its outputs.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.image_size = architecture.image_size
        self.h_shape = architecture.h_shape
        self.fingerprint = ""
        self.weights = ""

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type that the network computes in."""
        return next(self.middle().parameters()).dtype

    def cast(self, dtype: torch.dtype) -> Self:
        """Compute in ``dtype`` from now on (in place); the ends stay float32.

        At low noise the picture hides the noise that is looked for: rounding it to 8 bits on the way in, or the
        estimate on the way out, costs more than all that happens between, and their convolutions cost next to nothing.

        Args:
            dtype: a floating type of torch.

        Returns:
            This network.
        """
        self.to(dtype)
        for end in self.ends():
            end.float()
        return self

    def middle(self) -> nn.Module:
        """The middle block, whose output is h."""
        raise NotImplementedError

    def ends(self) -> tuple[nn.Module, ...]:
        """The layers that see the picture, the timestep or the noise estimate itself."""
        raise NotImplementedError

    def encode(self, x: Tensor, t: Tensor) -> Encoded:
        """Run up to the bottleneck.

        Args:
            x: images or noisy images in [-1, 1] units, (B, 3, H, W), any floating type.
            t: timesteps, (B,), whole or fractional, 0 to 999.
        """
        raise NotImplementedError

    def decode(self, h: Tensor, skips: tuple[Tensor, ...], emb: Tensor) -> Tensor:
        """Run from the bottleneck to the noise estimate. Nothing is modified, so one ``encode`` serves several calls.

        Args:
            h: any tensor of the shape that ``encode`` gave, (B, C, h, w), in any floating type.
            skips: ``encode``'s own.
            emb: likewise.

        Returns:
            (B, 3, H, W) in float32.
        """
        return self._decode_all(h, skips, emb)[:, :IMAGE_CHANNELS]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Run the whole network.

        Args:
            x: as ``encode`` takes it, (B, 3, H, W).
            t: likewise, (B,).

        Returns:
            (B, 3, H, W), or (B, 6, H, W) with a learned variance, in float32.
        """
        return self._decode_all(*self.encode(x, t))

    def _decode_all(self, h: Tensor, skips: tuple[Tensor, ...], emb: Tensor) -> Tensor:
        raise NotImplementedError


# Values of a channel that it is counted from: more than those whose sum PyTorch's compiler writes out term by term.
_ORIGIN = 16


class GroupNorm(nn.GroupNorm):
    """GroupNorm (Wu & He, 2018) with 32 groups, its statistics in float32 whatever the type of its input and weights.

    PyTorch's CPU kernel does that by itself. Its CUDA kernel rounds the statistics to the type of the input, which in
    bfloat16 costs 10 dB of a result, and answers in another memory layout than channels-last, which a compiler has to
    undo. So on a GPU the formula is written out, for the compiler to fuse.
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(NORM_GROUPS, channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            return super().forward(x)
        return self.written_out(x)

    def written_out(self, x: Tensor) -> Tensor:
        """x (B, C, *) -> the same shape, type and layout.

        Moments by channel, then of a group's channels together: in channels-last a reduction over a group at once would
        read memory in leaps, and compiled it took half of a call's time. Each channel is counted from near its own
        values, so that a large mean takes no digits from a small variance: from the mean of a few of them and not from
        one, since a compiler writes a mean down, but computes a single value again wherever it is used, with all that
        it comes from (benchmarks/compiled_bytes.py).
        """
        places = tuple(range(2, x.ndim))
        origin = self.origin(x)[(..., *(None for _ in places))]
        y = x.float() - origin
        mean, square = y.mean(places, keepdim=True), (y * y).mean(places, keepdim=True)
        var, mean = (square - mean * mean).clamp_min(0), mean + origin
        by_group = (self.num_groups, self.num_channels // self.num_groups)
        var, mean = var.unflatten(1, by_group), mean.unflatten(1, by_group)
        center = mean.mean(2, keepdim=True)
        spread = (var + (mean - center).square()).mean(2, keepdim=True)
        scale = torch.rsqrt(spread + self.eps).expand_as(mean).flatten(1, 2) * self._for_each(self.weight, places)
        shift = (origin.unflatten(1, by_group) - center).flatten(1, 2) * scale + self._for_each(self.bias, places)
        return (y * scale + shift).to(x.dtype)

    @staticmethod
    def origin(x: Tensor) -> Tensor:
        """What each channel of x (B, C, *) is counted from, float32, (B, C): the mean of its first values."""
        return x.flatten(2)[:, :, :_ORIGIN].float().mean(2)

    @staticmethod
    def _for_each(parameter: Tensor, places: tuple[int, ...]) -> Tensor:
        return parameter.float()[(..., *(None for _ in places))]


def timestep_sinusoids(t: Tensor, channels: int, denominator: float) -> tuple[Tensor, Tensor]:
    """Sines and cosines of a timestep, each (B, channels // 2) in float32.

    The frequencies are 10000 ** (-k / denominator), after the positional encoding of Vaswani et al., "Attention Is All
    You Need" (2017), sec. 3.5. The families differ in the denominator and in which half comes first.

    Args:
        t: timesteps, (B,).
        channels: even width of the embedding.
        denominator: what turns k into an exponent.
    """
    k = torch.arange(channels // 2, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(k * (-math.log(10000) / denominator))
    return angles.sin(), angles.cos()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention over positions, channels first: (B, heads, C, N) three times -> (B, heads, C, N)."""
    return F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT


def silu(x: Tensor) -> Tensor:
    """SiLU of a feature map that nobody else reads: written over it, unless a gradient is wanted.

    A new map is new memory each time: 4 to 10 % of a call on a CPU (docs/notes/speed.md).

    Args:
        x: any shape and floating type.
    """
    return F.silu(x, inplace=not torch.is_grad_enabled())


def added(x: Tensor, y: Tensor) -> Tensor:
    """x + y, likewise written over x, which nobody else reads; y is of its type.

    Args:
        x: a feature map, (B, C, h, w).
        y: what broadcasts to it.
    """
    return x + y if torch.is_grad_enabled() else x.add_(y)


def zeroed(module: _Module) -> _Module:
    """The module with all its parameters set to zero: a branch that starts as "no change"."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
