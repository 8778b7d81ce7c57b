"""A store that has not answered this process yet: asked for seconds instead of minutes, and the wait is told.

A store that has answered comes back, and a night waits for it (``objects.py``). One whose address is mistyped, or that
the network does not lead to, never answers.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.storage.errors import NeverAnswered, StoreError

log = logging.getLogger(__name__)

#: Seconds for which a store that never answered is asked, and after which a line says so.
PATIENCE = 20.0
TOLD_AFTER = 5.0

_LONGEST_PAUSE = 2.0
_answered: set[tuple[str, str | None]] = set()
_all_expected = False
T = TypeVar("T")


def endpoint(scheme: str) -> str | None:
    """The address of a store that the environment names in place of the scheme's usual one."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") if scheme == "s3" else None


def has_answered(scheme: str) -> bool:
    """Whether the store of a scheme has answered a request of this process, with whatever."""
    return _all_expected or (scheme, endpoint(scheme)) in _answered


def expect_answers() -> None:
    """For a worker that is a process of its own: stores have answered its driver, so it waits for them as for those."""
    global _all_expected
    _all_expected = True


def first_answer(scheme: str, address: str, ask: Callable[[], T]) -> T:
    """Ask a store that has not answered yet, until it does.

    Args:
        scheme: Of the store.
        address: What is asked for.
        ask: One request, without repetitions until the store has answered, and with them afterwards.

    Returns:
        What ``ask`` returns.

    Raises:
        NeverAnswered: Nothing answered within PATIENCE.
        Exception: As ``ask``.
    """
    began, pause = time.monotonic(), 0.1
    notice = threading.Timer(TOLD_AFTER, _tell, (scheme, address))
    notice.daemon = True
    notice.start()
    try:
        while True:
            try:
                value = ask()
                break
            except StoreError as error:
                if error.answered:
                    _answered.add((scheme, endpoint(scheme)))
                    return ask()
                left = began + PATIENCE - time.monotonic()
                if left <= 0:
                    why = str(error).removeprefix(f"{address}: ")
                    raise NeverAnswered(f"{address}: no answer in {PATIENCE:.0f} s ({why}); {_cure(scheme)}") from error
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE)
            except Exception:  # there is no such object, or the store refuses
                _answered.add((scheme, endpoint(scheme)))
                raise
    finally:
        notice.cancel()
    _answered.add((scheme, endpoint(scheme)))
    return value


def _tell(scheme: str, address: str) -> None:
    where = endpoint(scheme)
    log.warning("waiting for %s%s, which has not answered yet", address, f" at {where}" if where else "")


def _cure(scheme: str) -> str:
    if endpoint(scheme):
        return "check the address in AWS_ENDPOINT_URL and the network"
    names = "AWS_REGION and the credentials (AWS_*)" if scheme == "s3" else "the credentials (GOOGLE_*)"
    return f"check the network, {names}"
