"""Weights on S3 or GCS: read into the part of a download, and asked whether they are still the same object."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs

from diffstyle.errors import one_line
from pipeline.models.fetch_errors import FullDiskError, InterruptedFetchError, NotFoundError, RefusedError
from pipeline.models.records import beside, read_json
from pipeline.storage.errors import fatal, unanswered
from pipeline.storage.place import Place

_CHUNK = 8 << 20


def object_mark(address: str) -> str:
    """What tells this version of an object from another: its size and when it was written.

    Raises:
        NotFoundError: there is no such object.
        RefusedError: it is a folder, or the store refuses this process.
        InterruptedFetchError: the store can't be reached.
    """
    place = Place.parse(address)
    try:
        info = place.fs.get_file_info(place.path)
    except OSError as error:
        raise _in_our_words(address, error) from error
    if info.type == pafs.FileType.NotFound:
        raise NotFoundError(f"{address}: no such file there; check the address of the weights")
    if info.type != pafs.FileType.File:
        raise RefusedError(f"{address}: is a folder; give the address of the file with the weights")
    return f"{info.size} {info.mtime_ns}"


def fetch_object(address: str, part: Path, size: int | None, progress: Callable[[int, int], None]) -> None:
    """Fill a part until it is the whole object; what is there of the same version stays.

    Args:
        address: ``s3://...`` or ``gs://...``.
        part: where its bytes go.
        size: that its config names, in bytes; None: none.
        progress: called with the bytes there and those in all.

    Raises:
        FetchError: with the reason, and what to do.
    """
    mark = object_mark(address)
    total = int(mark.partition(" ")[0])
    if size is not None and total != size:
        raise RefusedError(f"{address}: the file has {total:,} bytes, not {size:,} as its config says; check both")
    noted = {"url": address, "mark": mark}
    have = part.stat().st_size if part.exists() and read_json(beside(part, ".json")) == noted else 0
    if total - have > shutil.disk_usage(part.parent).free:
        raise _full(address, part)
    Place.parse(beside(part, ".json")).write_bytes(json.dumps(noted).encode())
    try:
        with Place.parse(address).open() as source, part.open("ab" if have else "wb") as stream:
            source.seek(have)
            while block := source.read(_CHUNK):
                stream.write(block)
                have += len(block)
                progress(have, total)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(address, part) from None
        raise _in_our_words(address, error) from error
    if have != total or object_mark(address) != mark:
        part.unlink()
        raise InterruptedFetchError(f"{address}: changed while it was being fetched; run the same command again")


def _in_our_words(address: str, error: OSError) -> InterruptedFetchError | RefusedError:
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{address}: no such file there; check the address of the weights")
    if not unanswered(error) and fatal(error) is not None:
        return RefusedError(
            f"{address}: this machine may not read it ({one_line(error, most=200)}); give it credentials that may"
        )
    return InterruptedFetchError(f"{address}: can't be read now ({one_line(error, most=200)}); run it again")


def _full(address: str, part: Path) -> FullDiskError:
    return FullDiskError(f"{address}: the disk of {part.parent} is full; make room and run the same command again")
