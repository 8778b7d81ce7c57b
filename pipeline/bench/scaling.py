"""Start-up part by part, actors side by side, and the memory of one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import torch

from pipeline.models.accelerate import tuned
from pipeline.models.batch_size import MOST
from pipeline.models.config import load_model_config
from pipeline.models.load import load_model, random_unet


def _seconds_of(code: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *code], check=True, capture_output=True)
    return time.perf_counter() - begun


def start_up(device: str) -> list[str]:
    """Seconds until work can begin, part by part, each in a fresh process."""
    build = (
        "import torch; from pipeline.models.config import *; "
        f"unet = load_model(load_model_config('celebahq'), 'random', '{device}', torch.{_type(device)})"
    )
    ray = "import torch, ray; ray.init(address='local', include_dashboard=False, log_to_driver=False)"
    help_seconds = min(_seconds_of(["-m", "pipeline", "--help"]) for _ in range(3))
    started, built = _seconds_of(["-c", ray]), _seconds_of(["-c", build])
    lines = [
        "| start-up | seconds | target |",
        "| --- " * 3 + "|",
        f"| `diffstyle --help` | {help_seconds:.2f} | 0.5 |",
        f"| import torch and Ray, start Ray | {started:.1f} | |",
        f"| a worker: import torch, build the CelebA-HQ network with random weights | {built:.1f} | |",
        f"| together | {started + built:.1f} | 15 |",
    ]
    if device == "cuda":
        code = (
            f"{build}; from pipeline.models.accelerate import *; "
            "print(speed_up_halves(tuned(unet, 'cuda'), 'cuda', 32, True))"
        )
        lines.append(
            f"| a worker that also compiles, when the cache folder has it | {_seconds_of(['-c', code]):.1f} | |"
        )
    return lines


def _type(device: str) -> str:
    """The precision that is usual on a device, by torch's name."""
    return "float16" if device == "cuda" else "float32"


def actors_to_try(device: str) -> tuple[int, ...]:
    """1, 2 and 4, as far as there are cores or GPUs for them."""
    room = torch.cuda.device_count() if device == "cuda" else os.cpu_count() or 1
    return tuple(n for n in (1, 2, 4) if n <= room)


def scaling(device: str, n_calls: int, size: int) -> list[str]:
    """Calls a second by number of actors, with a core or a GPU each; the time until all hold their model apart."""
    import ray

    class Worker:
        def __init__(self) -> None:
            torch.set_num_threads(1)
            self.unet = load_model(load_model_config("celebahq"), "random", device)

        def work(self, n: int) -> int:
            x, t = torch.randn(1, 3, size, size, device=device), torch.full((1,), 500, device=device)
            with torch.inference_mode():
                for _ in range(n):
                    self.unet(x, t)
            if device == "cuda":
                torch.cuda.synchronize()
            return n

    lines = [
        f"| actors (CelebA-HQ network, {size} px, float32) | until ready, s | calls a second | of linear |",
        "| --- " * 4 + "|",
    ]
    one, actors = 0.0, actors_to_try(device)
    remote: Any = ray.remote(num_cpus=1, num_gpus=int(device == "cuda"))(Worker)
    ray.init(address="local", num_cpus=max(actors), include_dashboard=False, log_to_driver=False, logging_level=40)
    try:
        for n in actors:
            begun = time.perf_counter()
            workers: list[Any] = [remote.remote() for _ in range(n)]
            ray.get([worker.work.remote(1) for worker in workers])
            ready, begun = time.perf_counter() - begun, time.perf_counter()
            ray.get([worker.work.remote(n_calls) for worker in workers])
            rate = n * n_calls / (time.perf_counter() - begun)
            one = one or rate
            lines.append(f"| {n} | {ready:.1f} | {rate:.2f} | {rate / one / n:.0%} |")
            for worker in workers:
                ray.kill(worker)
    finally:
        ray.shutdown()
    return lines


def memory(device: str, size: int, batches: tuple[int, ...]) -> list[str]:
    """Peak memory of a worker by batch: on a CPU of a fresh process after a call, on a GPU what the tensors took."""
    if device == "cuda":
        return _memory_of_a_gpu(size)
    code = (
        "import torch; from pipeline.models.config import *; from pipeline.bench.peak import peak_mib; "
        "unet = random_unet(load_model_config('celebahq').unet_architecture).to(memory_format=torch.channels_last)\n"
        "with torch.inference_mode(): unet(torch.randn({batch}, 3, {size}, {size}), torch.full(({batch},), 500))\n"
        "print(peak_mib())"
    )
    lines = [f"| batch (CelebA-HQ network, {size} px, float32) | peak MiB of the actor |", "| --- | --- |"]
    for batch in batches:
        done = subprocess.run(
            [sys.executable, "-c", code.format(batch=batch, size=size)], check=True, capture_output=True, text=True
        )
        lines.append(f"| {batch} | {float(done.stdout):.0f} |")
    return lines


@torch.inference_mode()
def _memory_of_a_gpu(size: int) -> list[str]:
    unet = random_unet(load_model_config("celebahq").unet_architecture).cast(torch.float16).to("cuda")
    unet = tuned(unet, "cuda")
    lines = [f"| batch (CelebA-HQ network, {size} px, float16, eager) | peak MiB of tensors |", "| --- | --- |"]
    batch = 1
    while batch <= MOST["cuda"]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        encoded = unet.encode(
            torch.randn(batch, 3, size, size, device="cuda"), torch.full((batch,), 500, device="cuda")
        )
        for _ in range(2):
            unet.decode(*encoded)
        torch.cuda.synchronize()
        lines.append(f"| {batch} | {torch.cuda.max_memory_allocated() / 2**20:.0f} |")
        del encoded
        batch *= 4
    return lines
