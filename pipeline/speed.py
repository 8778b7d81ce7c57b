"""The measurements behind ``diffstyle bench`` and docs/speed.md: calls, pairs, scaling, memory, each a Markdown table.

Times are minima over repeats, since other programs can only add to them; ratios are within one run.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffstyle.architecture import build_unet
from diffstyle.plan import Injection, Plan, aligned_plan, event_timesteps, grid_plan, inversion_plan
from diffstyle.sampling import ddim_invert, ddim_step, inject, predicted_picture
from diffstyle.unet import UNet
from pipeline.job import PLAN_PRESETS
from pipeline.models import load_model, load_model_config, random_unet

MODELS = ("afhq-dog", "celebahq")
MARKERS = ("<!-- speed: begin -->", "<!-- speed: end -->")
OWED = "owed: run the same command on a GPU"
_TREE = Path(__file__).resolve().parents[1]  # the trained tiny model comes with the source tree only


def best(run: Callable[[], Any], repeats: int, device: str = "cpu") -> float:
    """The shortest of some runs, in seconds, after one to warm up."""
    run()
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begun)
    return min(found)


def machine(device: str) -> str:
    """What was measured on, with which versions, and how busy it was."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file() and (named := re.search(r"model name\s*: (.*)", info.read_text())):
        cpu = named.group(1)
    gpu = f"; {torch.cuda.get_device_name()}" if device == "cuda" else ""
    load = f"; load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return (
        f"{time.strftime('%Y-%m-%d')}. {cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{gpu}; "
        f"Python {platform.python_version()}, torch {torch.__version__}{load}."
    )


def matmul_peak(dtype: torch.dtype, device: str, side: int = 2048) -> float:
    """FLOP/s of a square matrix product: what this machine can do with nothing else in the way."""
    a = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / best(lambda: a @ a, 10, device)


def call_flops(name: str, size: int) -> float:
    """FLOPs of one network call on one picture, counted without computing."""
    from torch.utils.flop_counter import FlopCounterMode

    unet = build_unet(load_model_config(name).unet_architecture, "meta").requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        unet(torch.empty(1, 3, size, size, device="meta"), torch.zeros(1, device="meta"))
    return float(counter.get_total_flops())


# ---- 1. network calls ----


@torch.inference_mode()
def calls(device: str, size: int, repeats: int, batches: tuple[int, ...]) -> tuple[list[str], dict[str, tuple]]:
    """Milliseconds a picture of one call: eager float32 against each change. Also (encode, decode) seconds by model,
    of eager float32 and of the fastest, batch 1."""
    lines = ["| model | variant | batch | ms a picture | times faster | of the matmul peak |", "| --- " * 6 + "|"]
    halves: dict[str, tuple] = {}
    peaks = {dtype: matmul_peak(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    for name in MODELS:
        unet = random_unet(load_model_config(name).unet_architecture).to(device)
        flops, first = call_flops(name, size), 0.0
        variants = [("eager", torch.contiguous_format, torch.float32, 1)]
        variants += [("channels last", torch.channels_last, torch.float32, 1)]
        variants += [("channels last", torch.channels_last, torch.bfloat16, batch) for batch in batches]
        found = []
        for label, layout, dtype, batch in variants:
            unet = unet.cast(dtype).to(memory_format=layout)  # type: ignore[call-overload]
            x = torch.randn(batch, 3, size, size, device=device)
            t = torch.full((batch,), 500, device=device)
            encoded = unet.encode(x, t)
            encode, decode = partial(unet.encode, x, t), partial(unet.decode, *encoded)
            split = best(encode, repeats, device) / batch, best(decode, repeats, device) / batch
            seconds = sum(split)
            first = first or seconds
            found.append(split)
            share = flops / seconds / peaks[dtype]
            said = f"{label}, {str(dtype).removeprefix('torch.')}"
            lines.append(f"| {name} | {said} | {batch} | {seconds * 1e3:.0f} | {first / seconds:.2f} | {share:.0%} |")
        halves[name] = found[0], found[1], min(found[2:], key=sum)
        lines.append(f"| {name} | torch.compile, CUDA graphs | | {OWED} | | |")
    said = ", ".join(f"{str(d).removeprefix('torch.')} {p / 1e9:.0f} GFLOP/s" for d, p in peaks.items())
    return [f"Measured matrix-product peak: {said}. Pictures of {size} px.", "", *lines], halves


# ---- 2. pairs ----


@torch.inference_mode()
def reference_loop(
    unet: UNet, x: Tensor, h: Tensor, kept: tuple[int, ...], plan: Plan, gamma: float, steps: int | None = None
) -> Tensor:
    """The plainest form of the method, as the reference runs it: one pair, both decodes at every step.

    x (1, 3, H, W), h (1, K, C, h, w). Injection without mask, noise or calibration. ``steps``: only the first so many.
    """
    from diffstyle.blend import blend

    for step in plan.steps[:steps]:
        encoded = unet.encode(x, torch.full((1,), step.t))
        e = unet.decode(*encoded)
        hc = h[:, kept.index(step.content_t)] if step.content_t is not None else encoded.h
        e_tilde = unet.decode(blend(encoded.h, hc, torch.tensor([gamma])), encoded.skips, encoded.emb)
        x = ddim_step(predicted_picture(x, e_tilde if step.content_t is not None else e, step.t), e, step.t_next)
    return x


def preset_plan(name: str, kept: tuple[int, ...]) -> Plan:
    """The plan of a preset, for the defaults of a job file."""
    spec, injection = PLAN_PRESETS[name], Injection(event_timesteps(50))
    if spec.aligned is None:
        return grid_plan(injection, kept, spec.grid or 1000)
    return aligned_plan(injection, kept, spec.aligned.between, spec.aligned.tail, order=spec.aligned.order)


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean PSNR over pictures (B, 3, H, W) in [-1, 1], clipped as they would be written."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean((1, 2, 3)).clamp_min(1e-10)
    return float((10 * torch.log10(4 / error)).mean())


def tiny_model() -> UNet | None:
    """The trained 32 px model of the source tree; None where the package was installed without it."""
    config = _TREE / "tests/data/tiny-ddpm.yaml"
    weights = config.with_suffix(".safetensors")
    if not weights.is_file():
        return None
    import yaml

    from diffstyle.architecture import architecture_from_dict
    from diffstyle.checkpoint import load_unet

    return load_unet(weights, architecture_from_dict(yaml.safe_load(config.read_text())["model"]))


def tiny_pictures(unet: UNet, kind: str, n: int) -> Tensor:
    """The first ``n`` of the source tree's contents or styles: (n, 3, H, W)."""
    import numpy as np
    from PIL import Image

    from diffstyle.images import prepare, to_tensor

    paths = sorted((_TREE / "tests/data/pictures" / kind).glob("*.png"))[:n]
    return torch.stack([to_tensor(np.asarray(prepare(Image.open(path), unet.image_size))) for path in paths])


def pairs(halves: dict[str, tuple], size: int, n: int) -> list[str]:
    """Whole pairs: measured at 32 px on the trained tiny model, computed from measured calls at ``size``."""
    lines = []
    walk = inversion_plan(50)
    unet = tiny_model()
    if unet is None:
        lines += ["The measured part needs the source tree, whose tests/data holds a trained model.", ""]
    else:
        styles, contents = tiny_pictures(unet, "styles", n), tiny_pictures(unet, "contents", n)
        x_T, _ = ddim_invert(unet, styles, walk)
        _, h = ddim_invert(unet, contents, walk)
        begun = time.perf_counter()
        grid = preset_plan("reference", walk.kept)
        wanted = torch.cat([reference_loop(unet, x_T[k : k + 1], h[k : k + 1], walk.kept, grid, 0.3) for k in range(n)])
        loop = (time.perf_counter() - begun) / n
        lines += [
            f"Measured, {unet.image_size} px, trained tiny model, gamma 0.3, {n} pairs in one batch:",
            "",
            "| plan | precision | calls | s a pair | times faster | PSNR dB |",
            "| --- " * 6 + "|",
            f"| the reference's loop, batch 1 | float32 | {grid.encodes} | {loop:.2f} | 1 | |",
        ]
        for name, dtype in (("balanced", torch.float32), ("fast", torch.float32), ("fast", torch.bfloat16)):
            unet = unet.cast(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            plan = preset_plan(name, walk.kept)
            begun = time.perf_counter()
            made = inject(unet, x_T, h, walk.kept, plan, 0.3)
            seconds = (time.perf_counter() - begun) / n
            said = str(dtype).removeprefix("torch.")
            row = f"{plan.encodes} | {seconds:.2f} | {loop / seconds:.1f} | {psnr(made, wanted):.1f}"
            lines.append(f"| {name} | {said} | {row} |")
    lines += [
        "",
        f"Extrapolated to {size} px: a call's measured halves times their number, not a run from end to end:",
        "",
        "| model | the reference's loop, s | plan | float32, s | times faster | bfloat16, s | times faster |",
        "| --- " * 7 + "|",
    ]
    for model, (eager, better, half) in halves.items():
        loop = 1000 * (eager[0] + 2 * eager[1])
        for name in PLAN_PRESETS:
            plan = preset_plan(name, walk.kept)
            times = [plan.encodes * encode + plan.decodes * decode for encode, decode in (better, half)]
            cells = " | ".join(f"{seconds:.0f} | {loop / seconds:.1f}" for seconds in times)
            lines.append(f"| {model} | {loop:.0f} | {name} | {cells} |")
    return lines


# ---- 3. scaling and start-up ----


def _seconds_of(code: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *code], check=True, capture_output=True)
    return time.perf_counter() - begun


def start_up() -> list[str]:
    """Seconds until work can begin, part by part, each in a fresh process."""
    load = "from pipeline.models import *; load_model(load_model_config('celebahq'), 'random')"
    lines = ["| start-up | seconds | target |", "| --- " * 3 + "|"]
    help_seconds = min(_seconds_of(["-m", "pipeline", "--help"]) for _ in range(3))
    lines.append(f"| `diffstyle --help` | {help_seconds:.2f} | 0.5 |")
    parts = {
        "import torch and ray": "import torch, ray",
        "and start Ray": "import torch, ray; ray.init(address='local', include_dashboard=False, log_to_driver=False)",
        "import torch, build the CelebA-HQ network with random weights": load,
    }
    return lines + [f"| {label} | {_seconds_of(['-c', code]):.1f} | 15 together |" for label, code in parts.items()]


def scaling(actors: tuple[int, ...], n_calls: int, size: int) -> list[str]:
    """Calls a second by number of actors with a thread each; the time until all hold their model apart."""
    import ray

    class Worker:
        def __init__(self) -> None:
            torch.set_num_threads(1)
            self.unet = load_model(load_model_config("celebahq"), "random")

        def work(self, n: int) -> int:
            x, t = torch.randn(1, 3, size, size), torch.full((1,), 500)
            with torch.inference_mode():
                for _ in range(n):
                    self.unet(x, t)
            return n

    lines = [
        f"| actors (CelebA-HQ network, {size} px) | until ready, s | calls a second | of linear |",
        "| --- " * 4 + "|",
    ]
    one = 0.0
    remote: Any = ray.remote(num_cpus=1)(Worker)
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


# ---- 4. memory ----


def memory(size: int, batches: tuple[int, ...]) -> list[str]:
    """Peak resident memory of a process after one call, by batch, each in a fresh process."""
    code = (
        "import resource, torch; from pipeline.models import *; "
        "unet = random_unet(load_model_config('celebahq').unet_architecture).to(memory_format=torch.channels_last)\n"
        "with torch.inference_mode(): unet(torch.randn({batch}, 3, {size}, {size}), torch.full(({batch},), 500))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    lines = [f"| batch (CelebA-HQ network, {size} px, float32) | peak MiB of the actor |", "| --- | --- |"]
    for batch in batches:
        done = subprocess.run(
            [sys.executable, "-c", code.format(batch=batch, size=size)], check=True, capture_output=True, text=True
        )
        # Linux counts in KiB, macOS in bytes.
        unit = 2**20 if sys.platform == "darwin" else 2**10
        lines.append(f"| {batch} | {int(done.stdout) / unit:.0f} |")
    return lines


def report(device: str, quick: bool) -> Iterator[str]:
    """All measurements as the lines of a page, as they come."""
    size, repeats = (64, 2) if quick else (256, 2)
    yield machine(device)
    yield from ("", "#### A network call", "")
    lines, halves = calls(device, size, repeats, (1,) if quick else (1, 2))
    yield from lines
    yield from ("", "#### A pair", "")
    if device == "cpu":
        yield from pairs(halves, size, 1 if quick else 3)
        yield from ("", "#### Start-up and scaling", "")
        yield from start_up()
        yield ""
        yield from scaling((1, 2) if (os.cpu_count() or 1) > 1 else (1,), 4 if quick else 8, 64)
        yield from ("", "#### Memory", "")
        yield from memory(size, (1, 2) if quick else (1, 2, 4))
    command = f"diffstyle bench{' --quick' if quick else ''} --device {device} --write docs/speed.md"
    yield from ("", f"GPU figures: {OWED}." if device == "cpu" else "", f"Made by `{command}`.")
