"""What runs inside a worker: a unit's three phases, the threads it may use, and errors that survive the way home."""

from __future__ import annotations

import errno
import os
import pickle
import re
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from diffstyle.errors import DiffStyleError


class Stopped(DiffStyleError):
    """The run can't go on (disk full, credentials lost, workers that die at start) but can be resumed."""

    exit_code = 4


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
class Failure:
    """An exception as it travels: Ray's own way loses the types of some and can't carry others at all."""

    why: str
    where: str  # the traceback
    stop: DiffStyleError | None  # what to end the whole run with, if it is that kind

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        stop = fatal(error)
        if stop is not None and not _travels(stop):
            plain = DiffStyleError(str(stop))
            plain.exit_code = stop.exit_code
            stop = plain
        where = "".join(traceback.format_exception(error))[-4000:]
        return cls(f"{type(error).__name__}: {one_line(error)}", where, stop)


class Worker:
    """The actor's class. ``make_context`` runs once, at ``setup``."""

    def __init__(self, make_context: Callable[[], Any] | None, threads: int | None) -> None:
        self._make_context = make_context
        self._threads = threads
        self._context: Any = None
        self._device = threading.Lock()

    def setup(self) -> dict[str, Any] | Failure:
        """Load the model (not in ``__init__``: what that raises has lost its type). Returns what the log should say."""
        try:
            self._use_threads()
            if self._make_context is not None:
                self._context = self._make_context()
        except Exception as error:  # noqa: BLE001 - the driver decides
            return Failure.of(error)
        return {"pid": os.getpid(), **({"note": self._note} if self._note else {})}

    def ping(self) -> None:
        """Answers if the worker is alive."""

    def run(self, unit: Unit) -> tuple[Any, Timing]:
        """A unit's result or Failure, and its timing."""
        timing, clock = Timing(), time.perf_counter
        begun = clock()
        try:
            loaded = unit.load()
            timing.load = (now := clock()) - begun
            with self._device:
                timing.queued = (begun := clock()) - now
                timing.began = time.time()
                self._use_threads()
                before = self._note
                computed = unit.compute(self._context, loaded)
                timing.note = self._note if self._note != before else ""
                timing.compute = (now := clock()) - begun
            result = unit.save(computed)
            timing.save = clock() - now
        except Exception as error:  # noqa: BLE001 - the driver decides
            return Failure.of(error), timing
        return result, timing

    @property
    def _note(self) -> str:
        return getattr(self._context, "note", "")

    def _use_threads(self) -> None:
        # In every thread that computes: the number is OpenMP's, which keeps one for each thread, and a kernel that
        # asks before torch has passed it on would split its sums differently and change the last bits.
        if self._threads:
            import torch

            torch.set_num_threads(self._threads)


def one_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return " ".join(text.splitlines()[-1 if "Traceback" in text else 0].split())[:300]


def _travels(error: DiffStyleError) -> bool:
    """Whether an error survives the way to the driver."""
    from ray import cloudpickle

    try:
        return type(pickle.loads(cloudpickle.dumps(error))) is type(error)
    except Exception:  # noqa: BLE001 - pickling runs whatever code the error's class brings along
        return False


_NO_USE_GOING_ON = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
# How object stores, through Arrow, say that the rights are gone.
_NO_RIGHTS = re.compile(
    "ACCESS_DENIED|NO_SUCH_BUCKET|EXPIRED_?TOKEN|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN_ID"
    "|MISSING_AUTHENTICATION_TOKEN|UNRECOGNIZED_CLIENT|REQUEST_EXPIRED|InvalidAccessKeyId|SignatureDoesNotMatch",
    re.IGNORECASE,
)


def fatal(error: BaseException) -> DiffStyleError | None:
    """The error to stop the whole run with, or None if only the unit is concerned."""
    if isinstance(error, DiffStyleError):
        return error
    if not isinstance(error, OSError):
        return None
    kept = "what was committed is kept"
    if error.errno in _NO_USE_GOING_ON:
        where = f" ({error.filename})" if error.filename else ""
        return Stopped(f"{error.strerror or one_line(error)}{where}; {kept}, mend it and run the job again")
    if _NO_RIGHTS.search(str(error)):
        return Stopped(f"{one_line(error)}; {kept}, mend the credentials and run the job again")
    return None
