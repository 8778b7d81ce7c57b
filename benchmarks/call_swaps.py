"""Parts of a U-Net in another form that computes the same: what call_trials.py tries.

**Upsampling folded into its convolution.** Doubling by the nearest value gives u with u[2i] = u[2i + 1] = x[i], and a
convolution of three taps w, padded by one zero on each side, gives y[o] = w[0] u[o-1] + w[1] u[o] + w[2] u[o+1]. So

    y[2i]     = w[0] u[2i-1] + w[1] u[2i]   + w[2] u[2i+1] = w[0] x[i-1] + (w[1] + w[2]) x[i]
    y[2i + 1] = w[0] u[2i]   + w[1] u[2i+1] + w[2] u[2i+2] = (w[0] + w[1]) x[i] + w[2] x[i+1]

Even and odd places are two convolutions of two taps over x itself. At the borders u[-1] = 0 and u[2n] = 0, which are
x[-1] = 0 and x[n] = 0: zeros around u are zeros around x, so nothing is special there. In two dimensions both axes
have two phases, so the nine taps at each of four places (36 products for a place of x) become four taps at each of
four (16).

Two ways to run that. As a transposed convolution of stride 2 with four taps v, padded by one: its output is
y[o] = sum of v[o + 1 - 2i] x[i], so y[2i] = v[1] x[i] + v[3] x[i-1] and y[2i+1] = v[2] x[i] + v[0] x[i+1], and hence
v = (w[2], w[1] + w[2], w[0] + w[1], w[0]). Or as one convolution of 2 x 2 taps with four times the channels, padded
by one, whose n + 1 places are read at i for the even phase and at i + 1 for the odd one, then interleaved.

**A bias that costs no pass.** PyTorch adds a convolution's bias on a GPU in a pass of its own, and has no operation
that adds a bias and a residual within cuDNN's convolution without a ReLU (``cudnn_convolution_add_relu`` always clips).
The compiler takes the bias out of the convolution and joins it to the pointwise kernel that follows. Here the bias of a
block's first convolution goes to the norm after it, and the second's joins the shortcut's in one pass with the sum.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffstyle.networks import adm, ddpm
from diffstyle.networks.unet import GroupNorm, UNet, added, silu

try:
    import norm_kernels
except ModuleNotFoundError as missing:  # no Triton: it comes with PyTorch's builds for GPUs
    if missing.name != "triton":
        raise
    norm_kernels = None

INTERPRETED = norm_kernels is not None and os.environ.get("TRITON_INTERPRET") == "1"


def _phases(weight: Tensor) -> list[list[Tensor]]:
    """[even or odd row][even or odd column] -> the 2 x 2 taps (out, in, 2, 2) of a 3 x 3 kernel (out, in, 3, 3)."""

    def along(taps: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        first, middle, last = taps.unbind(axis)
        return torch.stack([first, middle + last], axis), torch.stack([first + middle, last], axis)

    return [list(along(rows, 3)) for rows in along(weight.double(), 2)]


class FoldedTransposed(nn.Module):
    """Nearest-2x upsampling and a 3 x 3 convolution as one transposed convolution."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        # v[0], v[2] are the odd phase's taps from the last to the first, v[1], v[3] the even one's.
        whole = conv.weight.new_empty(conv.in_channels, conv.out_channels, 4, 4, dtype=torch.float64)
        for row, columns in enumerate(_phases(conv.weight)):
            for column, taps in enumerate(columns):
                whole[:, :, 1 - row :: 2, 1 - column :: 2] = taps.transpose(0, 1).flip(2, 3)
        self.weight = nn.Parameter(whole.to(conv.weight.dtype), requires_grad=False)
        self.bias = conv.bias

    def plain(self, x: Tensor) -> Tensor:
        """Without the bias."""
        return F.conv_transpose2d(x, self.weight, None, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


class FoldedPhases(nn.Module):
    """Nearest-2x upsampling and a 3 x 3 convolution as one 2 x 2 convolution of four phases."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        taps = torch.cat([one for columns in _phases(conv.weight) for one in columns])
        self.weight = nn.Parameter(taps.to(conv.weight.dtype), requires_grad=False)
        self.bias = conv.bias
        self.out_channels = conv.out_channels

    def _interleaved(self, x: Tensor, bias: Tensor | None) -> Tensor:
        n, _, h, w = x.shape
        phases = F.conv2d(x, self.weight, bias, padding=1).unflatten(1, (4, self.out_channels))
        out = x.new_empty(n, self.out_channels, 2 * h, 2 * w).contiguous(memory_format=torch.channels_last)
        for k in range(4):
            row, column = divmod(k, 2)
            out[:, :, row::2, column::2] = phases[:, k, :, row : row + h, column : column + w]
        return out

    def plain(self, x: Tensor) -> Tensor:
        """Without the bias."""
        return self._interleaved(x, None)

    def forward(self, x: Tensor) -> Tensor:
        return self._interleaved(x, None if self.bias is None else self.bias.repeat(4))


def by_kernel(x: Tensor) -> bool:
    """Whether a Triton kernel computes this: on a GPU, or where it is interpreted, which has no float64."""
    return x.is_cuda or (INTERPRETED and x.dtype != torch.float64)


def norm_formula(
    norm: GroupNorm, x: Tensor, addend: Tensor | None, gain: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """What ``norm_kernels.norm_silu`` computes, in PyTorch's own functions and in the type of ``x``: for the CPU."""
    y = x if addend is None else x + addend[..., None, None]
    y = F.group_norm(y, norm.num_groups, norm.weight, norm.bias, norm.eps)
    if gain is not None and shift is not None:
        y = torch.addcmul(shift[..., None, None], y, 1 + gain[..., None, None])
    return F.silu(y)


@dataclass(frozen=True)
class Swap:
    """What of a network is computed in another form."""

    fold: Callable[[nn.Conv2d], nn.Module] | None = None
    norm: bool = False
    """Norm, embedding and SiLU in two passes; on a GPU by the Triton kernels."""
    residual: bool = False
    """Biases joined, and added in one pass with the residual; on a GPU by the Triton kernel."""

    def norm_silu(
        self, norm: GroupNorm, x: Tensor, addend: Tensor | None, gain: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """SiLU(norm(x + addend) * (1 + gain) + shift); all but x (B, C) or None."""
        if not by_kernel(x):
            return norm_formula(norm, x, addend, gain, shift)
        return norm_kernels.norm_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps, True, addend, gain, shift)

    def with_residual(self, conv: nn.Conv2d, x: Tensor, shortcut: nn.Module, residual: Tensor) -> Tensor:
        """conv(x) + shortcut(residual)."""
        if not self.residual:
            return added(conv(x), shortcut(residual))
        bias = conv.bias
        if isinstance(shortcut, nn.Conv2d):
            bias, residual = bias + shortcut.bias, without_bias(shortcut, residual)
        y = without_bias(conv, x)
        if not by_kernel(y):
            return y + (residual + bias[:, None, None])
        return norm_kernels.add_residual(y, residual, bias)


def without_bias(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution alone."""
    if isinstance(conv, nn.Conv2d):
        return F.conv2d(x, conv.weight, None, conv.stride, conv.padding)
    return conv.plain(x)


class DDPMBlock(nn.Module):
    """A residual block of the DDPM in other forms."""

    def __init__(self, block: ddpm.ResBlock, swap: Swap) -> None:
        super().__init__()
        self.block, self.swap = block, swap

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        block, swap = self.block, self.swap
        e = block.temb_proj(emb)
        if swap.norm:
            y = without_bias(block.conv1, swap.norm_silu(block.norm1, x, None))
            y = swap.norm_silu(block.norm2, y, e + block.conv1.bias)
        else:
            y = added(block.conv1(silu(block.norm1(x))), e[:, :, None, None])
            y = silu(block.norm2(y))
        return swap.with_residual(block.conv2, y, block.nin_shortcut, x)


class ADMBlock(adm.ResBlock):
    """A residual block of the ADM in other forms; a subclass, since the network gives those the embedding."""

    def __init__(self, block: adm.ResBlock, swap: Swap) -> None:
        nn.Module.__init__(self)
        self.block, self.swap = block, swap
        self.norm_in, _, self.conv_in = block.in_layers
        self.norm_out, _, _, self.conv_out = block.out_layers
        self.resample = block.resample
        if swap.fold is not None and isinstance(block.resample, adm.Upsample):
            self.conv_in, self.resample = swap.fold(self.conv_in), nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        block, swap = self.block, self.swap
        gain = shift = None
        e = block.emb_layers(emb)
        if block.scale_shift:
            gain, shift = e.chunk(2, dim=1)
        if swap.norm:
            y = self.resample(swap.norm_silu(self.norm_in, x, None))
            addend = self.conv_in.bias.expand(len(x), -1) if block.scale_shift else e + self.conv_in.bias
            y = swap.norm_silu(self.norm_out, without_bias(self.conv_in, y), addend, gain, shift)
        else:
            y = self.conv_in(self.resample(silu(self.norm_in(x))))
            if gain is None or shift is None:
                y = self.norm_out(added(y, e[:, :, None, None]))
            else:
                y = torch.addcmul(shift[:, :, None, None], self.norm_out(y), 1 + gain[:, :, None, None])
            y = silu(y)
        return swap.with_residual(self.conv_out, y, block.skip_connection, block.resample(x))


def swapped(unet: UNet, swap: Swap) -> UNet:
    """A copy of a network with parts of it swapped; the network itself stays as it is."""
    other = copy.deepcopy(unet)
    for parent in list(other.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, ddpm.ResBlock) and (swap.norm or swap.residual):
                setattr(parent, name, DDPMBlock(module, swap))
            elif isinstance(module, adm.ResBlock):
                setattr(parent, name, ADMBlock(module, swap))
            elif swap.fold is not None and isinstance(module, ddpm.Upsample | adm.Upsample):
                setattr(parent, name, swap.fold(module.conv) if isinstance(module.conv, nn.Conv2d) else module)
    return other


SWAPS: dict[str, tuple[str, Swap]] = {
    "norm": ("GroupNorm and SiLU in two passes", Swap(norm=True)),
    "fold": ("upsampling folded, transposed", Swap(fold=FoldedTransposed)),
    "all": ("norm, upsampling and residual", Swap(fold=FoldedTransposed, norm=True, residual=True)),
    "phases": ("upsampling folded, four phases", Swap(fold=FoldedPhases)),
    "residual": ("bias and residual in one pass", Swap(residual=True)),
}
"""Name on the command line -> words for the table, and what is swapped; in the order in which they are tried."""
