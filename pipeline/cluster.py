"""Starting Ray, or joining a cluster, and how many workers fit."""

from __future__ import annotations

import logging
import os
from typing import Literal

from diffstyle.errors import DiffStyleError
from pipeline.engine import Resources


class ClusterError(DiffStyleError):
    """The Ray cluster that was asked for can't be reached or lacks what a worker needs."""


def start_ray(address: str | None = None) -> None:
    """Start an embedded Ray (``address`` None) or join the cluster at ``address``. Does nothing if one is connected."""
    # Ray would otherwise hide the GPUs of workers that ask for none, and warn about the coming change on every start.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # An embedded Ray is an implementation detail of one command; it should not phone home from it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"no Ray cluster at {address or 'local'} ({str(error).splitlines()[0]}); "
            "leave --address away for an embedded one"
        ) from error


def plan_workers(
    device: Literal["cpu", "cuda", "mps"], actors: int | None, threads: int | None
) -> tuple[int, Resources]:
    """How many workers and what each asks for, from what the cluster has. Needs ``start_ray`` before.

    A CPU worker takes a quarter of the cores (at least one), whatever the number of workers, because the number of
    threads can change the last bits of a result and the number of workers must not.
    """
    import ray

    total = ray.cluster_resources()
    cpus = max(1, int(total.get("CPU", 1)))
    if device == "cuda":
        gpus = int(total.get("GPU", 0))
        if not gpus:
            raise ClusterError(
                "compute.device is cuda, but the cluster has no GPU; use device: cpu or another --address"
            )
        n = actors or gpus
        return n, Resources(num_cpus=min(1.0, cpus / n), num_gpus=min(1.0, gpus / n), threads=threads)
    if device == "mps":
        return 1, Resources(num_cpus=1.0, threads=threads)
    threads = threads or max(1, cpus // 4)
    n = actors or max(1, cpus // threads)
    return n, Resources(num_cpus=min(float(threads), cpus / n), threads=threads)
