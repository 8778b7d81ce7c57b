"""The workers of a run: how many, what they hold, how many pictures go through the network at once."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from typing import Any

from diffstyle.errors import ConfigError, one_line
from pipeline.jobfile.schema import Compute, Job
from pipeline.launch.own_files import as_named
from pipeline.models.accelerate import compiles
from pipeline.models.batch_size import batch_for
from pipeline.models.session import Device, ModelFacts, ModelLoader, resolve_device
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place
from pipeline.workers.base import Pool, Workers
from pipeline.workers.unit import Outcome, Resources

log = logging.getLogger(__name__)


class PoolOnDemand:
    """A pool that is opened when the first unit comes: where there is nothing to do, no worker is started for it."""

    def __init__(self, open_pool: Callable[[], Pool]) -> None:
        self._open = open_pool
        self._stack = ExitStack()
        self._pool: Pool | None = None

    def __enter__(self) -> PoolOnDemand:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def _opened(self) -> Pool:
        if self._pool is None:
            self._pool = self._stack.enter_context(self._open())
        return self._pool

    @property
    def size(self) -> int:
        """How many workers the pool has."""
        return self._opened.size

    @property
    def under_way(self) -> int:
        """How many units a worker has at once."""
        return self._opened.under_way

    @property
    def batch(self) -> int:
        """How many pictures a worker sends through the network at once."""
        return self._opened.batch

    def run(self, units: Iterable[Any]) -> Iterator[Outcome]:
        """See :meth:`pipeline.workers.base.Pool.run`."""
        left = iter(units)
        for first in left:
            with closing(self._opened.run(itertools.chain([first], left))) as outcomes:  # type: ignore[type-var]
                yield from outcomes


def crew(compute: Compute, device: Device, workers: Workers) -> tuple[int, Resources]:
    """How many workers with the model there will be and what each asks for."""
    actors, threads = (None if value == "auto" else value for value in (compute.actors, compute.threads))
    n, resources = workers.plan(device, actors, threads, gpu_share=compute.gpu_share, if_fewer=compute.if_fewer)
    if actors is not None and n < actors:
        log.warning("compute.actors is %d and is ignored: only %d worker runs here", actors, n)
    return n, resources


def model_pool(
    job: Job,
    facts: ModelFacts,
    workers: Workers,
    on_event: Callable[..., None],
    check: Callable[[], None],
    planned: tuple[int, Resources] | None = None,
) -> Pool:
    """Workers that hold the job's model; ``planned`` is what :func:`crew` said of them before."""
    compute = job.compute
    device = resolve_device(compute.device)
    compiled = compiles(compute.compile, device, facts.image_size)
    if device == "cpu" and compute.precision == "float16":
        log.warning("compute.precision float16 is slower than float32 on a CPU; say bfloat16 or float32")
    n, resources = planned or crew(compute, device, workers)
    batch = compute.batch
    if batch == "auto":
        batch = _batch_of_output(job, device, resources, workers, on_event)
    load = ModelLoader(job.model, job.weights, facts.fingerprint, device, compute.precision, batch, compiled)
    on_event("workers", n=n, device=device, batch=batch, compile=compiled, **vars(resources))
    return workers.pool(
        n,
        load,
        resources,
        batch=batch,
        on_event=on_event,
        check=check,
        unit_timeout=compute.unit_timeout,
        start_timeout=compute.start_timeout,
    )


def _batch_of_output(
    job: Job, device: str, resources: Resources, workers: Workers, on_event: Callable[..., None]
) -> int:
    """The batch that the output's results were made with, so that the rest gets the same bytes; else as measured."""
    kind = kind_of_workers(job, device)
    kept = kept_batches(job)
    if kind in kept:
        return kept[kind]
    batch = workers.given_batch(device)
    if batch is None:
        on_event("measuring_batch", kind=kind)
        begun = time.perf_counter()
        batch = batch_for(job.model, device, job.compute.precision, resources, workers)
        on_event("batch_measured", batch=batch, seconds=time.perf_counter() - begun)
    place = OutputLayout(Place.parse(job.output)).batches
    place.write_bytes(json.dumps({**kept, kind: batch}, indent=2).encode() + b"\n")
    return batch


def kind_of_workers(job: Job, device: str) -> str:
    """What batches are kept by: the model as the user names it, the device and the precision."""
    return f"{as_named(job.model)} on {device} in {job.compute.precision}"


def kept_batches(job: Job) -> dict[str, int]:
    """The batch of each kind of workers that an earlier run measured; ConfigError where the file is damaged."""
    place = OutputLayout(Place.parse(job.output)).batches
    try:
        return {kind: int(batch) for kind, batch in json.loads(place.read_bytes()).items()}
    except FileNotFoundError:  # a new output
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{place} is damaged ({one_line(error)}); delete it, or say compute.batch") from error


def memory_of_a_tile(workers: Workers, pool: Pool) -> float:
    """Bytes that a tile's inputs and results may take: half of what workers have, shared by all tiles under way."""
    return workers.memory() / 2 / pool.size / (pool.under_way + 1)
