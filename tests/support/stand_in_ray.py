"""What a pool uses of Ray, in this process: actors are objects, their calls threads. For how a pool decides, quickly.

That real actors, signals and deaths are as here is for the tests on a real Ray.
"""

from __future__ import annotations

import concurrent.futures
import threading
import types
from typing import Any


class RayError(Exception):
    """The base of all."""


_ERRORS = (
    *("RayTaskError", "RaySystemError", "UnserializableException", "LocalRayletDiedError"),
    *("ActorUnavailableError", "ObjectLostError", "NodeDiedError", "ActorDiedError"),
)


class _Method:
    def __init__(self, actor: StandInActor, name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *values: Any) -> concurrent.futures.Future[Any]:
        reply: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._actor.replies.append(reply)

        def call() -> None:
            value = getattr(self._actor.made, self._name)(*values)
            if not reply.done():
                reply.set_result(value)

        threading.Thread(target=call, daemon=True).start()
        return reply


class StandInActor:
    """An actor; ``made`` is the object itself."""

    def __init__(self, kind: type, values: tuple[Any, ...]) -> None:
        self.replies: list[concurrent.futures.Future[Any]] = []
        made: list[Any] = []
        making = threading.Thread(
            target=lambda: made.append(kind(*values))
        )  # not in the main thread, which has signals
        making.start()
        making.join()
        self.made = made[0]

    def __getattr__(self, name: str) -> _Method:
        return _Method(self, name)

    def die(self, error: Exception) -> None:
        """As when its process ends: what it was at gets no reply."""
        for reply in self.replies:
            if not reply.done():
                reply.set_exception(error)


def stand_in_ray(node: str = "a-node") -> Any:
    """A module to take the place of ``ray``."""
    ray: Any = types.ModuleType("ray")
    ray.exceptions = types.SimpleNamespace(RayError=RayError, **{name: type(name, (RayError,), {}) for name in _ERRORS})
    ray.is_initialized = lambda: True
    ray.get_runtime_context = lambda: types.SimpleNamespace(get_node_id=lambda: node)
    ray.get = lambda reply, timeout=None: reply.result(timeout)
    ray.kill = lambda actor: actor.die(ray.exceptions.ActorDiedError("killed"))

    class Remote:
        def __init__(self, kind: type) -> None:
            self._kind = kind

        def options(self, **options: Any) -> Remote:
            return self

        def remote(self, *values: Any) -> StandInActor:
            return StandInActor(self._kind, values)

    def wait(replies: list[Any], num_returns: int = 1, timeout: float | None = None) -> tuple[list[Any], list[Any]]:
        concurrent.futures.wait(replies, timeout, concurrent.futures.FIRST_COMPLETED)
        ready = [reply for reply in replies if reply.done()][:num_returns]
        return ready, [reply for reply in replies if reply not in ready]

    ray.remote, ray.wait = Remote, wait
    return ray
