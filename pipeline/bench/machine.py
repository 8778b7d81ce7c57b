"""What the speed benchmark runs on, and how it takes the time."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

from pipeline.storage.counts import count
from pipeline.storage.system import processor


def shortest(run: Callable[[], Any], repeats: int, device: str = "cpu") -> float:
    """The shortest of some runs, in seconds, after one to warm up: other programs can only add to a time."""
    seconds = []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def machine(device: str) -> str:
    """What was measured on, with which versions, and how busy it was."""
    gpu = f"; {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if device == "cuda" else ""
    load = f"; load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    threads = count(torch.get_num_threads(), "thread")
    return (
        f"{time.strftime('%Y-%m-%d')}. {processor()}, {os.cpu_count()} cores, {threads}{gpu}; "
        f"Python {platform.python_version()}, torch {torch.__version__}{load}."
    )


def allow_tf32(allowed: bool) -> None:
    """Whether a GPU may round float32 factors to TF32's 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def matmul_peak(dtype: torch.dtype, device: str) -> float:
    """FLOP/s of a square matrix product: what this machine can do with nothing else in the way."""
    side = 8192 if device == "cuda" else 2048
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / shortest(lambda: a @ a, 10, device)
