"""A worker as an actor of Ray: a process of its own, which may be asked to end before its work is done.

It is asked by SIGTERM, as where a node is taken back or a batch system ends a job, or by the driver, where its node is
draining. What it computes then it may finish within a grace; what it has not begun it hands back; nothing is written by
halves, since a file appears whole and counts only once the driver has committed it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.storage.first_answer import expect_answers
from pipeline.storage.place import Fence, Place
from pipeline.workers.actor import Worker
from pipeline.workers.unit import Failure

#: Seconds from being asked to end until the process ends itself. Slurm and Kubernetes kill after 30 by default.
GRACE = 20.0


class RayWorker(Worker):
    """A :class:`Worker` that heeds notices; made by Ray, so in the main thread of its process."""

    def __init__(
        self, make_context: Callable[[], Any] | None, threads: int | None, fences: Mapping[Place, Fence]
    ) -> None:
        super().__init__(make_context, threads, fences)
        expect_answers()
        if threading.current_thread() is threading.main_thread():
            # In place of Ray's own handler, which ends the process and what other units it had at once.
            signal.signal(signal.SIGTERM, lambda number, frame: self.leave())

    def setup(self) -> dict[str, Any] | Failure:
        """As :meth:`Worker.setup`, with the node that it runs on."""
        import ray

        started = super().setup()
        if isinstance(started, Failure):
            return started
        return {**started, "node": ray.get_runtime_context().get_node_id()}

    def leave(self) -> None:
        """Finish what is computed and written now, hand back all else, and end within the grace."""
        if not self.asked_to_end.is_set():
            self.asked_to_end.set()
            threading.Thread(target=_end_later, daemon=True).start()

    def until_asked_to_end(self) -> None:
        """Returns once this process is asked to end, so that its driver hears of it."""
        self.asked_to_end.wait()


def _end_later() -> None:
    time.sleep(GRACE)
    os._exit(0)
