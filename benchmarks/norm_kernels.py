"""GroupNorm with SiLU, and a convolution's bias with a residual, as Triton kernels on channels-last feature maps.

    python benchmarks/norm_kernels.py --device cuda                # holds them against PyTorch's own, on a GPU
    TRITON_INTERPRET=1 python benchmarks/norm_kernels.py           # the same without one, by Triton's interpreter

GroupNorm needs two passes over its input: one for the moments and one that applies them. The first sums by channel, a
chunk of places in each program, counted from the channel's first value, so that a large mean takes no digits from a
small variance; nothing is added atomically, so the same input gives the same bytes. A small kernel between the passes
joins the channels of a group and folds all that is constant over a picture into three numbers a channel: what is
subtracted, a factor and an offset. So a convolution's bias, the time embedding that is added before the norm and the
scale and shift that come after it cost no pass of their own. All arithmetic is float32, rounded once at the end.

Kernels for :mod:`call_trials` alone: no job runs them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

WIDTH = 128  # channels that a program holds at once
PROGRAMS = 2048  # for the moments of a batch: some 16 for each processor of a large GPU


@dataclass
class Launch:
    """How the kernels are launched."""

    rows: int = 32
    """Places that a program holds at once."""
    warps: int = 4


LAUNCH = Launch()  # what :func:`tune` found best on this GPU


@triton.jit
def _moments(x, partial, places, channels, steps: tl.constexpr, rows: tl.constexpr, width: tl.constexpr):
    """x (B, places, channels) -> partial (B, chunks, 2, channels): sums of a chunk's places, and of their squares.

    A chunk is ``steps`` times ``rows`` places.
    """
    picture = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    c = tl.program_id(2) * width + tl.arange(0, width)
    of_map = c < channels
    base = x + picture * places * channels
    origin = tl.load(base + c, mask=of_map, other=0.0).to(tl.float32)
    total = tl.zeros((rows, width), tl.float32)
    square = tl.zeros((rows, width), tl.float32)
    for step in range(steps):
        p = (part * steps + step) * rows + tl.arange(0, rows)
        inside = (p < places)[:, None] & of_map[None, :]
        y = tl.load(base + p[:, None] * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
        y = tl.where(inside, y - origin[None, :], 0.0)
        total += y
        square += y * y
    into = partial + (picture * tl.num_programs(1) + part) * 2 * channels + c
    tl.store(into, tl.sum(total, 0), mask=of_map)
    tl.store(into + channels, tl.sum(square, 0), mask=of_map)


@triton.jit
def _join(
    partial, x, weight, bias, addend, gain, shift, joined, places, channels, chunks, per_group, eps,
    all_chunks: tl.constexpr, width: tl.constexpr, added: tl.constexpr, modulated: tl.constexpr,
):  # fmt: skip
    """One group of one picture: its channels' sums -> joined (B, 3, channels): subtract, multiply, add."""
    picture = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, width)
    c = tl.program_id(1) * per_group + k
    of_group = k < per_group
    part = tl.arange(0, all_chunks)
    inside = (part < chunks)[:, None] & of_group[None, :]
    at = partial + (picture * chunks + part[:, None]) * 2 * channels + c[None, :]
    mean = tl.sum(tl.load(at, mask=inside, other=0.0), 0) / places
    square = tl.sum(tl.load(at + channels, mask=inside, other=0.0), 0) / places
    variance = tl.maximum(square - mean * mean, 0.0)
    mean += tl.load(x + picture * places * channels + c, mask=of_group, other=0.0).to(tl.float32)
    constant = tl.zeros((width,), tl.float32)
    if added:
        constant = tl.load(addend + picture * channels + c, mask=of_group, other=0.0).to(tl.float32)
    mean += constant
    center = tl.sum(tl.where(of_group, mean, 0.0), 0) / per_group
    off = tl.where(of_group, mean - center, 0.0)
    spread = tl.sum(tl.where(of_group, variance, 0.0) + off * off, 0) / per_group
    factor = tl.load(weight + c, mask=of_group, other=0.0).to(tl.float32) / tl.sqrt(spread + eps)
    offset = tl.load(bias + c, mask=of_group, other=0.0).to(tl.float32)
    if modulated:
        more = 1.0 + tl.load(gain + picture * channels + c, mask=of_group, other=0.0).to(tl.float32)
        factor *= more
        offset = offset * more + tl.load(shift + picture * channels + c, mask=of_group, other=0.0).to(tl.float32)
    into = joined + picture * 3 * channels + c
    tl.store(into, center - constant, mask=of_group)
    tl.store(into + channels, factor, mask=of_group)
    tl.store(into + 2 * channels, offset, mask=of_group)


@triton.jit
def _apply(x, joined, out, places, channels, silu: tl.constexpr, rows: tl.constexpr, width: tl.constexpr):
    """The second pass, with the activation."""
    picture = tl.program_id(0).to(tl.int64)
    p = tl.program_id(1) * rows + tl.arange(0, rows)
    c = tl.program_id(2) * width + tl.arange(0, width)
    of_map = c < channels
    inside = (p < places)[:, None] & of_map[None, :]
    at = p[:, None] * channels + c[None, :]
    numbers = joined + picture * 3 * channels + c
    center = tl.load(numbers, mask=of_map, other=0.0)
    factor = tl.load(numbers + channels, mask=of_map, other=0.0)
    offset = tl.load(numbers + 2 * channels, mask=of_map, other=0.0)
    first = picture * places * channels  # 64 bits, beside offsets of 32
    y = tl.load(x + first + at, mask=inside, other=0.0).to(tl.float32)
    y = (y - center[None, :]) * factor[None, :] + offset[None, :]
    if silu:
        y = y / (1.0 + tl.exp(-y))
    tl.store(out + first + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add(y, residual, bias, out, places, channels, rows: tl.constexpr, width: tl.constexpr):
    """out = y + residual + bias, all (places, channels) but the bias, which is (channels,)."""
    start = tl.program_id(0).to(tl.int64) * rows
    p = tl.arange(0, rows)
    c = tl.program_id(1) * width + tl.arange(0, width)
    of_map = c < channels
    inside = (start + p < places)[:, None] & of_map[None, :]
    first = start * channels
    at = p[:, None] * channels + c[None, :]
    total = tl.load(y + first + at, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(residual + first + at, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(bias + c, mask=of_map, other=0.0).to(tl.float32)[None, :]
    tl.store(out + first + at, total.to(out.dtype.element_ty), mask=inside)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.custom_op("call_trials::norm_silu", mutates_args=())
def norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    addend: Tensor | None = None,
    gain: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """GroupNorm(x + addend) * (1 + gain) + shift, then SiLU where wanted.

    Args:
        x: (B, C, H, W), channels-last or it is copied.
        groups: of channels.
        weight: (C,), as GroupNorm has it; and bias.
        bias: likewise.
        eps: likewise.
        silu: whether the activation follows.
        addend: (B, C) or None.
        gain: (B, C) or None, and shift with it.
        shift: likewise.

    Returns:
        (B, C, H, W) in x's type, channels-last.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    pictures, channels, *sides = x.shape
    places = sides[0] * sides[1]
    width = min(WIDTH, triton.next_power_of_2(channels))
    across = triton.cdiv(channels, width)
    rows, warps = LAUNCH.rows, LAUNCH.warps
    chunks = min(triton.cdiv(places, rows), max(1, PROGRAMS // (pictures * across)))
    steps = triton.cdiv(triton.cdiv(places, chunks), rows)
    chunks = triton.cdiv(places, steps * rows)
    partial = torch.empty(pictures, chunks, 2, channels, device=x.device)
    joined = torch.empty(pictures, 3, channels, device=x.device)
    out = _like(x)
    extras = [x if one is None else one.contiguous() for one in (addend, gain, shift)]
    _moments[(pictures, chunks, across)](x, partial, places, channels, steps, rows, width, num_warps=warps)
    _join[(pictures, groups)](
        partial, x, weight, bias, *extras, joined, places, channels, chunks, channels // groups, eps,
        triton.next_power_of_2(chunks), triton.next_power_of_2(channels // groups),
        addend is not None, gain is not None,
    )  # fmt: skip
    grid = (pictures, triton.cdiv(places, rows), across)
    _apply[grid](x, joined, out, places, channels, silu, rows, width, num_warps=warps)
    return out


@norm_silu.register_fake
def _(x, groups, weight, bias, eps, silu, addend=None, gain=None, shift=None):
    return _like(x)


@torch.library.custom_op("call_trials::add_residual", mutates_args=())
def add_residual(y: Tensor, residual: Tensor, bias: Tensor) -> Tensor:
    """y (B, C, H, W) + residual (B, C, H, W) + bias (C,), in y's type, channels-last."""
    y, residual = (one.contiguous(memory_format=torch.channels_last) for one in (y, residual))
    pictures, channels, *sides = y.shape
    places = pictures * sides[0] * sides[1]
    width = min(WIDTH, triton.next_power_of_2(channels))
    out = _like(y)
    grid = (triton.cdiv(places, LAUNCH.rows), triton.cdiv(channels, width))
    _add[grid](y, residual, bias, out, places, channels, LAUNCH.rows, width, num_warps=LAUNCH.warps)
    return out


@add_residual.register_fake
def _(y, residual, bias):
    return _like(y)


# Batch, channels, groups, height, width: one place, fewer than a program holds, several chunks, an odd number of each.
SHAPES = [(1, 256, 32, 1, 1), (2, 96, 32, 3, 5), (1, 160, 32, 17, 9), (3, 256, 32, 8, 8), (1, 64, 32, 24, 33)]
# Largest error that is allowed, as a share of the largest value.
ALLOWED = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def worst_errors(device: str, types: Sequence[torch.dtype] = tuple(ALLOWED)) -> list[tuple[str, float, float]]:
    """A row for each kernel, type and shape: its words, its error and what is allowed, both relative.

    The wanted values come from PyTorch's functions in float64, on the very same (rounded) input.
    """
    generator = torch.Generator().manual_seed(0)
    rows = []

    def drawn(*shape: int, dtype: torch.dtype, mean: float = 0.0) -> Tensor:
        values = (torch.randn(*shape, generator=generator) + mean).to(device, dtype)
        return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values

    def compare(words: str, answer: Tensor, wanted: Tensor) -> None:
        error = float((answer.double() - wanted).abs().max() / wanted.abs().max())
        if not answer.is_contiguous(memory_format=torch.channels_last):
            error = float("inf")
        rows.append((words, error, ALLOWED[answer.dtype]))

    for dtype in types:
        for b, c, groups, h, w in SHAPES:
            words = f"{str(dtype).removeprefix('torch.')}, {b} x {c} x {h} x {w}"
            weight, bias = drawn(c, dtype=dtype, mean=1), drawn(c, dtype=dtype)
            x, addend = drawn(b, c, h, w, dtype=dtype, mean=3), drawn(b, c, dtype=dtype)
            gain, shift = drawn(b, c, dtype=dtype), drawn(b, c, dtype=dtype)
            of_norm = (weight.double(), bias.double(), 1e-6)
            plain = F.group_norm(x.double(), groups, *of_norm)
            for silu, wanted in ((False, plain), (True, F.silu(plain))):
                answer = norm_silu(x, groups, weight, bias, 1e-6, silu)
                compare(f"norm{' and SiLU' if silu else ''}, {words}", answer, wanted)
            whole = F.group_norm(x.double() + addend.double()[..., None, None], groups, *of_norm)
            whole = F.silu(whole * (1 + gain.double()[..., None, None]) + shift.double()[..., None, None])
            answer = norm_silu(x, groups, weight, bias, 1e-6, True, addend, gain, shift)
            compare(f"norm with embedding, {words}", answer, whole)
            y = drawn(b, c, h, w, dtype=dtype)
            wanted = x.double() + y.double() + bias.double()[:, None, None]
            compare(f"residual, {words}", add_residual(y, x, bias), wanted)
    return rows


def tune(shape: tuple[int, int, int, int] = (32, 128, 256, 256)) -> list[str]:
    """Take the launch that is fastest on this GPU, over a float16 map (B, C, H, W); lines that say how fast."""

    def ms(run: Callable[[], Any]) -> float:
        times = []
        for _ in range(12):
            begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begun.record()
            run()
            ended.record()
            ended.synchronize()
            times.append(begun.elapsed_time(ended))
        return median(times[2:])

    x = torch.randn(shape, device="cuda").half().contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, shape[1], device="cuda").half()
    copied = torch.empty_like(x)
    copy = ms(lambda: copied.copy_(x))
    lines, times = [], {}
    for rows, warps in ((16, 4), (32, 4), (32, 8), (64, 8)):
        LAUNCH.rows, LAUNCH.warps = rows, warps
        norm, add = ms(lambda: norm_silu(x, 32, weight, bias, 1e-6, True)), ms(lambda: add_residual(x, copied, bias))
        times[norm + add] = rows, warps
        lines.append(
            f"{rows} places, {warps} warps: norm and SiLU {norm:.3f} ms, {1.5 * copy / norm:.0%} of a copy's speed; "
            f"bias and residual {add:.3f} ms, {1.5 * copy / add:.0%}"
        )
    LAUNCH.rows, LAUNCH.warps = times[min(times)]
    return [*lines, f"taken: {LAUNCH.rows} places, {LAUNCH.warps} warps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    rows = worst_errors(options.device, (torch.float32, torch.float16))
    wrong = [words for words, error, allowed in rows if not error <= allowed]
    for words, error, allowed in rows:
        print(f"{words}: {error:.1e}{'' if error <= allowed else f', more than {allowed:.0e}'}")
    print(f"{len(rows) - len(wrong)} of {len(rows)} right")
    if options.device == "cuda":
        print(*tune(), sep="\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
