"""What a run writes of itself, ``job.yaml`` and ``events/``: nothing before the run has begun to change the output.

A run that is refused has changed nothing, so it must not replace the job of the run that did.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import yaml

from pipeline.jobfile.schema import Job
from pipeline.launch.own_files import named_yaml
from pipeline.monitoring.events import EventLog, read_events
from pipeline.storage.identity import digest
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place

_HEAD = b"# The job as it was last run; hash of what follows: "


def damaged_job(output: Place) -> str | None:
    """What is wrong with the ``job.yaml`` of an output, in one line; None where it is as it was written, or not there.

    One of an earlier release carries no hash: it must be YAML.
    """
    place = OutputLayout(output).job
    if not place.is_file():
        return None
    data = place.read_bytes()
    head, _, text = data.partition(b"\n")
    if data.startswith(_HEAD):
        wrong = head.removeprefix(_HEAD) != digest(text).encode()
    else:
        try:
            wrong = not isinstance(yaml.safe_load(data), dict)
        except (yaml.YAMLError, UnicodeDecodeError):
            wrong = True
    return f"{place}: not as it was written; run the job again, which writes it" if wrong else None


def unreadable_events(output: Place) -> dict[str, int]:
    """Run -> how many lines of its event log can't be read: the run was killed while writing one, or it is damaged."""
    return Counter(event["run"] for event in read_events(output) if event.get("event") == "unreadable_line")


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
        text = named_yaml(self._job).encode()
        OutputLayout(self._output).job.write_bytes(_HEAD + digest(text).encode() + b"\n" + text)
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
