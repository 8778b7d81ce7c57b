"""Workers that are actors of a Ray: the one of this process, which is started on need, or a cluster that is joined."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.storage.errors import Stopped
from pipeline.workers.base import OnEvent, OpenModel, no_check, no_event, opening
from pipeline.workers.ray_cluster import start_ray, stop_ray
from pipeline.workers.ray_pool import RayPool
from pipeline.workers.ray_room import plan_decoders, plan_workers, room, this_machine
from pipeline.workers.unit import Device, IfFewer, Resources

T = TypeVar("T")


class RayWorkers:
    """Workers that are actors of Ray: see :class:`pipeline.workers.base.Workers`. Ray is started or joined on need.

    Args:
        address: Of a Ray cluster, ``HOST:PORT`` or ``auto``; None: a Ray of this process's own.
        open_model: Opens a worker's model instead of its loader, which it is called with. It must be picklable.
    """

    def __init__(self, address: str | None = None, open_model: OpenModel | None = None) -> None:
        self.address = address
        self.open_model = open_model
        self._started = False
        self._as_many_as_fit = False

    def check_decoders(self, on: str | None) -> None:
        """A cluster is joined for it; a Ray of this process's own is not started."""
        plan_decoders(on, self._machine(None))

    def plan(
        self,
        device: Device,
        actors: int | None,
        threads: int | None,
        *,
        gpu_share: float | None = None,
        if_fewer: IfFewer = "run",
    ) -> tuple[int, Resources]:
        """As many as there is room for, see :func:`pipeline.workers.ray_room.plan_workers`.

        A cluster is joined for it. A Ray of this process's own is not started: that takes seconds, which a run with
        nothing to do can save, and what it will have is known.
        """
        self._as_many_as_fit = actors is None
        machine = self._machine(device)
        return plan_workers(device, actors, threads, gpu_share=gpu_share, if_fewer=if_fewer, machine=machine)

    def pool(
        self,
        n: int,
        load: Callable[[], Any] | None,
        resources: Resources,
        *,
        batch: int = 1,
        on_event: OnEvent = no_event,
        check: Callable[[], None] = no_check,
        unit_timeout: float | None = None,
        start_timeout: float | None = None,
    ) -> RayPool:
        """Actors; they start when units come."""
        self._start()
        make_context = opening(load, self.open_model)
        return RayPool(
            n,
            make_context,
            resources,
            batch=batch,
            on_event=on_event,
            check=check,
            unit_timeout=unit_timeout,
            start_timeout=start_timeout,
            room=functools.partial(room, resources) if self._as_many_as_fit else None,
        )

    def decoders(
        self,
        *,
        on_event: OnEvent = no_event,
        check: Callable[[], None] = no_check,
        unit_timeout: float | None = None,
        on: str | None = None,
    ) -> RayPool:
        """An actor for each CPU of the cluster: beside a GPU's workers there are CPUs to use."""
        self._start()
        n, resources = plan_decoders(on)
        more = functools.partial(room, resources)
        return RayPool(n, None, resources, on_event=on_event, check=check, unit_timeout=unit_timeout, room=more)

    def given_batch(self, device: str) -> int | None:
        """Measured, but for a model of the caller's own."""
        return None if self.open_model is None else 1

    def memory(self) -> float:
        """What Ray counts as memory of the cluster."""
        return float(self._resources().get("memory", 4 << 30))

    def gpus(self) -> str:
        """The kinds of GPU in the cluster, by Ray's names."""
        return ", ".join(sorted(name for name in self._resources() if name.startswith("accelerator_type:")))

    def call(self, function: Callable[[], T], resources: Resources) -> T:
        """In a process of Ray's that ends after it: it would keep a GPU's memory."""
        import ray

        self._start()

        def run() -> T:
            return function()

        remote: Any = ray.remote(num_cpus=resources.num_cpus, num_gpus=resources.num_gpus, max_calls=1)(run)
        try:
            result: T = ray.get(remote.remote())
        except ray.exceptions.RayError as error:
            raise Stopped(str(error).strip().splitlines()[-1]) from error
        return result

    def close(self) -> None:
        """End the Ray that was started, or leave the cluster that was joined, for these workers."""
        if self._started:
            stop_ray()
            self._started = False

    def _machine(self, device: Device | None) -> dict[str, Any] | None:
        """This machine, where its Ray is yet to be started; None: a Ray runs, which is asked."""
        if self.address is None:
            return this_machine(device)
        self._start()
        return None

    def _start(self) -> None:
        self._started = start_ray(self.address) or self._started

    def _resources(self) -> dict[str, float]:
        import ray

        self._start()
        return ray.cluster_resources()
