"""All that ``diffstyle bench`` measures, as the lines of docs/notes/speed.md. Ratios are within one run."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import torch

from pipeline.bench.calls import MODELS, calls, cpu_variants, cuda_variants
from pipeline.bench.machine import machine
from pipeline.bench.pairs import against_the_loop, extrapolated, on_a_gpu, precisions
from pipeline.bench.scaling import memory, scaling, start_up
from pipeline.bench.throughput import throughput


def markers(device: str) -> tuple[str, str]:
    """The lines of the page between which a device's figures stand."""
    return f"<!-- speed {device}: begin -->", f"<!-- speed {device}: end -->"


def report(device: str, quick: bool) -> Iterator[str]:
    """All measurements, as they come."""
    size = 64 if quick and device == "cpu" else 256  # on a GPU the networks are recorded at their own size
    yield machine(device)
    yield from _titled("A network call")
    if device == "cuda":
        # Compiling takes most of a minute for each: float16 for both models, TF32 for one.
        half, both = (torch.float16,), (torch.float32, torch.float16)
        variants = {name: cuda_variants(8 if quick else 32, both if name == MODELS[-1] else half) for name in MODELS}
    else:
        variants = {name: cpu_variants((1,) if quick else (1, 2)) for name in MODELS}
    lines, measured = calls(device, size, 2 if device == "cpu" else 5, variants)
    yield from lines
    yield from _titled("A pair")
    if device == "cuda":
        yield from on_a_gpu(measured, size)
    else:
        yield from against_the_loop(1 if quick else 3)
        yield ""
        yield from extrapolated(measured, size)
    del measured
    gc.collect()  # compiled networks, which hold a GPU's memory
    yield from _titled("What a lower precision loses")
    yield from precisions(device, ("balanced",) if device == "cuda" else ("balanced", "fast"), 1 if quick else 3)
    yield from _titled("Start-up")
    yield from start_up(device)
    if device == "cpu" or torch.cuda.device_count() > 1:
        yield from _titled("Actors")
        yield from scaling(device, 4 if quick else 8, 64)
    yield from _titled("Whole jobs")
    yield from throughput(device, (10, 100) if quick or device == "cuda" else (10, 100, 1000))
    yield from _titled("Memory")
    yield from memory(device, size, (1, 2) if quick else (1, 2, 4))
    yield ""
    yield f"Made by `diffstyle bench{' --quick' if quick else ''} --device {device} --write docs/notes/speed.md`."


def _titled(title: str) -> tuple[str, ...]:
    return "", f"#### {title}", ""
