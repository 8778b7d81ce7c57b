"""What a run writes of itself, ``job.yaml`` and ``events/``: nothing before the run has begun to change the output.

A run that is refused has changed nothing, so it must not replace the job of the run that did.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from pipeline.jobfile.schema import Job
from pipeline.monitoring.events import EventLog
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place


class Journal:
    """Keeps the events of a run in memory until :meth:`begin`, and writes them from then on."""

    def __init__(self, output: Place, job: Job) -> None:
        self._output = output
        self._job = job
        self._early: list[tuple[datetime, str, dict[str, Any]]] = []
        self._events: EventLog | None = None

    def log(self, name: str, /, **fields: Any) -> None:
        """Note an event, with the time of now."""
        if self._events is None:
            self._early.append((datetime.now(UTC), name, fields))
        else:
            self._events.log(name, **fields)

    def begin(self) -> None:
        """Write the job and the events so far, once. Call it before each first change to the output."""
        if self._events is not None:
            return
        OutputLayout(self._output).job.write_bytes(self._job.to_yaml().encode())
        events = EventLog(self._output, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
        for event in self._early:
            events.write(*event)
        self._events = events

    def close(self, refused: bool) -> None:
        """End the log. A run that was ``refused`` before it began leaves none."""
        if not refused:
            self.begin()
        if self._events is not None:
            self._events.close()
