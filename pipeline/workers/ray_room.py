"""How many workers fit into a cluster, and what is said or refused where those that are asked for don't.

A machine whose own Ray is yet to be started is a cluster of one node that nothing joins.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from diffstyle.errors import ConfigError
from pipeline.storage.counts import count
from pipeline.workers.local import cores
from pipeline.workers.unit import Device, IfFewer, Resources

log = logging.getLogger(__name__)


def plan_workers(
    device: Device,
    actors: int | None,
    threads: int | None,
    *,
    gpu_share: float | None = None,
    if_fewer: IfFewer = "run",
    machine: dict[str, Any] | None = None,
) -> tuple[int, Resources]:
    """How many workers and what each asks for, from what the nodes of the cluster have that was joined.

    Args:
        device: as :meth:`pipeline.workers.base.Workers.plan` takes it, like those that follow.
        actors: likewise.
        threads: likewise.
        gpu_share: likewise.
        if_fewer: likewise.
        machine: what the one machine has that a Ray is to be started on, see :func:`this_machine`.

    A CPU worker takes a quarter of the cores of a node (at least one), whatever the number of workers, because the
    number of threads can change the last bits of a result and the number of workers must not.

    Raises:
        ConfigError: there is no room for all (``refuse``) or for any (``run``) of them.
    """
    nodes = [node for node in ([machine] if machine else _nodes()) if node.get("CPU")]
    cpus = [float(int(node["CPU"])) for node in nodes] or [1.0]
    if device == "cuda":
        return _on_gpus(nodes, actors, threads, gpu_share, if_fewer, machine is not None)
    if device == "mps":
        return 1, Resources(num_cpus=1.0, threads=threads)
    threads = threads or max(1, int(min(cpus)) // 4)
    n = actors or max(1, sum(int(cpu) // threads for cpu in cpus))
    share = _share(cpus, n, float(threads))
    if share < threads:
        supply = f"{_has(machine is not None)} {count(int(sum(cpus)), 'core')}"
        asked = f"compute.actors is {n} with {count(threads, 'thread')} each"
        if if_fewer == "refuse":
            raise _refusal(asked, supply, machine is not None)
        if n > 1:
            log.warning("%s, but %s: they share them", asked, supply)
    return n, Resources(num_cpus=share, threads=threads)


def _has(alone: bool) -> str:
    return "this machine has" if alone else "the cluster has"


def _refusal(asked: str, supply: str, alone: bool) -> ConfigError:
    more = "run it on a cluster with --address" if alone else "start more nodes"
    return ConfigError(f"{asked}, but {supply} (compute.if_fewer: refuse); ask for fewer, or {more}")


def _on_gpus(
    nodes: list[dict[str, Any]],
    actors: int | None,
    threads: int | None,
    gpu_share: float | None,
    if_fewer: IfFewer,
    alone: bool,
) -> tuple[int, Resources]:
    has = _has(alone)
    cpus, gpus = [float(int(node["CPU"])) for node in nodes], [int(node.get("GPU", 0)) for node in nodes]
    n_gpus = sum(gpus)
    if not n_gpus and alone:
        raise ConfigError(f"compute.device is cuda, but {has} no GPU; use device: cpu, or --address of a cluster")
    if not n_gpus and if_fewer != "wait":
        raise ConfigError(
            "compute.device is cuda, but the cluster has no GPU; use device: cpu or another --address, or "
            "compute.if_fewer: wait where nodes are yet to come"
        )
    share = gpu_share if gpu_share is not None else 1.0
    n = actors or max(1, n_gpus * _fit(1.0, share))
    places = n_gpus * _fit(1.0, share)
    if places < n:
        asked = f"compute.actors is {n} with {'a whole GPU' if share == 1 else f'{share:g} of a GPU'} each"
        supply = f"{has} {count(n_gpus, 'GPU')}"
        if if_fewer == "refuse":
            raise _refusal(asked, supply, alone)
        if gpu_share is None and n_gpus and (if_fewer == "run" or alone):
            share = _share([1.0] * n_gpus, n, 1.0)
            log.warning("%s, but %s: they share them, each gets %g of one", asked, supply, share)
        elif alone:
            n = places
            log.warning("%s, but %s: %d of them start", asked, supply, places)
        else:
            log.warning("%s, but %s: %d of them start now, the others as nodes join", asked, supply, places)
    on_a_gpu = _fit(1.0, share)
    cpu_shares = [_floor(cpu / (gpu * on_a_gpu)) for cpu, gpu in zip(cpus, gpus, strict=True) if gpu]
    return n, Resources(num_cpus=min([1.0, *cpu_shares]), num_gpus=share, threads=threads)


def plan_decoders(on: str | None, machine: dict[str, Any] | None = None) -> tuple[int, Resources]:
    """How many workers without a model, and what each asks for: one for each CPU.

    Args:
        on: only those of nodes that declare this resource; None: of all.
        machine: as :func:`plan_workers` takes it.

    Raises:
        ConfigError: no node declares it.
    """
    nodes = [node for node in ([machine] if machine else _nodes()) if on is None or on in node]
    if not nodes and on is not None and machine:
        raise ConfigError(
            f"compute.decode_on is {on}, which nodes of a cluster declare, and this run has a Ray of its own on this "
            "machine; omit compute.decode_on, or give --address"
        )
    if not nodes and on is not None:
        raise ConfigError(
            f"compute.decode_on is {on}, but no node of the cluster declares that resource; start some with "
            f"`ray start --resources='{{\"{on}\": 1}}'`, or omit compute.decode_on"
        )
    n = max(1, sum(int(node.get("CPU", 0)) for node in nodes))
    return n, Resources(num_cpus=1.0, threads=None, on=on)


def room(resources: Resources) -> int:
    """How many workers that ask for this fit into the cluster as it is now, if nobody else used it."""
    places = 0
    for node in _nodes():
        if resources.on is not None and resources.on not in node:
            continue
        fit = _fit(float(node.get("CPU", 0)), resources.num_cpus)
        if resources.num_gpus:
            fit = min(fit, int(node.get("GPU", 0)) * _fit(1.0, resources.num_gpus))
        places += fit
    return places


def this_machine(device: Device | None) -> dict[str, Any] | None:
    """What this machine gives to a Ray of the run's own; None where one runs already.

    Args:
        device: only for ``cuda`` the GPUs are counted, which takes importing torch.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return None
    machine = {"CPU": float(cores())}
    if device == "cuda":
        import torch

        machine["GPU"] = float(torch.cuda.device_count())
    return machine


def _nodes() -> list[dict[str, Any]]:
    """What each living node has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _fit(size: float, share: float) -> int:
    """How often a share fits, as Ray counts: in steps of 0.0001."""
    return round(size * 10_000) // max(1, round(share * 10_000))


def _share(sizes: list[float], n: int, most: float) -> float:
    """The largest share, ``most`` at most, of which ``n`` find a place in bins of these sizes, none torn in two."""
    candidates = {most} | {_floor(size / k) for size in set(sizes) for k in range(1, n + 1)}
    fitting = (share for share in candidates if 0 < share <= most and sum(int(size / share) for size in sizes) >= n)
    return max(fitting, default=_floor(min(sizes) / n))


def _floor(share: float) -> float:
    # Ray counts in steps of 0.0001 and rounds: three times 0.6667 would be more than 2, and the third never starts.
    return int(share * 10_000) / 10_000
