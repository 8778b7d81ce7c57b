"""How workers and nodes of Ray end: what Ray says of it, in a line, and whether a unit may be to blame."""

from __future__ import annotations

import re
from typing import Any

from pipeline.storage.errors import headline


def why_died(error: BaseException) -> str:
    """Ray's account of a worker's end without the half-page around it."""
    text = " ".join(str(error).split())
    match = re.search(r"Worker exit type: (\w+) Worker exit detail: (.*?)(?: Some common causes.*| In total.*)?$", text)
    if match:
        return f"{match[1]}: {match[2]}"[:300]
    match = re.search(r"The actor (?:is dead|died) because .*", text)
    return match[0][:300] if match else headline(error)


def node_lost(error: BaseException, exceptions: Any) -> bool:
    """Whether a worker went with its node or network, which no unit is to blame for.

    Args:
        error: what Ray raised.
        exceptions: ``ray.exceptions``.
    """
    if isinstance(error, exceptions.ActorUnavailableError | exceptions.ObjectLostError | exceptions.NodeDiedError):
        return True
    return getattr(error, "preempted", False) or "node has died" in str(error)


def draining_nodes() -> set[str]:
    """The ids of the nodes that are about to leave the cluster, in hex."""
    from ray._private.state import state

    # Not a public name: where Ray has renamed it, only SIGTERM tells.
    return set(state.get_draining_nodes()) if hasattr(state, "get_draining_nodes") else set()
