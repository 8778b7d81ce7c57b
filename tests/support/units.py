"""Units that sleep, suffer and split: for the tests of pools."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffstyle.errors import CheckpointError, DiffStyleError
from pipeline.workers.unit import Outcome


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class NotReadBack(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class LockedSettings(DiffStyleError):
    exit_code = 3

    def __init__(self):
        super().__init__("settings: a lock inside; take it out")
        self.lock = threading.Lock()


def suffer(what: str) -> Any:
    """What can befall a unit."""
    if what == "exit":
        os._exit(1)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    if what == "hang":
        time.sleep(3600)
    if what == "freeze":  # all of the process, as one does that waits for a dead disk
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(3600)
    if what == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "/out/x.png")
    if what == "rights":
        raise OSError("When uploading: AWS Error ACCESS_DENIED during PutObject operation: Access Denied.")
    errors = {
        "raise": ValueError("a poor\nitem"),
        "memory": MemoryError(),
        "unpicklable": Unpicklable(),
        "not read back": NotReadBack(1, 2),
        "wrong input": CheckpointError("w.pt: 3 tensors are missing; give the right config"),
        "locked settings": LockedSettings(),
    }
    raise errors[what]


@dataclass
class Work:
    """A unit of numbered items; ``poison`` says in which phase what befalls which item."""

    items: list[int]
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    poison: dict[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "items " + ",".join(map(str, self.items))

    def _phase(self, which: int, name: str) -> tuple[float, float]:
        begun = time.monotonic()  # one clock for all processes of a machine
        time.sleep(self.seconds[which])
        for item in self.items:
            phase, what = self.poison.get(item, ("", ""))
            if phase == name:
                suffer(what)
        return begun, time.monotonic()

    def load(self) -> dict:
        return {"load": self._phase(0, "load")}

    def compute(self, context: Any, loaded: dict) -> dict:
        return loaded | {"compute": self._phase(1, "compute"), "context": context}

    def save(self, computed: dict) -> dict:
        return computed | {"save": self._phase(2, "save"), "pid": os.getpid()}

    def split(self) -> list[Work]:
        half = len(self.items) // 2
        if not half:
            return []
        return [Work(part, self.seconds, self.poison) for part in (self.items[:half], self.items[half:])]


@dataclass
class Meeting(Work):
    """A unit that leaves a mark in ``folder`` as each of its phases begins, ``compute 3`` for the one of item 3.

    A phase that is in ``waits`` goes on once there is the mark that it names. So units of several processes, or of
    several threads, meet on a machine of any speed; where they can't, one of them fails after a long time.
    """

    folder: str = ""
    waits: dict[str, str] = field(default_factory=dict)

    def _phase(self, which: int, name: str) -> tuple[float, float]:
        Path(self.folder, f"{name} {self.items[0]}").touch()
        if name in self.waits:
            wait_for_file(Path(self.folder, self.waits[name]))
        return super()._phase(which, name)


@dataclass
class Noticed(Work):
    """Units of which the first to compute asks its own process to end, and goes on until the driver has heard of it.

    Then there is a file ``leaving`` in ``folder``; the others compute without waiting.
    """

    folder: str = ""

    def compute(self, context: Any, loaded: dict) -> dict:
        try:
            Path(self.folder, "asked").touch(exist_ok=False)
            is_first = True
        except FileExistsError:
            is_first = False
        if is_first:
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for_file(Path(self.folder, "leaving"))
        return super().compute(context, loaded) | {"is_first": is_first}


def wait_for_file(file: Path) -> None:
    """Until there is one; TimeoutError after a long time."""
    give_up = time.monotonic() + 120
    while not file.exists():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{file.name} has never come")
        time.sleep(0.01)


def blocks(n: int, size: int = 4, **options) -> list[Work]:
    return [Work(list(range(i * size, (i + 1) * size)), **options) for i in range(n)]


def check_each_once(outcomes: list[Outcome], n: int, failed: set[int] = frozenset()) -> None:
    counts = Counter(item for outcome in outcomes for item in outcome.unit.items)
    assert counts == Counter(range(n))
    assert {item for outcome in outcomes if outcome.error for item in outcome.unit.items} == failed


class Events(list):
    def __call__(self, name, /, **fields):
        self.append((name, fields))

    def named(self, name: str) -> list[dict]:
        return [fields for found, fields in self if found == name]
