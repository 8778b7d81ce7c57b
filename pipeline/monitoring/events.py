"""The event log of a run: one JSON object a line in ``events/RUN.jsonl``, for machines and for the curious.

No result depends on a log: a value that JSON can't say is written as its ``repr``, secrets are masked, and
trouble with writing is warned of once and never stops the run. On a disk every line is there as soon as it is logged.
An object store has no appending, so there the whole object is written again, at most every 30 s and at the end, by a
thread of its own.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.storage.layout import OutputLayout
from pipeline.storage.masking import masked
from pipeline.storage.place import Place

log = logging.getLogger(__name__)

SUFFIX = ".jsonl"


class EventLog:
    """Writes the events of the run ``run_id`` below ``folder``, after those that an earlier part of it left there.

    A context manager; safe to use from several threads. The lines are ``{"time": ..., "event": NAME, ...fields}``
    with the time in UTC.
    """

    def __init__(self, folder: Place, run_id: str) -> None:
        self.place = OutputLayout(folder).events / f"{run_id}{SUFFIX}"
        self._lock = threading.Lock()
        self._closed = False
        self._warned = False
        self._sink: _File | _Object | None = None
        try:
            self._sink = _File(Path(self.place.path)) if self.place.is_local else _Object(self.place, self._warn)
        except OSError as error:
            self._warn(error)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def log(self, name: str, /, **fields: Any) -> None:
        """Write one event. Fields called ``time`` or ``event`` get an underscore behind their name."""
        self.write(datetime.now(UTC), name, fields)

    def write(self, at: datetime, name: str, fields: Mapping[str, Any]) -> None:
        """As :meth:`log`, for something that happened at ``at``."""
        event = {"time": at.isoformat(timespec="milliseconds"), "event": name}
        for field, value in fields.items():
            event[f"{field}_" if field in event else field] = value
        line = _line(event)
        with self._lock:
            if self._sink is None or self._closed:
                return
            try:
                self._sink.append(line)
            except OSError as error:
                self._warn(error)

    def close(self) -> None:
        """Write what is left. Later events are dropped."""
        with self._lock:
            if self._closed or self._sink is None:
                return
            self._closed = True
        try:
            self._sink.close()
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            log.warning("%s: events can't be written (%s); the run goes on without", self.place, error)


class _File:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Appending in one write each: two threads, or a killed run and its successor, never interleave inside a line.
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":  # the earlier run was killed inside a line
            os.write(self._handle, b"\n")

    def append(self, line: bytes) -> None:
        os.write(self._handle, line)

    def close(self) -> None:
        os.close(self._handle)


class _Object:
    WRITE_EVERY = 30.0

    def __init__(self, place: Place, warn: Any) -> None:
        self._place = place
        self._warn = warn
        self._lines: list[bytes] = []
        self._written = 0
        try:
            self._lines = place.read_bytes().splitlines(keepends=True)
            self._written = len(self._lines)
        except FileNotFoundError:
            pass
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="event-log", daemon=True)
        self._thread.start()

    def append(self, line: bytes) -> None:
        self._lines.append(line)

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self._write()

    def _keep(self) -> None:
        while not self._end.wait(self.WRITE_EVERY):
            try:
                self._write()
            except OSError as error:
                self._warn(error)

    def _write(self) -> None:
        lines = self._lines[:]
        if len(lines) > self._written:
            self._place.write_bytes(b"".join(lines))
            self._written = len(lines)


def run_ids(folder: Place) -> list[str]:
    """The ids of the runs whose events lie below ``folder``, the oldest first."""
    return [entry.place.name.removesuffix(SUFFIX) for entry in OutputLayout(folder).events.list(SUFFIX)]


def read_events(folder: Place, run_id: str | None = None) -> Iterator[dict[str, Any]]:
    """The events below ``folder``, of one run or of all, run by run in the order of their ids, each with its ``run``.

    A last line that is still being written is left out. A line that is no event (a run was killed while writing it)
    comes as ``{"event": "unreadable_line", "text": ...}``.
    """
    for entry in OutputLayout(folder).events.list(SUFFIX):
        run = entry.place.name.removesuffix(SUFFIX)
        if run_id not in (None, run):
            continue
        for line in entry.place.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict):
                yield {"run": run} | event
            elif line.strip():
                yield {"run": run, "event": "unreadable_line", "text": line.decode(errors="replace").strip()[:200]}


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(_plain(event), allow_nan=False).encode() + b"\n"


def _plain(value: Any, depth: int = 0) -> Any:
    """``value`` as JSON can say it; ``repr`` for what it can't."""
    if value is None or type(value) in (bool, int):
        return value
    if isinstance(value, str):
        return masked(str(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, os.PathLike | Place):
        return masked(str(value))
    if depth < 8:  # deeper is a mistake, or a thing that contains itself
        if isinstance(value, Mapping):
            return {masked(str(key)): _plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [_plain(item, depth + 1) for item in value]
        if isinstance(value, set | frozenset):
            return sorted((_plain(item, depth + 1) for item in value), key=repr)
        if is_dataclass(value) and not isinstance(value, type):
            return {field.name: _plain(getattr(value, field.name), depth + 1) for field in fields(value)}
    # Numbers of numpy and tensors of one number.
    if callable(getattr(value, "item", None)):
        try:
            item = value.item()
        except (TypeError, ValueError, RuntimeError):
            return _repr(value)
        return _plain(item, 8)
    return _repr(value)


def _repr(value: Any) -> str:
    try:
        return masked(repr(value))[:1000]
    except Exception as error:  # noqa: BLE001 - a foreign __repr__ may raise anything, and a log must not stop a run
        return f"<{type(value).__name__} without repr: {type(error).__name__}>"
