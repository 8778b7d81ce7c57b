"""Asks a Ray cluster whether it lets this process in. A program, that :mod:`pipeline.workers.ray_address` starts.

Ray's client writes to the terminal, waits long, and knows one way of authentication for the life of its process; so the
question is asked by a process of its own. It prints one line: ``ok``, ``refused`` or ``failed REASON``.
"""

from __future__ import annotations

import sys


def _ask(address: str) -> str:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    try:
        GcsClient(address=address).check_alive([], timeout=10)
    except AuthenticationError:
        return "refused"
    except Exception as error:  # noqa: BLE001 - whatever it is, the run that asked can't join
        return f"failed {' '.join(str(error).split())[:200] or type(error).__name__}"
    return "ok"


if __name__ == "__main__":
    print(_ask(sys.argv[1]), flush=True)
