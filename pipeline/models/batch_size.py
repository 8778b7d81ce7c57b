"""How many pictures go through the network at once: measured for each network, device and precision, and remembered."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from diffstyle.errors import ConfigError
from pipeline.models.accelerate import torch_threads, tuned
from pipeline.models.config import load_model_config
from pipeline.models.load import random_unet
from pipeline.storage.cache_table import CacheTable
from pipeline.storage.errors import Stopped
from pipeline.storage.identity import digest_of
from pipeline.storage.system import processor
from pipeline.workers.base import Workers
from pipeline.workers.unit import Resources

if TYPE_CHECKING:
    from diffstyle.networks.architecture import Architecture
    from diffstyle.networks.unet import UNet

_KNOWN = CacheTable("batches.json", without="batch sizes are measured again")

# A batch must pay: doubling it has to give so much more, or the smaller one wastes less on a last, half-empty batch.
# On a GPU it is the eager network that is measured; compiled, it is faster and gains a little more from large batches.
WORTH = {"cpu": 1.05, "mps": 1.05, "cuda": 1.02}
MOST = {"cpu": 16, "mps": 16, "cuda": 64}
# Of a GPU's memory (or of a worker's share of it) when the batch was half as large: twice that still leaves room.
FULL = 0.4
# On other devices than a GPU: pixels in a batch, which bounds the memory, and seconds for the whole measurement.
PIXELS = 16 * 128**2
SECONDS = 20.0


def batch_for(model: str, device: str, precision: str, resources: Resources, workers: Workers) -> int:
    """The batch size for a model, as remembered in the cache folder, else as a worker with ``resources`` measures it.

    ConfigError where not even one picture fits, or the workers can't measure.
    """
    known = known_batch(model, device, precision, resources, workers)
    if known is not None:
        return known
    architecture = load_model_config(model).unet_architecture
    measure = partial(measured, architecture, device, precision, resources)
    # Here, where torch and the model's file have been read; but the driver may be on a machine without a GPU.
    rates = on_a_worker(measure, resources, workers) if device == "cuda" else measure()
    batch = best_batch(rates, WORTH[device])
    key, setting = _setting(model, device, precision, resources, workers)
    _KNOWN.put(key, {"model": model, **setting, "pictures_per_second": rates, "batch": batch})
    return batch


def known_batch(model: str, device: str, precision: str, resources: Resources, workers: Workers) -> int | None:
    """The batch size for a model as remembered in the cache folder; None where it was not measured here."""
    key, _ = _setting(model, device, precision, resources, workers)
    batch = (_KNOWN.get(key) or {}).get("batch")
    return batch if isinstance(batch, int) else None


def _setting(
    model: str, device: str, precision: str, resources: Resources, workers: Workers
) -> tuple[str, dict[str, Any]]:
    """What a measured batch holds for, and its key in the cache."""
    from diffstyle.networks.architecture import architecture_to_dict

    setting: dict[str, Any] = {
        "device": device,
        "precision": precision,
        "machine": _machine(device, workers),
        "torch": importlib.metadata.version("torch"),  # without importing it
        "threads": resources.threads,
        "gpus": resources.num_gpus,
    }
    architecture = load_model_config(model).unet_architecture
    return digest_of({"architecture": architecture_to_dict(architecture), **setting}), setting


def on_a_worker(measure: Callable[[], dict[str, float]], resources: Resources, workers: Workers) -> dict[str, float]:
    """What ``measure`` returns where a worker with ``resources`` runs."""
    try:
        return workers.call(measure, resources)
    except Stopped as error:
        raise ConfigError(f"the batch size can't be measured ({error}); give one with compute.batch") from error


def measured(architecture: Architecture, device: str, precision: str, resources: Resources) -> dict[str, float]:
    """Pictures a second by batch size, 1, 2, 4 and on, until a doubling no longer pays or memory or time get short."""
    import torch

    most = MOST[device] if device == "cuda" else min(MOST[device], max(1, PIXELS // architecture.image_size**2))
    with torch_threads(resources.threads or None):
        unet = tuned(random_unet(architecture).cast(getattr(torch, precision)).to(device), device)
        rates: dict[str, float] = {}
        batch, last, begun = 1, 0.0, time.perf_counter()
        while batch <= most:
            try:
                rate = batch / _seconds(unet, batch, device)
            except torch.OutOfMemoryError:
                break
            rates[str(batch)] = round(rate, 3)
            if device == "cuda":
                share = torch.cuda.mem_get_info()[1] * min(1.0, resources.num_gpus or 1.0)
                short = torch.cuda.max_memory_allocated() > FULL * share
            else:  # the next takes twice as long as the last, which took at most half of all so far
                short = 2 * (time.perf_counter() - begun) > SECONDS
            if short or rate < WORTH[device] * last:
                break
            batch, last = 2 * batch, rate
        return rates


def best_batch(rates: dict[str, float], worth: float) -> int:
    """The smallest batch that comes near the highest rate. ConfigError where nothing could be measured."""
    if not rates:
        raise ConfigError(
            "not even one picture at a time fits in the device's memory; try compute.precision: float16 or "
            "compute.device: cpu"
        )
    return min(int(batch) for batch, rate in rates.items() if rate * worth >= max(rates.values()))


def _seconds(unet: UNet, batch: int, device: str) -> float:
    """The shortest of some network calls as an injection makes them, with a second decode."""
    import torch

    x = torch.randn(batch, 3, unet.image_size, unet.image_size, device=device)
    t = torch.full((batch,), 500, device=device)
    seconds: list[float] = []
    with torch.inference_mode():
        while len(seconds) < 2 or (sum(seconds) < 0.2 and len(seconds) < 10):
            begun = time.perf_counter()
            encoded = unet.encode(x, t)
            for _ in range(2):
                unet.decode(*encoded)
            if device != "cpu":
                getattr(torch, device).synchronize()
            seconds.append(time.perf_counter() - begun)
            if device == "cuda" and len(seconds) == 1:
                torch.cuda.reset_peak_memory_stats()  # cuDNN tries out algorithms with tens of GiB of scratch memory
    return min(seconds[1:])  # the first warms up


def _machine(device: str, workers: Workers) -> str:
    """What the measurement holds for: the workers' GPUs, or this machine's processor."""
    if device == "cuda":
        return workers.gpus() or "a GPU without a name"
    return f"{processor()}, {os.cpu_count()} cores"
