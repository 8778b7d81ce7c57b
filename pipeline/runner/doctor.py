"""What this machine has for running jobs, and what to do about what it lacks: versions, devices, disk, Ray, weights."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import diffstyle
from diffstyle.errors import DiffStyleError, one_line
from pipeline.jobfile.starting import DEMO_MODEL
from pipeline.models.accelerate import torch_threads
from pipeline.models.config import all_model_configs, load_model_config, shipped_model_configs
from pipeline.models.load import load_model
from pipeline.models.session import resolve_device
from pipeline.models.weights import weights_place
from pipeline.storage.cache import cache_folder
from pipeline.storage.counts import count, data_size
from pipeline.workers.local import LocalWorkers, cores, gpu_driver_is_there
from pipeline.workers.ray_address import resolved, token_at, wants_token

_LOW_DISK, _LOW_MEMORY, _LOW_SHARED = 5e9, 2e9, 1e9
_PACKAGES = ("torch", "ray", "numpy", "pyarrow", "pillow")
#: Package of an extra -> what lacks without it, and the extra.
_EXTRAS = {
    "huggingface_hub": ("hub", "weights from hub repositories"),
    "lmdb": ("lmdb", "LSUN's lmdb data sets"),
    "duckdb": ("select", "`diffstyle select --where`"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: ``versions``, ``device``, ``disk``, ``ray``, ``weights`` or ``network``.
        level: ``ok``; ``note``, worth knowing; ``wrong``, jobs can't run so.
        text: What was seen.
        cure: What to do; None where there is nothing to do.
    """

    topic: str
    level: Literal["ok", "note", "wrong"]
    text: str
    cure: str | None = None

    def __str__(self) -> str:
        line = f"{self.level:<5}  {self.topic:<9} {self.text}"
        return line if self.cure is None else f"{line}\n{'':17}{self.cure}"


def examine(model: str | None = None, address: str | None = None) -> Iterator[Finding]:
    """Look at one thing after the other; nothing is changed, and no Ray is started.

    Args:
        model: Whose network is called once, as in a job file. Default: the demo's.
        address: Of a Ray cluster that is asked whether it can be joined; None: none is.
    """
    yield from _versions()
    yield from _devices()
    yield from _disks()
    yield from _ray(address)
    yield from _weights()
    yield _network_call(model or DEMO_MODEL)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[Finding]:
    packages = {name: _installed(name) for name in _PACKAGES}
    system = f"{platform.system()} {platform.machine()}"
    text = f"diffstyle {diffstyle.__version__}, Python {platform.python_version()}, {system}"
    text += "".join(f", {name} {version}" for name, version in packages.items() if version)
    missing = [name for name, version in packages.items() if version is None]
    if missing:
        yield Finding(
            "versions", "wrong", f"{text}; not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}"
        )
    else:
        yield Finding("versions", "ok", text)
    for package, (extra, purpose) in _EXTRAS.items():
        if _installed(package) is None:
            yield Finding("versions", "note", f"no {package}, for {purpose}", f"pip install 'diffstyle[{extra}]'")


def _devices() -> Iterator[Finding]:
    import torch

    memory = LocalWorkers().memory()
    text = f"{count(cores(), 'core')}, {data_size(memory)} of memory for a run"
    if memory < _LOW_MEMORY:
        yield Finding("device", "note", text, "end other programs, or say compute.actors: 1 and a small compute.batch")
    else:
        yield Finding("device", "ok", text)
    if torch.cuda.is_available():
        for n in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(n)
            text = f"cuda:{n}, {torch.cuda.get_device_name(n)}, {data_size(free)} of {data_size(total)} free"
            yield Finding("device", "ok", text, "say compute.precision: float16: as good to the eye, in half the time")
    elif torch.backends.mps.is_available():
        yield Finding("device", "ok", "mps, Apple's GPU")
    elif sys.platform == "linux" and gpu_driver_is_there():
        yield Finding(
            "device",
            "wrong",
            f"there is a GPU, but PyTorch {torch.__version__} can't use it",
            "install a PyTorch for the driver's version of CUDA: https://pytorch.org/get-started/locally",
        )
    else:
        yield Finding(
            "device", "note", "no GPU: models of 256 px take minutes a pair", "try with the demo's model first"
        )


def _disks() -> Iterator[Finding]:
    folders = {"this folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    try:
        folders["the cache"] = cache_folder()
    except DiffStyleError as error:
        yield Finding("disk", "note", one_line(error), None)
    for name, folder in folders.items():
        nearest = next(one for one in (folder, *folder.parents) if one.exists())
        free = shutil.disk_usage(nearest).free
        text = f"{name}, {folder}: {data_size(free)} free"
        if not os.access(nearest, os.W_OK):
            yield Finding(
                "disk", "note", f"{text}, and can't be written", "give an output elsewhere, or DIFFSTYLE_CACHE"
            )
        elif free < _LOW_DISK:
            yield Finding("disk", "note", text, "`diffstyle plan JOB` says what a job would write")
        else:
            yield Finding("disk", "ok", text)


def _ray(address: str | None) -> Iterator[Finding]:
    version = _installed("ray")
    mode, place = os.environ.get("RAY_AUTH_MODE"), token_at()
    token = f"a token in {place}" if place else "no token (only clusters with token authentication want one)"
    yield Finding("ray", "ok", f"Ray {version}; {token}{f'; RAY_AUTH_MODE is {mode}' if mode else ''}")
    shared = Path("/dev/shm")
    if sys.platform == "linux" and shared.is_dir() and (size := shutil.disk_usage(shared).total) < _LOW_SHARED:
        yield Finding(
            "ray",
            "note",
            f"/dev/shm has {data_size(size)}, so Ray keeps its objects on a disk, slowly",
            "give a container more: docker run --shm-size=2g",
        )
    if address is None:
        return
    try:
        cluster = resolved(address)
        wanted = "wants a token, and takes this one" if wants_token(cluster) else "wants no token"
        yield Finding("ray", "ok", f"the cluster at {cluster} answers and {wanted}")
    except DiffStyleError as error:
        why, _, cure = one_line(error, most=1000).partition("; ")
        yield Finding("ray", "wrong", why, cure or None)


def _weights() -> Iterator[Finding]:
    try:
        present = [name for name, config in all_model_configs().items() if weights_place(config) is not None]
    except DiffStyleError as error:
        yield Finding("weights", "wrong", one_line(error), None)
        return
    shipped = ", ".join(shipped_model_configs())
    if present:
        yield Finding("weights", "ok", f"here: {', '.join(present)}; with the code: {shipped}")
    else:
        cure = "`diffstyle models` lists the others, `diffstyle models fetch NAME` gets one"
        yield Finding("weights", "note", f"here are only those that come with the code: {shipped}", cure)


def _network_call(model: str) -> Finding:
    """Load a model and call its network a few times, on the device and with the threads that a job's worker has.

    On all cores the threads of a call wait for whatever else is at work there, and the figure says little.
    """
    import torch

    try:
        config, device = load_model_config(model), resolve_device("auto")
        unet = load_model(config, device=device)
    except DiffStyleError as error:
        return Finding("network", "wrong", one_line(error, most=1000), "`diffstyle models` lists the models")
    x, t = torch.zeros(1, 3, config.size, config.size, device=device), torch.full((1,), 500, device=device)
    threads = LocalWorkers().plan(device, 1, None)[1].threads
    seconds = []
    with torch.inference_mode(), torch_threads(threads):
        for _ in range(4):
            begun = time.perf_counter()
            total = float(unet.decode(*unet.encode(x, t)).sum())  # waits for the device
            seconds.append(time.perf_counter() - begun)
    ms = 1000 * statistics.median(seconds[1:])
    crew = "" if threads is None else f" with {count(threads, 'thread')}, as a job's worker has"
    text = f"{config.name} at {config.size} px on {device}: a call takes {ms:.{0 if ms >= 100 else 1}f} ms{crew}"
    if total != total:
        return Finding(
            "network", "wrong", f"{text}, but gives no numbers", "fetch the weights again, or try another device"
        )
    return Finding("network", "ok", text)
