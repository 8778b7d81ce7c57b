"""Start-up part by part, actors side by side, and the memory of one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import torch

from diffstyle.networks.unet import UNet
from pipeline.bench.peak import peak_mib
from pipeline.models.accelerate import speed_up_halves, tuned
from pipeline.models.batch_size import MOST
from pipeline.models.config import load_model_config
from pipeline.models.load import load_model, random_unet

#: The network whose start-up and memory are measured.
MODEL = "celebahq"


def _python(*words: str) -> tuple[float, str]:
    """Seconds of a new Python, its start included, and what it printed."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - begun, done.stdout


def in_a_fresh_process(function: str, *arguments: object) -> tuple[float, str]:
    """Seconds of a new Python that calls a function of this module, imports included, and what it printed."""
    words = ", ".join(map(repr, arguments))
    return _python("-c", f"from pipeline.bench import scaling; scaling.{function}({words})")


def start_ray() -> None:
    """Start a Ray of this machine's own."""
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=40)


def build(model: str, device: str) -> UNet:
    """A network with random weights in the precision that is usual on its device."""
    precision = torch.float16 if device == "cuda" else torch.float32
    return load_model(load_model_config(model), "random", device, precision)


def build_and_compile(model: str, device: str) -> None:
    """The same, compiled for batches of 32 as a job's worker does."""
    speed_up_halves(tuned(build(model, device), device), device, 32, True)


def one_call(model: str, batch: int, size: int) -> None:
    """One call of a network on the CPU; prints the process's peak of memory in MiB."""
    unet = tuned(build(model, "cpu"), "cpu")
    with torch.inference_mode():
        unet(torch.randn(batch, 3, size, size), torch.full((batch,), 500))
    print(peak_mib())


def start_up(device: str, model: str = MODEL) -> list[str]:
    """Seconds until work can begin, part by part, each in a fresh process."""
    help_seconds = min(_python("-m", "pipeline", "--help")[0] for _ in range(3))
    started, built = in_a_fresh_process("start_ray")[0], in_a_fresh_process("build", model, device)[0]
    lines = [
        "| start-up | seconds | target |",
        "| --- " * 3 + "|",
        f"| `diffstyle --help` | {help_seconds:.2f} | 0.5 |",
        f"| import torch and Ray, start Ray | {started:.1f} | |",
        f"| a worker: import torch, build the network of {model} with random weights | {built:.1f} | |",
        f"| together | {started + built:.1f} | 15 |",
    ]
    if device == "cuda":
        seconds = in_a_fresh_process("build_and_compile", model, device)[0]
        lines.append(f"| a worker that also compiles, when the cache folder has it | {seconds:.1f} | |")
    return lines


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
            self.unet = load_model(load_model_config(MODEL), "random", device)

        def work(self, n: int) -> int:
            x, t = torch.randn(1, 3, size, size, device=device), torch.full((1,), 500, device=device)
            with torch.inference_mode():
                for _ in range(n):
                    self.unet(x, t)
            if device == "cuda":
                torch.cuda.synchronize()
            return n

    lines = [
        f"| actors (network of {MODEL}, {size} px, float32) | until ready, s | calls a second | of linear |",
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


def memory(device: str, size: int, batches: tuple[int, ...], model: str = MODEL) -> list[str]:
    """Peak memory of a worker by batch: on a CPU of a fresh process after a call, on a GPU what the tensors took."""
    if device == "cuda":
        return _memory_of_a_gpu(size)
    lines = [f"| batch (network of {model}, {size} px, float32) | peak MiB of the actor |", "| --- | --- |"]
    for batch in batches:
        peak = in_a_fresh_process("one_call", model, batch, size)[1]
        lines.append(f"| {batch} | {float(peak):.0f} |")
    return lines


@torch.inference_mode()
def _memory_of_a_gpu(size: int) -> list[str]:
    unet = random_unet(load_model_config(MODEL).unet_architecture).cast(torch.float16).to("cuda")
    unet = tuned(unet, "cuda")
    lines = [f"| batch (network of {MODEL}, {size} px, float16, eager) | peak MiB of tensors |", "| --- | --- |"]
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
