"""Where work runs, as everything above sees it: a pool runs units, and workers make pools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from pipeline.workers.unit import Device, IfFewer, Outcome, Resources

T = TypeVar("T")

#: Called in a worker with what loads the model; returns what the units get as ``context``.
OpenModel = Callable[[Callable[[], Any]], Any]
OnEvent = Callable[..., None]


def no_event(name: str, /, **fields: Any) -> None:
    """An ``on_event`` that ignores what happens."""


def no_check() -> None:
    """A ``check`` that finds nothing wrong."""


class Pool(Protocol):
    """Workers that stay alive over several :meth:`run` calls. A context manager."""

    @property
    def size(self) -> int:
        """How many workers there are."""

    @property
    def under_way(self) -> int:
        """How many units a worker has at once."""

    @property
    def batch(self) -> int:
        """How many pictures a worker sends through the network at once."""

    def run(self, units: Iterable[Any]) -> Iterator[Outcome]:
        """Run units, in any order, and yield each one's outcome; ``units`` is read only as fast as workers are free.

        A unit that raises is tried once more, then split; a single item that still fails is an outcome with an error.
        The pool's ``check`` is called before each outcome is handed over, so before anything of it can be committed.

        Raises:
            DiffStyleError: as a unit raised it (wrong input is not retried).
            Stopped: where going on is no use, such as on a full disk.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Workers(Protocol):
    """Where a run computes, and what makes its pools: ``RayWorkers`` or ``LocalWorkers``.

    open_model  None, or what opens a worker's model instead of its loader; called in the worker, with the loader
    """

    open_model: OpenModel | None

    def check_decoders(self, on: str | None) -> None:
        """Before any stage: raise ConfigError where there can be no workers without a model.

        Args:
            on: as :meth:`decoders` takes it.
        """

    def plan(
        self,
        device: Device,
        actors: int | None,
        threads: int | None,
        *,
        gpu_share: float | None = None,
        if_fewer: IfFewer = "run",
    ) -> tuple[int, Resources]:
        """How many workers with a model there will be, and what each asks for. No Ray is started for it.

        Args:
            device: that the model computes on.
            actors: how many workers are asked for; None: as many as fit.
            threads: CPU threads of each; None: what each has room for.
            gpu_share: of a GPU for each; None: a whole one, or less where there are too few.
            if_fewer: what to do where there is room for fewer.

        Raises:
            ConfigError: there is no room, as far as that is decided by ``if_fewer``.
        """

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
    ) -> Pool:
        """A pool of workers that hold a model.

        Args:
            n: how many.
            load: called in each worker; returns what it holds. None: nothing.
            resources: what each asks for.
            batch: pictures that go through the network at once.
            on_event: called with (name, fields) for what should be logged.
            check: called before each outcome; may raise to end the run.
            unit_timeout: seconds without a result after which a worker is taken for hung; None: never.
            start_timeout: seconds after which one that does not end loading is; None: never.
        """

    def decoders(
        self,
        *,
        on_event: OnEvent = no_event,
        check: Callable[[], None] = no_check,
        unit_timeout: float | None = None,
        on: str | None = None,
    ) -> Pool:
        """A pool of workers without a model, for reading and decoding.

        Args:
            on_event: as :meth:`pool` takes it.
            check: likewise.
            unit_timeout: likewise.
            on: only on nodes of the cluster that declare this resource; None: on all.
        """

    def given_batch(self, device: str) -> int | None:
        """How many pictures go through the network at once where the job does not say; None: measure it.

        Args:
            device: that the model computes on.
        """

    def memory(self) -> float:
        """Bytes that the workers may take in all."""

    def gpus(self) -> str:
        """The names of the GPUs that there are; empty where there are none."""

    def call(self, function: Callable[[], T], resources: Resources) -> T:
        """What a function returns where a worker would run.

        Args:
            function: picklable.
            resources: what the worker asks for.

        Raises:
            Stopped: where it could not be run.
        """

    def close(self) -> None:
        """End what was started for these workers. They can be used again."""


def opening(load: Callable[[], Any] | None, open_model: OpenModel | None) -> Callable[[], Any] | None:
    """What a worker calls for its model: ``load``, or ``open_model`` with ``load``. Picklable if both are."""
    return load if load is None or open_model is None else _Opening(load, open_model)


class _Opening:
    def __init__(self, load: Callable[[], Any], open_model: OpenModel) -> None:
        self._load, self._open_model = load, open_model
        #: What is loaded, for messages.
        self.loads = getattr(load, "loads", "its model")

    def __call__(self) -> Any:
        return self._open_model(self._load)
