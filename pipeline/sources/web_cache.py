"""Fetched pictures in the cache folder, each with what its server is asked by whether it has changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from pipeline.storage.cache import cache_if_known
from pipeline.storage.errors import reason_of
from pipeline.storage.identity import digest
from pipeline.storage.place import Place

log = logging.getLogger(__name__)

CACHE_BYTES = 10 << 30  # of all that is kept; the oldest goes first
_FOLDERS = 256  # pictures lie by the first two digits of their address's hash

# Headers of a request that asks only for what has changed -> the fact that is sent in them.
_CONDITIONS = {"If-None-Match": "etag", "If-Modified-Since": "modified"}

_unwritable: set[str] = set()  # folders that a warning has named already


@dataclass(frozen=True)
class Kept:
    """A picture of the cache: the facts of :func:`about`, and its bytes."""

    about: dict[str, str]
    data: bytes


def about(address: str, headers: Mapping[str, str], data: bytes) -> dict[str, str]:
    """The facts that are kept beside a picture: its address, tag, time of change, version and hash."""
    etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
    try:
        changed = int(parsedate_to_datetime(modified).timestamp() * 1e9) if modified else 0
    except (TypeError, ValueError, OverflowError):
        changed = 0
    content = digest(data)
    version = f"{len(data)}-{max(changed, 0)}-{digest(etag)[:8] if etag else content[:8]}"
    return {"address": address, "etag": etag, "modified": modified, "version": version, "content": content}


def conditions(picture: Kept) -> dict[str, str]:
    """The headers of a request to which a server answers 304 where the picture is still the same."""
    return {header: picture.about[key] for header, key in _CONDITIONS.items() if picture.about.get(key)}


def cache_file(address: str) -> Place | None:
    """The file that keeps the picture of an address; None where no folder for a cache is known."""
    name = digest(address)
    cache = cache_if_known()
    return Place.parse(cache / "pictures" / name[:2] / name) if cache else None


def kept(address: str) -> Kept | None:
    """What is kept of an address, if it is whole: a line of JSON, then the bytes."""
    file = cache_file(address)
    if file is None:
        return None
    try:
        line, _, data = file.read_bytes().partition(b"\n")
        facts = json.loads(line)
    except (OSError, ValueError):
        return None
    if not isinstance(facts, dict) or facts.get("address") != address or facts.get("content") != digest(data):
        return None
    return Kept(facts, data)


def keep(facts: dict[str, str], data: bytes) -> None:
    """Keep a picture if its server gives something to ask by whether it has changed. A full disk ends nothing."""
    if not (facts["etag"] or facts["modified"]):
        return
    file = cache_file(facts["address"])
    if file is None:
        return
    try:
        neighbours = sorted(file.parent.list(), key=lambda entry: entry.mtime_ns)
        size = sum(entry.size for entry in neighbours) + len(data)
        for entry in neighbours:
            if size <= CACHE_BYTES / _FOLDERS:
                break
            entry.place.delete()
            size -= entry.size
        file.write_bytes(json.dumps(facts).encode() + b"\n" + data)
    except OSError as error:
        pictures = str(file.parent.parent)
        if pictures not in _unwritable:
            _unwritable.add(pictures)
            log.warning(f"{pictures}: fetched pictures are not kept ({reason_of(error)}); the run goes on")
