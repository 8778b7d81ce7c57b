"""The DDPM U-Net: Ho et al., "Denoising Diffusion Probabilistic Models" (2020), appendix B.

Parameter names are those of the PyTorch port that SDEdit's checkpoints use (``down.0.block.0.norm1``, ``mid.attn_1``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffstyle.networks.architecture import IMAGE_CHANNELS, DDPMArchitecture
from diffstyle.networks.unet import Encoded, GroupNorm, UNet, added, attention, silu, timestep_sinusoids, zeroed

_EPS = 1e-6


class ResBlock(nn.Module):
    """Two normalised 3x3 convolutions with the time embedding added between them, around a shortcut."""

    def __init__(self, channels: int, out_channels: int, emb_channels: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(channels, _EPS)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.temb_proj = nn.Linear(emb_channels, out_channels)
        self.norm2 = GroupNorm(out_channels, _EPS)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.nin_shortcut = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        y = self.conv1(silu(self.norm1(x)))
        y = added(y, self.temb_proj(emb)[:, :, None, None])
        y = self.conv2(silu(self.norm2(y)))
        return added(y, self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, _EPS)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        # (B, C, h, w) -> one head over h * w positions, (B, 1, C, h * w)
        q, k, v = (part(y).flatten(2).unsqueeze(1) for part in (self.q, self.k, self.v))
        return x + self.proj_out(attention(q, k, v).reshape(x.shape))


class Downsample(nn.Module):
    """Halve the sides."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return F.avg_pool2d(x, 2)
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # only right and bottom: where TensorFlow's "SAME" pads, as trained


class Upsample(nn.Module):
    """Double the sides."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if with_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class DownLevel(nn.Module):
    """One resolution on the way down: blocks of ``(channels, out_channels)``, each with an attention or none."""

    def __init__(
        self, widths: list[tuple[int, int]], emb_channels: int, attended: bool, downsample: Downsample | None
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResBlock(*width, emb_channels) for width in widths)
        self.attn = nn.ModuleList(AttnBlock(out_channels) for _, out_channels in widths if attended)
        self.downsample = downsample

    def forward(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """Every feature map that the decoder wants back; the last one is the level's output."""
        outputs = []
        for j, block in enumerate(self.block):
            x = block(x, emb)
            if self.attn:
                x = self.attn[j](x)
            outputs.append(x)
        if self.downsample is not None:
            outputs.append(self.downsample(x))
        return outputs


class UpLevel(nn.Module):
    """One resolution on the way up; every block first joins the newest unused skip to its input."""

    def __init__(
        self, widths: list[tuple[int, int]], emb_channels: int, attended: bool, upsample: Upsample | None
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResBlock(*width, emb_channels) for width in widths)
        self.attn = nn.ModuleList(AttnBlock(out_channels) for _, out_channels in widths if attended)
        self.upsample = upsample

    def forward(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Takes its skips off the end of ``skips``."""
        for j, block in enumerate(self.block):
            x = block(torch.cat([x, skips.pop()], 1), emb)
            if self.attn:
                x = self.attn[j](x)
        return x if self.upsample is None else self.upsample(x)


class Middle(nn.Module):
    """The bottleneck; its output is h."""

    def __init__(self, channels: int, emb_channels: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, emb_channels)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResBlock(channels, channels, emb_channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, emb)), emb)


class TimeEmbedding(nn.Module):
    """(B,) timesteps -> (B, 4 * channels) embedding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.dense = nn.ModuleList([nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, 4 * channels)])

    def forward(self, t: Tensor) -> Tensor:
        sin, cos = timestep_sinusoids(t, self.channels, denominator=self.channels // 2 - 1)
        first, second = self.dense
        emb = second(F.silu(first(torch.cat([sin, cos], 1))))
        return F.silu(emb)  # every block starts with this activation, so it is applied once, here


class DDPMUNet(UNet):
    """The DDPM U-Net; see :class:`diffstyle.networks.unet.UNet` for what its methods take and give."""

    def __init__(self, architecture: DDPMArchitecture) -> None:
        super().__init__(architecture)
        a = architecture
        widths = [a.ch * mult for mult in a.ch_mult]
        attended = [a.image_size >> i in a.attn_resolutions for i in range(len(widths))]
        emb_channels = 4 * a.ch

        self.temb = TimeEmbedding(a.ch)
        self.conv_in = nn.Conv2d(a.in_channels, a.ch, 3, padding=1)

        width = a.ch
        skip_widths = [width]
        levels: list[nn.Module] = []
        for i, level_width in enumerate(widths):
            blocks = []
            for _ in range(a.num_res_blocks):
                blocks.append((width, level_width))
                width = level_width
                skip_widths.append(width)
            downsample = None
            if i < len(widths) - 1:
                downsample = Downsample(width, a.resamp_with_conv)
                skip_widths.append(width)
            levels.append(DownLevel(blocks, emb_channels, attended[i], downsample))
        self.down = nn.ModuleList(levels)

        self.mid = Middle(width, emb_channels)

        levels = []  # made from the lowest resolution up, but numbered like the levels of `down`
        for i, level_width in reversed(list(enumerate(widths))):
            blocks = []
            for _ in range(a.num_res_blocks + 1):
                blocks.append((width + skip_widths.pop(), level_width))
                width = level_width
            upsample = Upsample(width, a.resamp_with_conv) if i > 0 else None
            levels.append(UpLevel(blocks, emb_channels, attended[i], upsample))
        self.up = nn.ModuleList(reversed(levels))

        self.norm_out = GroupNorm(width, _EPS)
        self.conv_out = zeroed(nn.Conv2d(width, IMAGE_CHANNELS, 3, padding=1))

    def middle(self) -> nn.Module:
        return self.mid

    def ends(self) -> tuple[nn.Module, ...]:
        return self.temb, self.conv_in, self.norm_out, self.conv_out

    def encode(self, x: Tensor, t: Tensor) -> Encoded:
        emb = self.temb(t).to(self.dtype)
        skips = [self.conv_in(x.float()).to(self.dtype)]
        for level in self.down:
            skips += level(skips[-1], emb)
        return Encoded(self.mid(skips[-1], emb), tuple(skips), emb)

    def _decode_all(self, h: Tensor, skips: tuple[Tensor, ...], emb: Tensor) -> Tensor:
        x = h.to(self.dtype)
        unused = list(skips)
        for level in reversed(self.up):
            x = level(x, unused, emb)
        return self.conv_out(silu(self.norm_out(x.float()))).float()
