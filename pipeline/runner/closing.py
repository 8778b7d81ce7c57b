"""What a run says to machines when it ends, however it ends: a summary as JSON, in a file or to a web address."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import diffstyle
from pipeline.monitoring.summary import RunCounts
from pipeline.storage.errors import EXIT_DONE, how_it_ended
from pipeline.storage.masking import masked

log = logging.getLogger(__name__)

# How often a web address is asked to take the summary, how long each may take, and the pause between, in seconds.
_TRIES, _PATIENCE, _PAUSE = 3, 10.0, 2.0


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
    draft = file.with_name(f".{file.name}.draft")
    try:
        draft.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        log.warning("--summary %s can't be written (%s)", file, error.strerror)


def _post(address: str, summary: dict[str, Any]) -> None:
    import requests

    host = urlsplit(address).hostname  # the rest of such an address is a secret
    why = ""
    for number in range(_TRIES):
        try:
            answer = requests.post(address, json=summary, timeout=_PATIENCE, allow_redirects=False)
            if answer.ok:
                return
            why = f"it answered {answer.status_code}"
            if answer.status_code < 500:
                break
        except requests.RequestException as error:
            why = type(error).__name__
        if number + 1 < _TRIES:
            time.sleep(_PAUSE)
    log.warning("the webhook on %s did not take the summary (%s)", host, why)
