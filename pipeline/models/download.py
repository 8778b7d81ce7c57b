"""Downloading weights into the cache: resumable, once a machine, and known by their hash from the first time on.

Plain addresses are fetched here, objects of stores by ``store_download.py``, hub repositories through their own client
(``hub.py``). Of several processes that want the same file one fetches it and the others wait. A download under way is
``FILE.part`` with ``FILE.part.json`` (the address and the server's mark of that version); a finished one is ``FILE``
with its record (``records.py``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from diffstyle.diffusers_files import folder_weights
from diffstyle.errors import CheckpointError, ConfigError
from pipeline.models.config import STORES, ModelConfig, Weights
from pipeline.models.fetch_errors import FetchError, FullDiskError, InterruptedFetchError, NotFoundError, RefusedError
from pipeline.models.hub import fetch_repository, is_complete
from pipeline.models.records import beside, check_record, read_json, read_record, record_place, write_record
from pipeline.models.store_download import fetch_object
from pipeline.models.weights import cache_place
from pipeline.storage.identity import file_hash
from pipeline.storage.place import Place

#: Called with a file's name, bytes there, and bytes in all (None: the server does not say).
Progress = Callable[[str, int, int | None], None]

_CHUNK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte
_TRIES = 3  # that bring nothing; a cut connection that brought some bytes costs none
_PAUSE = 1.0  # seconds before the next try


def fetch_model(config: ModelConfig, progress: Progress | None = None) -> Path:
    """Download a model's weights into the cache, or go on with a download that was cut; returns where they are.

    Weights that are there already are checked against their record and not fetched again.

    Raises:
        ConfigError: the model has no address to fetch from.
        FetchError: with the reason, and what to do.
    """
    weights, place = config.weights, cache_place(config)
    if weights.url or weights.hub:
        return fetch_weights(weights, place, progress)
    if weights.page:
        note = f" ({weights.note})" if weights.note else ""
        raise ConfigError(
            f"{config.name} has no address that a program may fetch from; download {weights.file} by hand from "
            f"{weights.page}{note} and put it at {place}"
        )
    raise ConfigError(f"{config.name} names its own weights ({weights.path}); there is nothing to fetch")


def fetch_weights(weights: Weights, place: Path, progress: Progress | None = None, wait: bool = False) -> Path:
    """Fetch weights from their address, or check those that are there already; returns where they are.

    Args:
        weights: with an address: ``url`` or ``hub``.
        place: where they belong.
        progress: called with what is there so far.
        wait: wait for another process of this machine that fetches them; else that is an error.

    Raises:
        FetchError: with the reason, and what to do.
    """
    if weights.hub:
        if is_complete(place):
            return fetch_repository(weights, place)
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place, wait):
            return fetch_repository(weights, place)
    assert weights.url is not None
    try:
        return _fetched(weights.url, place, weights.sha256, weights.size, progress, wait)
    except RefusedError as error:
        by_hand = f"; {weights.page} may say more, the file belongs at {place}" if weights.page else ""
        raise type(error)(f"{error}{by_hand}") from None


def check_cached(config: ModelConfig) -> None:
    """Make sure that cached weights are those that were fetched, or first seen; costs a look at size and time only.

    Where size or time differ from the record, or there is none yet, the file is hashed once and the record renewed.

    Raises:
        CheckpointError: the content is another one.
    """
    place = cache_place(config)
    files = [place] if place.is_file() else [file for file in folder_weights(place) if file.is_file()]
    for file in files:
        check_record(file, config.weights.sha256 if len(files) == 1 else None, url=None)


# ---- one file ----


@dataclass(frozen=True)
class _Expected:
    """What tells a whole file from a cut one, beside what the server says: its size, or a hash to compare with."""

    size: int | None
    hashed: bool


def _fetched(
    url: str, target: Path, sha256: str | None, size: int | None, progress: Progress | None, wait: bool
) -> Path:
    if target.exists():
        return _checked(url, target, sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = beside(target, ".part")
    with _locked(target, wait):
        if target.exists():  # another process has fetched it meanwhile
            return _checked(url, target, sha256)
        known = sha256 or read_record(target).get("sha256")
        _download(url, part, _Expected(size, known is not None), progress)
        seen = file_hash(part)
        if known and seen != known:
            source = "its config or the job says" if sha256 else "it had when it was first fetched"
            _discard(part)
            raise FetchError(
                f"{url}: the file has sha256 {seen}, not {known} as {source}; it was thrown away. If the new one is "
                f"right, {'change the hash there' if sha256 else f'delete {record_place(target)}'} and fetch again"
            )
        mark = read_json(beside(part, ".json")).get("mark") if url.startswith(STORES) else None
        # The record before the file: whoever sees the file finds what it must be.
        write_record(part, seen, url, mark=mark, of=target)
        part.replace(target)
        beside(part, ".json").unlink(missing_ok=True)
    return target


def _checked(url: str, target: Path, sha256: str | None) -> Path:
    try:
        check_record(target, sha256, url)
    except CheckpointError as error:
        raise FetchError(str(error)) from None
    return target


def _download(url: str, part: Path, expected: _Expected, progress: Progress | None) -> None:
    """Fill the part until it is whole."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _transfer(url, part, expected, progress)
            return
        except FullDiskError:
            raise
        except InterruptedFetchError:
            grown = part.exists() and part.stat().st_size > before
            failures = 0 if grown else failures + 1
            if failures >= _TRIES:
                raise
            time.sleep(_PAUSE)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise FullDiskError(_full(url, part)) from None


def _transfer(url: str, part: Path, expected: _Expected, progress: Progress | None) -> None:
    """One request, appending to the part. Returns when the file is whole."""
    if url.startswith(STORES):
        name = part.name.removesuffix(".part")
        fetch_object(url, part, expected.size, lambda done, total: progress(name, done, total) if progress else None)
        return
    have, mark = _resumable(url, part)
    headers = {"User-Agent": "diffstyle", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": mark}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as reply:
            _receive(url, part, reply, have, expected, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing lies beyond what is here: it was whole, or it is no part of this
            if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
                return
            _discard(part)
            raise InterruptedFetchError(
                f"{url}: changed while it was being fetched; run the same command again"
            ) from None
        if error.code in (404, 410):
            raise NotFoundError(
                f"{url}: no such file there (HTTP {error.code}); the model's config may be out of date"
            ) from None
        kind = InterruptedFetchError if error.code >= 500 or error.code == 429 else RefusedError
        raise kind(f"{url}: the server refuses (HTTP {error.code} {error.reason}){_kept(part)}") from None
    except urllib.error.URLError as error:
        raise InterruptedFetchError(f"{url}: cannot be reached ({_reason(error.reason)}){_kept(part)}") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise InterruptedFetchError(f"{url}: the connection was cut ({_reason(error)}){_kept(part)}") from None


def _receive(
    url: str,
    part: Path,
    reply: http.client.HTTPResponse,
    have: int,
    expected: _Expected,
    progress: Progress | None,
) -> None:
    resumed = reply.status == 206 and reply.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    start = have if resumed else 0
    length = reply.headers.get("Content-Length", "").strip()
    total = start + int(length) if length.isascii() and length.isdigit() else None
    first = reply.read(_CHUNK)
    page = reply.headers.get_content_type() == "text/html" or first.lstrip()[:9].lower() in (b"<!doctype", b"<html>")
    if page and not resumed:
        raise RefusedError(
            f"{url}: gives a web page, not a file{_kept(part)}; open it in a browser to see what it wants"
        )
    if total is None and not reply.chunked and expected.size is None and not expected.hashed:
        stated = f"a length of {length!r}" if length else "no length"
        raise RefusedError(
            f"{url}: the server states {stated}, so that a cut could not be told from the end of the file"
            f"{_kept(part)}; add weights.size or weights.sha256 to the model's config, or download it by hand"
        )
    if total is None:
        total = expected.size
    elif expected.size is not None and total != expected.size:
        raise RefusedError(
            f"{url}: the server's file has {total:,} bytes, not {expected.size:,} as its config says; check both"
        )
    if total is not None and total - start > shutil.disk_usage(part.parent).free:
        raise FullDiskError(_full(url, part, total - start))
    mark = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
    Place.parse(beside(part, ".json")).write_bytes(json.dumps({"url": url, "mark": mark}).encode())
    done = start
    with part.open("ab" if resumed else "wb") as stream:
        block = first
        while block:
            _append(stream, block)
            done += len(block)
            if progress:
                progress(part.name.removesuffix(".part"), done, total)
            block = reply.read(_CHUNK)
        stream.flush()
        os.fsync(stream.fileno())
    if total is not None and done < total:
        raise InterruptedFetchError(f"{url}: the connection was cut after {done:,} of {total:,} bytes{_kept(part)}")


def _append(stream: IO[bytes], block: bytes) -> None:
    stream.write(block)


def _resumable(url: str, part: Path) -> tuple[int, str]:
    """How many bytes of the part can stay, and the server's mark of the version they are from."""
    if not part.exists():
        return 0, ""
    noted = read_json(beside(part, ".json"))
    mark = str(noted.get("mark", ""))
    # A weak mark names no exact bytes; without a mark a changed file would be joined to the old one's beginning.
    usable = noted.get("url") == url and mark and not mark.startswith("W/")
    return (part.stat().st_size, mark) if usable else (0, "")


@contextlib.contextmanager
def _locked(target: Path, wait: bool = False) -> Iterator[None]:
    """Hold the right to fetch a file on this machine.

    Args:
        target: the file, or a folder.
        wait: wait for another process that holds it; else that is an error.
    """
    lock = target.with_name(f".{target.name}.lock")  # stays: removing it would let two processes lock two files
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise FetchError(f"{target}: another process is fetching it; wait for that one to end") from None
        yield


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    beside(part, ".json").unlink(missing_ok=True)


# ---- words ----


def _kept(part: Path) -> str:
    size = part.stat().st_size if part.exists() else 0
    return f"; {size:,} bytes are kept, the same command goes on from there" if size else ""


def _full(url: str, part: Path, wanted: int | None = None) -> str:
    amount = f"{wanted:,} more bytes are needed" if wanted else "it needs more space"
    return f"{url}: the disk of {part.parent} is full, {amount}{_kept(part)}"


def _reason(error: object) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
