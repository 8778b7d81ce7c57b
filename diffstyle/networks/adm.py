"""The ADM U-Net: Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis" (2021), sec. 3.

Parameter names are those of guided-diffusion (``input_blocks.1.0.in_layers.2``, ``middle_block.1.qkv``). Its Sequential
containers number their entries, so places of parameter-free entries are kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffstyle.networks.architecture import IMAGE_CHANNELS, ADMArchitecture
from diffstyle.networks.unet import Encoded, GroupNorm, UNet, added, attention, silu, timestep_sinusoids, zeroed

_EPS = 1e-5


class Upsample(nn.Module):
    """Double the sides; the convolution is absent inside residual blocks."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Downsample(nn.Module):
    """Halve the sides by a strided convolution, or by averaging inside residual blocks."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if channels else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class ResBlock(nn.Module):
    """Two normalised 3x3 convolutions around a shortcut, conditioned on time, maybe changing the resolution.

    ``resample`` is applied to both paths: after the first norm and activation, and on the shortcut.
    """

    def __init__(
        self, channels: int, out_channels: int, emb_channels: int, scale_shift: bool, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample if resample is not None else nn.Identity()
        # Activations, entries 1 of both, are functions here.
        self.in_layers = nn.Sequential(
            GroupNorm(channels, _EPS), nn.Identity(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        # Entry 0 was an activation; the embedding comes activated, once for all blocks.
        self.emb_layers = nn.Sequential(nn.Identity(), nn.Linear(emb_channels, out_channels * (1 + scale_shift)))
        # Entry 2 was the dropout of training.
        self.out_layers = nn.Sequential(
            GroupNorm(out_channels, _EPS),
            nn.Identity(),
            nn.Identity(),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm_in, _, conv_in = self.in_layers
        norm_out, _, _, conv_out = self.out_layers
        y = conv_in(self.resample(silu(norm_in(x))))
        e = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            y = torch.addcmul(shift, norm_out(y), 1 + scale)
        else:
            y = norm_out(added(y, e))
        return added(conv_out(silu(y)), self.skip_connection(self.resample(x)))


class AttentionBlock(nn.Module):
    """Multi-head self-attention over all positions, added to its input. Heads are split before q, k and v are."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.norm = GroupNorm(channels, _EPS)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2)
        # (B, 3 * C, N) -> (B, heads, 3 * head_channels, N) -> three of (B, heads, head_channels, N)
        q, k, v = self.qkv(self.norm(y)).unflatten(1, (-1, 3 * self.head_channels)).chunk(3, dim=2)
        return (y + self.proj_out(attention(q, k, v).flatten(1, 2))).reshape(x.shape)


class Stage(nn.ModuleList):
    """Layers between two skip connections; residual blocks get the time embedding as well."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class ADMUNet(UNet):
    """The ADM U-Net; see :class:`diffstyle.networks.unet.UNet` for what its methods take and give."""

    def __init__(self, architecture: ADMArchitecture) -> None:
        super().__init__(architecture)
        a = architecture
        widths = [a.num_channels * mult for mult in a.channel_mult]
        attended = [a.image_size >> i in a.attention_resolutions for i in range(len(widths))]
        emb_channels = 4 * a.num_channels

        def block(channels: int, out_channels: int, resample: nn.Module | None = None) -> ResBlock:
            return ResBlock(channels, out_channels, emb_channels, a.use_scale_shift_norm, resample)

        def down(channels: int) -> nn.Module:
            return block(channels, channels, Downsample()) if a.resblock_updown else Downsample(channels)

        def up(channels: int) -> nn.Module:
            return block(channels, channels, Upsample()) if a.resblock_updown else Upsample(channels)

        self.emb_inputs = a.num_channels
        self.time_embed = nn.Sequential(
            nn.Linear(a.num_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )

        width = widths[0]
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(IMAGE_CHANNELS, width, 3, padding=1)])])
        skip_widths = [width]
        for i, level_width in enumerate(widths):
            for _ in range(a.num_res_blocks):
                layers: list[nn.Module] = [block(width, level_width)]
                width = level_width
                if attended[i]:
                    layers.append(AttentionBlock(width, a.num_head_channels))
                self.input_blocks.append(Stage(layers))
                skip_widths.append(width)
            if i < len(widths) - 1:
                self.input_blocks.append(Stage([down(width)]))
                skip_widths.append(width)

        self.middle_block = Stage(
            [block(width, width), AttentionBlock(width, a.num_head_channels), block(width, width)]
        )

        self.output_blocks = nn.ModuleList()
        for i in reversed(range(len(widths))):
            for j in range(a.num_res_blocks + 1):
                layers = [block(width + skip_widths.pop(), widths[i])]
                width = widths[i]
                if attended[i]:
                    layers.append(AttentionBlock(width, a.num_head_channels))
                if i > 0 and j == a.num_res_blocks:
                    layers.append(up(width))
                self.output_blocks.append(Stage(layers))

        out_channels = IMAGE_CHANNELS * (2 if a.learn_sigma else 1)
        self.out = nn.Sequential(
            GroupNorm(width, _EPS), nn.SiLU(), zeroed(nn.Conv2d(width, out_channels, 3, padding=1))
        )

    def middle(self) -> nn.Module:
        return self.middle_block

    def ends(self) -> tuple[nn.Module, ...]:
        return self.time_embed, self.input_blocks[0], self.out

    def encode(self, x: Tensor, t: Tensor) -> Encoded:
        sin, cos = timestep_sinusoids(t, self.emb_inputs, denominator=self.emb_inputs // 2)
        emb = F.silu(self.time_embed(torch.cat([cos, sin], 1))).to(self.dtype)
        first, *stages = self.input_blocks
        x = first(x.float(), emb).to(self.dtype)
        skips = [x]
        for stage in stages:
            x = stage(x, emb)
            skips.append(x)
        return Encoded(self.middle_block(x, emb), tuple(skips), emb)

    def _decode_all(self, h: Tensor, skips: tuple[Tensor, ...], emb: Tensor) -> Tensor:
        x = h.to(self.dtype)
        for stage, skip in zip(self.output_blocks, reversed(skips), strict=True):
            x = stage(torch.cat([x, skip], 1), emb)
        return self.out(x.float()).float()
