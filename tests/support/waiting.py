"""Waiting for an event rather than for a time: tests must pass on a machine of any speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds after which what has not happened never will, also on a machine that is many times slower than usual.
NEVER = 120.0


def wait_for(happened: Callable[[], T], within: float = NEVER) -> T:
    """Look again and again until something is true, and return that; AssertionError where it never is."""
    give_up = time.monotonic() + within
    while not (value := happened()):
        assert time.monotonic() < give_up, "it has not happened"
        time.sleep(0.02)
    return value
