"""The two U-Nets written out plainly in float64, from a state dict, one picture at a time.

The layers are looked up by the names of the original code bases and applied one after the other, so that a change of
the library's own modules, of their order or of a constant shows as other numbers. Sources: DDPM, Ho et al. 2020
(arXiv 2006.11239, appendix B); ADM, Dhariwal & Nichol 2021 (arXiv 2105.05233, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Skips = tuple[list[Tensor], Tensor]


class _Layers:
    """The kinds of layers, by the name of their weights."""

    eps: float

    def __init__(self, tensors: Mapping[str, Tensor], architecture: Any) -> None:
        self.tensors = {name: tensor.detach().double() for name, tensor in tensors.items()}
        self.architecture = architecture

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.tensors

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        return self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]

    def conv(self, name: str, x: Tensor, padding: int = 1, stride: int = 1) -> Tensor:
        return F.conv2d(x, *self.of(name), padding=padding, stride=stride)

    def linear(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.of(name)
        return x @ weight.T + bias

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.of(name)
        groups = x.reshape(x.shape[0], 32, -1)
        mean = groups.mean(2, keepdim=True)
        variance = ((groups - mean) ** 2).mean(2, keepdim=True)
        shape = (1, -1, *[1] * (x.ndim - 2))
        return ((groups - mean) / (variance + self.eps).sqrt()).reshape(x.shape) * weight.view(shape) + bias.view(shape)

    def angles(self, t: int, channels: int, denominator: float) -> Tensor:
        half = channels // 2
        return torch.tensor(
            [t * math.exp(-math.log(10000) * k / denominator) for k in range(half)], dtype=torch.float64
        )


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(C, N) three times -> (C, N): each position takes a weighted mean of all positions' values."""
    weights = torch.softmax(q.T @ k / math.sqrt(len(q)), dim=1)
    return v @ weights.T


def doubled(x: Tensor) -> Tensor:
    """Twice the sides, each pixel four times."""
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(x: Tensor) -> Tensor:
    """Half the sides, each pixel the mean of four."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


class DDPM(_Layers):
    eps = 1e-6

    def residual(self, name: str, x: Tensor, emb: Tensor) -> Tensor:
        y = self.conv(f"{name}.conv1", silu(self.norm(f"{name}.norm1", x)))
        y = y + self.linear(f"{name}.temb_proj", silu(emb))[:, :, None, None]
        y = self.conv(f"{name}.conv2", silu(self.norm(f"{name}.norm2", y)))
        if self.has(f"{name}.nin_shortcut"):
            x = self.conv(f"{name}.nin_shortcut", x, padding=0)
        return x + y

    def attention(self, name: str, x: Tensor) -> Tensor:
        y = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", y, padding=0)[0].flatten(1) for part in "qkv")
        return x + self.conv(f"{name}.proj_out", attend(q, k, v).reshape(x.shape), padding=0)

    def block(self, level: str, number: int, x: Tensor, emb: Tensor) -> Tensor:
        x = self.residual(f"{level}.block.{number}", x, emb)
        name = f"{level}.attn.{number}"
        return self.attention(name, x) if self.has(f"{name}.norm") else x

    @torch.inference_mode()
    def encode(self, x: np.ndarray, t: int) -> tuple[np.ndarray, Skips]:
        a = self.architecture
        angles = self.angles(t, a.ch, a.ch // 2 - 1)
        emb = torch.cat([angles.sin(), angles.cos()])[None]
        emb = self.linear("temb.dense.1", silu(self.linear("temb.dense.0", emb)))
        y = self.conv("conv_in", torch.from_numpy(x)[None].double())
        skips = [y]
        for i in range(len(a.ch_mult)):
            for j in range(a.num_res_blocks):
                y = self.block(f"down.{i}", j, y, emb)
                skips.append(y)
            if i < len(a.ch_mult) - 1:
                y = self.conv(f"down.{i}.downsample.conv", F.pad(y, (0, 1, 0, 1)), padding=0, stride=2)
                skips.append(y)
        y = self.residual("mid.block_1", y, emb)
        y = self.residual("mid.block_2", self.attention("mid.attn_1", y), emb)
        return y[0].numpy(), (skips, emb)

    @torch.inference_mode()
    def decode(self, h: np.ndarray, rest: Skips) -> np.ndarray:
        a = self.architecture
        skips, emb = list(rest[0]), rest[1]
        y = torch.from_numpy(h)[None].double()
        for i in reversed(range(len(a.ch_mult))):
            for j in range(a.num_res_blocks + 1):
                y = self.block(f"up.{i}", j, torch.cat([y, skips.pop()], 1), emb)
            if i > 0:
                y = self.conv(f"up.{i}.upsample.conv", doubled(y))
        return self.conv("conv_out", silu(self.norm("norm_out", y)))[0].numpy()


class ADM(_Layers):
    """With residual blocks that resample and norms that take scale and shift: all published models are so."""

    eps = 1e-5

    def residual(self, name: str, x: Tensor, emb: Tensor, resample: Any = None) -> Tensor:
        y = silu(self.norm(f"{name}.in_layers.0", x))
        if resample is not None:
            x, y = resample(x), resample(y)
        y = self.conv(f"{name}.in_layers.2", y)
        scale, shift = self.linear(f"{name}.emb_layers.1", silu(emb))[:, :, None, None].chunk(2, dim=1)
        y = self.norm(f"{name}.out_layers.0", y) * (1 + scale) + shift
        y = self.conv(f"{name}.out_layers.3", silu(y))
        if self.has(f"{name}.skip_connection"):
            x = self.conv(f"{name}.skip_connection", x, padding=0)
        return x + y

    def attention(self, name: str, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        weight, bias = self.of(f"{name}.qkv")
        qkv = (weight[:, :, 0] @ self.norm(f"{name}.norm", flat)[0]) + bias[:, None]
        width = self.architecture.num_head_channels
        heads = []
        for head in range(x.shape[1] // width):
            q, k, v = qkv[3 * width * head : 3 * width * (head + 1)].chunk(3)
            heads.append(attend(q, k, v))
        weight, bias = self.of(f"{name}.proj_out")
        return (flat + weight[:, :, 0] @ torch.cat(heads) + bias[:, None]).reshape(x.shape)

    def stage(self, name: str, x: Tensor, emb: Tensor, resample: Any = None) -> Tensor:
        """A residual block and what may follow it: an attention, then a block that resamples."""
        x = self.residual(f"{name}.0", x, emb)
        place = 1
        if self.has(f"{name}.1.qkv"):
            x = self.attention(f"{name}.1", x)
            place = 2
        return x if resample is None else self.residual(f"{name}.{place}", x, emb, resample)

    @torch.inference_mode()
    def encode(self, x: np.ndarray, t: int) -> tuple[np.ndarray, Skips]:
        a = self.architecture
        angles = self.angles(t, a.num_channels, a.num_channels // 2)
        emb = torch.cat([angles.cos(), angles.sin()])[None]
        emb = self.linear("time_embed.2", silu(self.linear("time_embed.0", emb)))
        y = self.conv("input_blocks.0.0", torch.from_numpy(x)[None].double())
        skips, place = [y], 1
        for i in range(len(a.channel_mult)):
            for _ in range(a.num_res_blocks):
                y = self.stage(f"input_blocks.{place}", y, emb)
                skips.append(y)
                place += 1
            if i < len(a.channel_mult) - 1:
                y = self.residual(f"input_blocks.{place}.0", y, emb, halved)
                skips.append(y)
                place += 1
        y = self.attention("middle_block.1", self.residual("middle_block.0", y, emb))
        return self.residual("middle_block.2", y, emb)[0].numpy(), (skips, emb)

    @torch.inference_mode()
    def decode(self, h: np.ndarray, rest: Skips) -> np.ndarray:
        a = self.architecture
        skips, emb = list(rest[0]), rest[1]
        y, place = torch.from_numpy(h)[None].double(), 0
        for i in reversed(range(len(a.channel_mult))):
            for j in range(a.num_res_blocks + 1):
                last = i > 0 and j == a.num_res_blocks
                y = self.stage(f"output_blocks.{place}", torch.cat([y, skips.pop()], 1), emb, doubled if last else None)
                place += 1
        return self.conv("out.2", silu(self.norm("out.0", y)))[0, :3].numpy()
