"""A unit of work, what became of it, and errors that survive the way home from a worker."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from diffstyle.errors import DiffStyleError
from pipeline.storage.errors import BugError, fatal, headline

T = TypeVar("T")


def halves(items: tuple[T, ...]) -> list[tuple[T, ...]]:
    """Two halves of what a unit covers, for its ``split``; nothing for a single item."""
    middle = len(items) // 2
    return [items[:middle], items[middle:]] if middle else []


class Unit(Protocol):
    """A block of work. Everything in it travels to the worker by pickle."""

    @property
    def name(self) -> str: ...
    def load(self) -> Any:
        """Read what the unit needs. Runs beside other units' computing."""

    def compute(self, context: Any, loaded: Any) -> Any:
        """Compute, alone on the worker's device. ``context`` is what the pool's ``make_context`` returned."""

    def save(self, computed: Any) -> Any:
        """Write payloads; the small value returned goes to the driver. Must be safe to repeat."""

    def split(self) -> Sequence[Unit]:
        """Smaller units that cover the same items; empty if this is a single item."""


class HandedBack:
    """In place of a unit's result: its worker was asked to end before it began to compute."""


@dataclass
class Timing:
    """Seconds that a unit spent in each phase; ``queued`` is the wait for the worker's device, after loading.

    ``began``: when the compute phase began, in seconds since the epoch by the worker's clock (0: it did not).
    ``note``: what the context had to say meanwhile, such as that memory ran short.
    """

    load: float = 0.0
    queued: float = 0.0
    compute: float = 0.0
    save: float = 0.0
    began: float = 0.0
    note: str = ""

    def said(self) -> dict[str, Any]:
        """For the event log."""
        return {name: value for name, value in vars(self).items() if name != "note" or value}


@dataclass
class Outcome:
    """What became of a unit: a result, or the error of a single item that can't be done."""

    unit: Any
    result: Any = None
    error: str | None = None
    timing: Timing = field(default_factory=Timing)
    worker: int | None = None  # the number of its place in the pool


Device = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True)
class Resources:
    """What a worker asks of Ray and of its process. ``num_cpus`` may be a fraction."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    threads: int | None = 1
    on: str | None = None  # only on nodes that declare this resource


#: What to do where not all workers that are asked for have room: see ``compute.if_fewer`` of a job.
IfFewer = Literal["run", "wait", "refuse"]


@dataclass
class Failure:
    """An exception as it travels: Ray's own way loses the types of some and can't carry others at all."""

    why: str
    where: str  # the traceback
    stop: DiffStyleError | BugError | None  # what to end the whole run with, if it is that kind

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        stop = fatal(error)
        if isinstance(stop, DiffStyleError) and not _travels(stop):
            plain = DiffStyleError(str(stop))
            plain.exit_code = stop.exit_code
            stop = plain
        where = "".join(traceback.format_exception(error))[-4000:]
        return cls(f"{type(error).__name__}: {headline(error)}", where, stop)


def _travels(error: DiffStyleError) -> bool:
    """Whether an error survives the way to the driver."""
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:  # noqa: BLE001 - pickling runs whatever code the error's class brings along
        return False
