"""The one loop in which a stage commits what its workers made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pipeline.workers.base import Pool
from pipeline.workers.unit import Outcome

#: Called for each outcome once it is committed, with how many of its items were done and how many failed.
OnDone = Callable[[int, int, Outcome], None]


def commit_outcomes(
    pool: Pool | None, units: Iterable[Any], commit: Callable[[Outcome], tuple[int, int]], on_done: OnDone
) -> tuple[int, int]:
    """Run units and commit each one's outcome as it comes.

    Args:
        pool: the workers; None where there is nothing to do.
        units: what to run, in any order.
        commit: makes an outcome count; returns how many of its items were (done, failed).
        on_done: hears of each outcome after it was committed.

    Returns:
        How many items were (done, failed) in all.
    """
    n_done = n_failed = 0
    for outcome in pool.run(units) if pool is not None else ():
        done, failed = commit(outcome)
        n_done, n_failed = n_done + done, n_failed + failed
        on_done(done, failed, outcome)
    return n_done, n_failed
