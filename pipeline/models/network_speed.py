"""How long a network call takes here: measured on request by a few calls, and remembered in the cache folder.

Measured as a run computes: in as many processes at once as it would have workers, each with its threads, by the steps
of a walk and of an injection. Random weights do: the speed depends on the architecture, and the model's own may not be
here yet.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from diffstyle.errors import ConfigError
from pipeline.storage.cache_table import CacheTable
from pipeline.storage.identity import digest_of
from pipeline.storage.system import processor

log = logging.getLogger(__name__)

_KNOWN = CacheTable("speeds.json", without="speeds have to be measured again")

# Seconds that each of the two walks is measured for, at least; and steps of one, to share what a walk costs once.
_SECONDS, _STEPS = 1.0, 3


@dataclass(frozen=True)
class Setting:
    """What a speed holds for. ``architecture`` as ``architecture_to_dict`` gives it."""

    architecture: dict[str, Any]
    device: str
    precision: str
    batch: int
    workers: int
    threads: int | None
    compiled: bool = False

    @property
    def key(self) -> str:
        """What the speed is remembered under."""
        machine = f"{processor()}, {os.cpu_count()} cores, {sys.platform}"
        return digest_of({**asdict(self), "machine": machine, "torch": importlib.metadata.version("torch")})


@dataclass(frozen=True)
class NetworkSpeed:
    """Seconds that a picture takes of a worker, its share of a batch; steps of the walk included.

    Attributes:
        encode: of the first half of a call.
        decode: of the second.
        measured: when, in UTC.
    """

    encode: float
    decode: float
    measured: str = ""


def remembered_speed(setting: Setting) -> NetworkSpeed | None:
    """The speed as it was measured here before; None where it was not."""
    entry = _KNOWN.get(setting.key)
    try:
        return None if entry is None else NetworkSpeed(**entry["speed"])
    except (KeyError, TypeError):
        log.warning("%s: what it says of this model is not readable; measure it again", _KNOWN.place)
        return None


def measured_speed(setting: Setting) -> NetworkSpeed:
    """Measure by a few network calls, for seconds to a minute, and remember it.

    Raises:
        ConfigError: the network can't compute here, as where its batch does not fit in memory.
    """
    results = _in_processes(asdict(setting), setting.workers)
    walk, injection = (statistics.mean(result[name] for result in results) for name in ("walk", "injection"))
    decode = max(injection - walk, 0.0)  # an injection step decodes once more
    speed = NetworkSpeed(max(walk - decode, 0.0), decode, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))
    _KNOWN.put(setting.key, {"setting": asdict(setting), "speed": asdict(speed)})
    return speed


def _in_processes(setting: dict[str, Any], n: int) -> list[dict[str, float]]:
    """What ``n`` processes measure, all at the same time: workers on the cores of one machine slow each other down."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if setting["threads"]:
        environment["OMP_NUM_THREADS"] = str(setting["threads"])
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(n):
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.models.network_speed", json.dumps(setting)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        for process in started:
            if process.stdout is None or process.stdout.readline().strip() != "ready":
                raise _failed(process)
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        results = []
        for process in started:
            assert process.stdout is not None
            try:
                results.append(json.loads(process.stdout.readline()))
            except ValueError:
                raise _failed(process) from None
        return results


def _failed(process: subprocess.Popen[str]) -> ConfigError:
    lines = process.stderr.read().strip().splitlines() if process.stderr else []
    return ConfigError(f"--measure: the network can't be measured here ({lines[-1] if lines else 'its process ended'})")


def _measure(setting: Setting, wait: Callable[[], None]) -> dict[str, float]:
    """Seconds that a picture takes of a step of a walk, and of a step with an injection. Waits once it is warm."""
    import torch

    from diffstyle.networks.architecture import architecture_from_dict
    from diffstyle.plan import Plan, Step
    from diffstyle.sampling import ddim_walk, inject
    from pipeline.models.accelerate import speed_up_halves, tuned
    from pipeline.models.load import random_unet

    if setting.threads:
        torch.set_num_threads(setting.threads)
    unet = random_unet(architecture_from_dict(setting.architecture)).cast(getattr(torch, setting.precision))
    unet = tuned(unet.to(setting.device), setting.device)
    if setting.device == "cuda":
        speed_up_halves(unet, setting.device, setting.batch, compiled=setting.compiled)
    times = tuple(range(600, 600 - 100 * (_STEPS + 1), -100))
    plain = tuple(Step(t, t_next) for t, t_next in itertools.pairwise(times))
    mixed = tuple(Step(step.t, step.t_next, content_t=step.t) for step in plain)
    x = torch.randn(setting.batch, 3, unet.image_size, unet.image_size, device=setting.device)
    h = torch.randn(setting.batch, _STEPS, *unet.h_shape, device=setting.device)
    kept = tuple(sorted(step.t for step in plain))

    def walk(steps: int) -> None:
        ddim_walk(unet, x, Plan(plain[:steps]))[0].cpu()

    def injection(steps: int) -> None:
        inject(unet, x, h, kept, Plan(mixed[:steps]), 0.5).cpu()

    for run in (walk, injection):
        run(1)
    wait()
    # In turns: where one of the processes ends first, the others are alone for a moment at most.
    seconds: dict[str, list[float]] = {"walk": [], "injection": []}
    while sum(map(sum, seconds.values())) < 2 * _SECONDS:
        for name, run in (("walk", walk), ("injection", injection)):
            begun = time.perf_counter()
            run(_STEPS)
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) / _STEPS / setting.batch for name, values in seconds.items()}


def _main() -> None:
    """What each of the processes runs: says ``ready``, waits for a line, measures."""

    def wait() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    print(json.dumps(_measure(Setting(**json.loads(sys.argv[1])), wait)), flush=True)


if __name__ == "__main__":
    _main()
