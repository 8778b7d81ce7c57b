"""Where the summary of a run may go: what is refused before the run, so that no file is lost and no time."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from diffstyle.errors import ConfigError
from pipeline.storage.errors import reason_of
from pipeline.storage.place import Place

#: What every summary holds, the earlier ones too: by these a file is known as one.
SUMMARY_KEYS = frozenset({"exit_code", "outcome", "output", "began", "ended", "diffstyle"})
_LARGEST = 16 << 20  # bytes; a larger file is no summary


def summary_file(text: str, job: str | os.PathLike[str], output: str | None) -> Path:
    """The file that ``--summary`` names, once it is sure that writing it loses nothing.

    Args:
        text: As it was given.
        job: The job file, or the name of a ready job.
        output: The output folder or address; None: not known.

    Raises:
        ConfigError: Empty, a folder, the job file, inside the output folder, in a folder that is missing or can't be
            written, or a file that holds something else than a summary.
    """
    if not text.strip() or "\0" in text:
        raise ConfigError("--summary: give the name of a file to write")
    file = Path(os.path.realpath(text))
    if os.path.exists(text) and os.path.exists(job) and os.path.samefile(text, job):  # noqa: PTH110, PTH121 - long names
        raise ConfigError(f"--summary {text}: is the job file; give another name")
    place = None if output is None else Place.parse(output)
    if place is not None and place.is_local and file.is_relative_to(os.path.realpath(place.path)):
        raise ConfigError(f"--summary {text}: is inside the output folder {output}; give a file outside of it")
    refuse_other_file(text)
    return Path(text)


def refuse_other_file(text: str | os.PathLike[str]) -> None:
    """Refuse what a summary can't be written to, and a regular file that holds something else than a summary.

    Raises:
        ConfigError: One line that names the file and what to do.
    """
    name = f"--summary {os.fspath(text)}"
    file = Path(os.path.realpath(text))
    try:
        status = os.stat(text)  # noqa: PTH116 - not of `file`: /dev/fd/3 may lead to a pipe, which has no path
    except FileNotFoundError:
        _refuse_parent(name, file.parent)
        return
    except OSError as error:
        raise ConfigError(f"{name}: can't be written ({reason_of(error)}); give another name") from None
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{name}: is a folder; give the name of a file")
    if is_standard_stream(status):
        return
    if not stat.S_ISREG(status.st_mode):
        if not os.access(text, os.W_OK):
            raise ConfigError(f"{name}: can't be written (no permission); give another name")
        return
    _refuse_parent(name, file.parent)
    if status.st_size and not _is_summary(file, status.st_size):
        raise ConfigError(f"{name}: that file is there and is no earlier summary; give another name, or move it away")


def is_standard_stream(status: os.stat_result) -> bool:
    """Whether a file is what this process writes its output or its messages to."""
    return standard_stream(status) is not None


def standard_stream(status: os.stat_result) -> int | None:
    """1 or 2 where a file is this process's output or messages, as /dev/stdout is; else None."""
    for number in (1, 2):
        try:
            if os.path.samestat(status, os.fstat(number)):
                return number
        except OSError:  # closed
            continue
    return None


def check_webhook(address: str) -> None:
    """Refuse an address that nothing can be sent to. The message does not hold it: such an address is a secret.

    Raises:
        ConfigError: It is no http or https address.
    """
    import requests

    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        if usable:
            requests.Request("POST", address).prepare()
    except (ValueError, requests.RequestException):  # a port or a host that is none
        usable = False
    if not usable:
        raise ConfigError("--webhook (or DIFFSTYLE_WEBHOOK): is no web address; give it as https://HOST/PATH")


def _refuse_parent(name: str, folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{name}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{name}: the folder {folder} can't be written; give another one")


def _is_summary(file: Path, size: int) -> bool:
    if size > _LARGEST:
        return False
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.keys() >= SUMMARY_KEYS
