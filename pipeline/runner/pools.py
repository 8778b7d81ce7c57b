"""The workers of a run: how many, what they hold, how many pictures go through the network at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

from diffstyle.errors import ConfigError
from pipeline.jobfile.schema import Compute, Job
from pipeline.models.accelerate import compiles
from pipeline.models.batch_size import batch_for
from pipeline.models.session import Device, ModelFacts, ModelLoader, resolve_device
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place
from pipeline.workers.ray_cluster import plan_workers, start_ray
from pipeline.workers.ray_pool import Pool
from pipeline.workers.unit import Outcome, Resources

log = logging.getLogger(__name__)


class GuardedPool(Pool):
    """A pool that asks ``check`` before it hands over an outcome, so before anything of it can be committed.

    ``batch``: how many pictures its workers send through the network at once.
    """

    def __init__(self, *args: Any, check: Callable[[], None], batch: int = 1, **options: Any) -> None:
        super().__init__(*args, **options)
        self._check = check
        self.batch = batch

    @property
    def under_way(self) -> int:
        """How many units a worker has at once."""
        return self._depth

    def __enter__(self) -> GuardedPool:
        return self

    def run(self, units: Iterable[Any]) -> Iterator[Outcome]:
        """See :meth:`Pool.run`."""
        with closing(super().run(units)) as outcomes:  # type: ignore[type-var]
            for outcome in outcomes:
                self._check()
                yield outcome


def crew(compute: Compute, device: Device, address: str | None = None) -> tuple[int, Resources]:
    """How many workers with the model there will be and what each asks for; Ray is started or joined for them."""
    start_ray(address)
    actors, threads = (None if value == "auto" else value for value in (compute.actors, compute.threads))
    return plan_workers(device, actors, threads)


def model_pool(
    job: Job,
    facts: ModelFacts,
    address: str | None,
    stand_in: Callable[[ModelLoader], Callable[[], Any]] | None,
    on_event: Callable[..., None],
    check: Callable[[], None],
) -> GuardedPool:
    """Workers that hold the job's model; Ray is started or joined for them. ``stand_in`` as for ``run.Run``."""
    compute = job.compute
    device = resolve_device(compute.device)
    compiled = compiles(compute.compile, device, facts.image_size)
    if device == "cpu" and compute.precision == "float16":
        log.warning("compute.precision float16 is slower than float32 on a CPU; say bfloat16 or float32")
    n, resources = crew(compute, device, address)
    if compute.batch != "auto":
        batch = compute.batch
    else:
        batch = _batch_of_output(job, device, resources, on_event) if stand_in is None else 1
    maker = ModelLoader(job.model, job.weights, facts.fingerprint, device, compute.precision, batch, compiled)
    on_event("workers", n=n, device=device, batch=batch, compile=compiled, **vars(resources))
    make_context = maker if stand_in is None else stand_in(maker)
    return GuardedPool(n, make_context, resources, on_event=on_event, check=check, batch=batch)


def _batch_of_output(job: Job, device: str, resources: Resources, on_event: Callable[..., None]) -> int:
    """The batch that the output's results were made with, so that the rest gets the same bytes; else as measured."""
    place = OutputLayout(Place.parse(job.output)).batches
    kind = f"{job.model} on {device} in {job.compute.precision}"
    kept: dict[str, int] = {}
    try:
        kept = json.loads(place.read_bytes())
        return int(kept[kind])
    except (FileNotFoundError, KeyError):
        pass  # a new output, or a new kind of workers for it
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{place} is damaged ({error}); delete it, or say compute.batch") from error
    on_event("measuring_batch", kind=kind)
    batch = batch_for(job.model, device, job.compute.precision, resources)
    place.write_bytes(json.dumps({**kept, kind: batch}, indent=2).encode() + b"\n")
    return batch


def decoding_pool(address: str | None, on_event: Callable[..., None], check: Callable[[], None]) -> GuardedPool:
    """Workers without a model, for decoding: beside a GPU's workers there are CPUs to use."""
    import ray

    start_ray(address)
    n = max(1, int(ray.cluster_resources().get("CPU", 1)))
    return GuardedPool(n, None, Resources(num_cpus=1.0, threads=1), on_event=on_event, check=check)


def memory_of_a_tile(workers: int, under_way: int) -> float:
    """Bytes that a tile's inputs and results may take: half of what Ray offers, shared by all tiles under way."""
    import ray

    total = float(ray.cluster_resources().get("memory", 4 << 30))
    return total / 2 / workers / (under_way + 1)
