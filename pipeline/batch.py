"""How many pictures go through the network at once: measured for each network, device and precision, and remembered."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import Resources
from pipeline.identity import digest_of
from pipeline.models import cache_folder, load_model_config, random_unet
from pipeline.tuning import tuned

if TYPE_CHECKING:
    from diffstyle.architecture import Architecture
    from diffstyle.unet import UNet

log = logging.getLogger(__name__)

# A batch must pay: doubling it has to give so much more, or the smaller one wastes less on a last, half-empty batch.
# On a GPU it is the eager network that is measured; compiled, it is faster and gains a little more from large batches.
WORTH = {"cpu": 1.05, "mps": 1.05, "cuda": 1.02}
MOST = {"cpu": 16, "mps": 16, "cuda": 64}


def batch_for(model: str, device: str, precision: str, resources: Resources) -> int:
    """The batch size for a model, as remembered in the cache folder, else as a worker with ``resources`` measures it.

    Needs a connected Ray for ``device`` cuda.
    """
    import torch

    from diffstyle.architecture import architecture_to_dict

    architecture = load_model_config(model).unet_architecture
    key = digest_of(
        {
            "architecture": architecture_to_dict(architecture),
            "machine": _machine(device),
            "device": device,
            "threads": resources.threads,
            "precision": precision,
            "torch": torch.__version__,
        }
    )
    place = cache_folder() / "batches.json"
    remembered = _read(place)
    if key not in remembered:
        log.info("measuring the batch size for %s on %s in %s, once", model, device, precision)
        measure = partial(measured, architecture, device, precision, resources.threads)
        # Here, where torch and the model's file have been read; but the driver may be on a machine without a GPU.
        rates = on_a_worker(measure, resources) if device == "cuda" else measure()
        found = {"model": model, "device": device, "precision": precision, "machine": _machine(device)}
        remembered[key] = {**found, "pictures_per_second": rates, "batch": best(rates, WORTH[device])}
        _write(place, remembered)
    return int(remembered[key]["batch"])


def on_a_worker(measure: Callable[[], dict[str, float]], resources: Resources) -> dict[str, float]:
    """What ``measure`` returns in a process of Ray's that has a worker's ``resources``."""
    import ray

    def run() -> dict[str, float]:
        return measure()

    options = {"num_cpus": resources.num_cpus, "num_gpus": resources.num_gpus}
    return ray.get(ray.remote(run).options(**options).remote())


def measured(architecture: Architecture, device: str, precision: str, threads: int | None) -> dict[str, float]:
    """Pictures a second by batch size, 1, 2, 4 and on, until a doubling no longer pays or memory gets short."""
    import torch

    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        unet = tuned(random_unet(architecture).cast(getattr(torch, precision)).to(device), device)
        rates: dict[str, float] = {}
        batch, last = 1, 0.0
        while batch <= MOST[device]:
            try:
                rate = batch / _seconds(unet, batch, device)
            except torch.OutOfMemoryError:
                break
            rates[str(batch)] = round(rate, 3)
            # Twice the batch takes twice the memory, and the worker needs room for more than the network.
            full = device == "cuda" and 2 * torch.cuda.max_memory_allocated() > 0.8 * torch.cuda.mem_get_info()[1]
            if full or rate < WORTH[device] * last:
                break
            batch, last = 2 * batch, rate
        return rates
    finally:
        torch.set_num_threads(before)


def best(rates: dict[str, float], worth: float) -> int:
    """The smallest batch that comes near the highest rate. ValueError where nothing could be measured."""
    if not rates:
        raise ValueError("not even one picture at a time fits in the device's memory")
    return min(int(batch) for batch, rate in rates.items() if rate * worth >= max(rates.values()))


def _seconds(unet: UNet, batch: int, device: str) -> float:
    """The shortest of some network calls as an injection makes them, with a second decode."""
    import torch

    x = torch.randn(batch, 3, unet.image_size, unet.image_size, device=device)
    t = torch.full((batch,), 500, device=device)
    found: list[float] = []
    with torch.inference_mode():
        while len(found) < 2 or (sum(found) < 0.2 and len(found) < 10):
            begun = time.perf_counter()
            encoded = unet.encode(x, t)
            for _ in range(2):
                unet.decode(*encoded)
            if device == "cuda":
                torch.cuda.synchronize()
            found.append(time.perf_counter() - begun)
            if device == "cuda" and len(found) == 1:
                torch.cuda.reset_peak_memory_stats()  # cuDNN tries out algorithms with tens of GiB of scratch memory
    return min(found[1:])  # the first warms up


def _machine(device: str) -> str:
    """What the measurement holds for: the cluster's GPUs, or this machine's processor."""
    if device == "cuda":
        import ray

        return ", ".join(sorted(name for name in ray.cluster_resources() if name.startswith("accelerator_type:")))
    return f"{processor()}, {os.cpu_count()} cores"


def processor() -> str:
    """This machine's processor by name."""
    import platform
    import re

    info = Path("/proc/cpuinfo")
    if info.is_file() and (named := re.search(r"model name\s*: (.*)", info.read_text())):
        return named.group(1)
    return platform.processor() or platform.machine()


def _read(place: Path) -> dict[str, Any]:
    try:
        found = json.loads(place.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s can't be read (%s): batch sizes are measured again", place, error)
        return {}
    if not isinstance(found, dict):
        log.warning("%s holds no measurements: batch sizes are measured again", place)
        return {}
    return found


def _write(place: Path, remembered: dict[str, Any]) -> None:
    temporary = place.with_name(f"{place.name}.tmp{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(remembered, indent=1, sort_keys=True))
        temporary.replace(place)
    except OSError as error:  # a cache that several machines share may be read-only
        log.warning("%s can't be written (%s): the batch size will be measured again next time", place, error)
