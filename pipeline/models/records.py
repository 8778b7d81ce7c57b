"""What was noted of a fetched file: ``FILE.fetched.json`` with its address, hash, size and time of change.

The record outlives its file: what is fetched again later must have the same hash.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from diffstyle.errors import CheckpointError
from pipeline.storage.identity import file_hash
from pipeline.storage.place import Place


def check_record(file: Path, sha256: str | None, url: str | None) -> None:
    """Compare a file with its hash, and note it where it is new. CheckpointError where the content is another one."""
    record, stat = read_record(file), file.stat()
    if sha256 in (None, record.get("sha256")) and _stamp(stat) == (record.get("size"), record.get("mtime_ns")):
        return
    seen, known = file_hash(file), sha256 or record.get("sha256")
    if known and seen != known:
        source = "its config or the job says" if sha256 else "when it was first seen"
        own = "" if sha256 else f", or delete {record_place(file).name} beside it if the change was yours"
        raise CheckpointError(
            f"{file}: its sha256 is {seen}, not {known} as {source}; delete the file and fetch it again{own}"
        )
    write_record(file, seen, url or record.get("url"), mark=record.get("mark"))


def write_record(file: Path, sha256: str, url: Any, mark: str | None = None, of: Path | None = None) -> None:
    """Note a file's hash, size and time beside it.

    Args:
        file: the file.
        sha256: its hash.
        url: where it is from.
        mark: what tells this version of it from another at that address.
        of: the name that the file is about to get; None: it has its name.
    """
    size, mtime_ns = _stamp(file.stat())
    record = {"url": url, "sha256": sha256, "size": size, "mtime_ns": mtime_ns} | ({"mark": mark} if mark else {})
    try:
        Place.parse(record_place(of or file)).write_bytes((json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        # A cache that several machines share may be read-only: the hash was checked, it only cannot be remembered.
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise


def read_record(file: Path) -> dict[str, Any]:
    """What was noted of a file; empty where nothing was."""
    return read_json(record_place(file))


def record_place(file: Path) -> Path:
    """Where a file's record lies."""
    return beside(file, ".fetched.json")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON mapping; empty where there is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _stamp(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def beside(file: Path, ending: str) -> Path:
    """The file with a longer name."""
    return file.with_name(file.name + ending)
