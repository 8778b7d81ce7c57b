"""What a run says to machines when it ends, however it ends: a summary as JSON, in a file or to a web address."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

import diffstyle
from diffstyle.errors import ConfigError
from pipeline.monitoring.summary import RunCounts
from pipeline.runner.closing_checks import refuse_other_file, standard_stream
from pipeline.storage.errors import EXIT_DONE, how_it_ended, reason_of
from pipeline.storage.masking import masked

log = logging.getLogger(__name__)

# How often a web address is asked to take the summary; how long a connection may be silent, the pause between two
# attempts, and how long all of them may take together, in seconds.
_TRIES, _PATIENCE, _PAUSE, _DEADLINE = 3, 10.0, 2.0, 30.0


@dataclass
class Closing:
    """What is known of a run so far; :func:`told_at_the_end` writes it.

    Attributes:
        output: The output folder, as the job names it.
        counts: Of the run, filled as it goes on.
        exit_code: Of a run that returned.
    """

    output: str | None = None
    counts: RunCounts = field(default_factory=RunCounts)
    exit_code: int | None = None
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def summary(self, error: BaseException | None) -> dict[str, Any]:
        """The summary, its secrets masked."""
        outcome, code = how_it_ended(error, EXIT_DONE if self.exit_code is None else self.exit_code)
        values = {
            "exit_code": code,
            "outcome": outcome,
            "output": self.output,
            "began": self.began.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "diffstyle": diffstyle.__version__,
            **self.counts.figures(),
        }
        masked_values: dict[str, Any] = json.loads(masked(json.dumps(values, default=str)))
        return masked_values


@contextmanager
def told_at_the_end(file: Path | None, webhook: str | None) -> Iterator[Closing]:
    """Yield what the run fills in; at the end write the summary.

    Args:
        file: Where to write it; None: nowhere.
        webhook: Where to POST it; None: nowhere. That it can't be is a warning: the run is what counts.
    """
    closing = Closing()
    error: BaseException | None = None
    try:
        yield closing
    except BaseException as raised:
        error = raised
        raise
    finally:
        summary = closing.summary(error)
        if file is not None:
            _write(file, summary)
        if webhook is not None:
            _post(webhook, summary)


def _write(file: Path, summary: dict[str, Any]) -> None:
    text = json.dumps(summary, indent=2) + "\n"
    try:
        refuse_other_file(file)  # once more: hours have passed
        status = file.stat() if file.exists() else None
        stream = None if status is None else standard_stream(status)
        if stream is not None:
            click.echo(text, nl=False, err=stream == 2)
        elif status is None or stat.S_ISREG(status.st_mode):
            _replace(Path(os.path.realpath(file)), text)
        else:
            _write_through(file, text)
    except ConfigError as error:
        log.warning("%s", error)
    except OSError as error:
        log.warning("--summary %s can't be written (%s)", file, reason_of(error))


def _replace(file: Path, text: str) -> None:
    draft = file.with_name(f".summary-{uuid.uuid4().hex}.draft")
    try:
        with draft.open("x", encoding="utf-8") as stream:
            stream.write(text)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _write_through(file: Path, text: str) -> None:
    """Write to a device or a pipe, which stays what it is; a pipe that nobody reads is an OSError, not a wait."""
    number = os.open(file, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    with open(number, "w", encoding="utf-8") as stream:  # noqa: PTH123 - it is open already
        stream.write(text)


def _post(address: str, summary: dict[str, Any]) -> None:
    """Send the summary. Whatever the server does, this ends after _DEADLINE seconds: a thread does the waiting."""
    host = urlsplit(address).hostname  # the rest of such an address is a secret
    ends = time.monotonic() + _DEADLINE
    why = ""
    for number in range(_TRIES):
        left = ends - time.monotonic()
        if left <= 0:
            break
        answer: Future[tuple[str, bool]] = Future()
        threading.Thread(target=_attempt, args=(answer, address, summary, min(left, _PATIENCE)), daemon=True).start()
        try:
            why, may_retry = answer.result(timeout=left)
        except FutureTimeoutError:
            why, may_retry = f"no whole answer in {_DEADLINE:g} s", False
        if not why:
            return
        if not may_retry:
            break
        if number + 1 < _TRIES:
            time.sleep(min(_PAUSE, max(0.0, ends - time.monotonic())))
    log.warning("the webhook on %s did not take the summary (%s)", host, why)


def _attempt(answer: Future[tuple[str, bool]], address: str, summary: dict[str, Any], patience: float) -> None:
    """One POST: why it failed ("": it did not), and whether trying again can't deliver the summary twice."""
    try:
        answer.set_result(_asked(address, summary, patience))
    except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
        answer.set_exception(error)


def _asked(address: str, summary: dict[str, Any], patience: float) -> tuple[str, bool]:
    import requests
    from urllib3.exceptions import HTTPError, NewConnectionError

    try:
        with requests.post(address, json=summary, timeout=patience, allow_redirects=False, stream=True) as response:
            code = response.status_code  # the body is nobody's concern
    except (requests.RequestException, HTTPError, OSError, ValueError) as error:
        cause = getattr(error.args[0], "reason", None) if error.args else None
        not_sent = isinstance(error, requests.ConnectTimeout) or isinstance(cause, NewConnectionError)
        return type(error).__name__, not_sent
    if 300 <= code < 400:
        return f"it answered {code}, a redirect, which is not followed: give the address that it leads to", False
    return ("", False) if 200 <= code < 300 else (f"it answered {code}", code >= 500)
