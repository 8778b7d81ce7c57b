"""WebDataset: pictures as members of tar files, with ``.json``, ``.txt`` and ``.cls`` siblings of the same key.

The driver walks a tar's headers; a worker then reads the members of its block by their offsets. The version of each
picture ends in the number of pictures in its tar: so a tar of which all is known is known without being walked again.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import tarfile
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from pipeline.sources.addresses import files, reaching, version_of
from pipeline.sources.attributes import Naming, plain_text, side_car, text_of
from pipeline.sources.base import (
    MAX_BYTES,
    PICTURE_SUFFIXES,
    Broken,
    Cut,
    Item,
    RawPicture,
    Source,
    SourceError,
    is_picture,
    one_line,
)
from pipeline.storage.identity import source_parts, source_text
from pipeline.storage.place import Entry, Place

_SIDE_CARS = ("json", "txt", "cls")
# Members of a block are read in stretches of at most this many bytes: few requests, little memory.
_STRETCH = 16 << 20
_NEAR = 1 << 20
# Tars on an object store whose headers are read ahead of the work: walking one is mostly waiting.
_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Member:
    """A member's name and where its bytes lie."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class MemberAt:
    """A picture in a tar, with its siblings by extension."""

    tar: Place
    picture: Member
    siblings: tuple[tuple[str, Member], ...]


@dataclass
class Walked:
    """What the headers of one tar say. ``broken``: why the rest of it can't be read."""

    members: list[Member] = field(default_factory=list)
    broken: str | None = None


@dataclass(frozen=True)
class Held:
    """A stretch of a tar in memory; what lies outside it is read from the tar."""

    stream: pa.NativeFile
    begin: int
    data: bytes

    def bytes_of(self, member: Member) -> bytes:
        start = member.offset - self.begin
        if start >= 0 and start + member.size <= len(self.data):
            return self.data[start : start + member.size]
        return self.stream.read_at(member.size, member.offset)


@dataclass(frozen=True)
class TarReader:
    """Reads members of tars."""

    naming: Naming

    def read(self, items: Sequence[Item]) -> Iterator[RawPicture]:
        for tar, group in itertools.groupby(items, lambda item: item.at.tar):
            with reaching(str(tar)), tar.open() as stream:
                for begin, end, stretch in _stretches(list(group)):
                    held = Held(stream, begin, stream.read_at(end - begin, begin))
                    for item in stretch:
                        yield self._one(item, held)

    def _one(self, item: Item, held: Held) -> RawPicture:
        at: MemberAt = item.at
        siblings = {extension: held.bytes_of(member) for extension, member in at.siblings}
        values = side_car(siblings["json"], f"{at.picture.name}: .json") if "json" in siblings else {}
        caption = text_of(siblings["txt"]) if "txt" in siblings else None
        label = text_of(siblings["cls"]) if "cls" in siblings else None
        told = self.naming.sort(values, label, caption)
        data = held.bytes_of(at.picture)
        return RawPicture(item.source, item.version, item.name, data, told.label, told.caption, told.meta)


def _span(item: Item) -> tuple[int, int]:
    """The bytes from the first to the last member of an item, siblings that lie far away left out."""
    at: MemberAt = item.at
    near = [member for _, member in at.siblings if abs(member.offset - at.picture.offset) < _NEAR]
    members = [at.picture, *near]
    return min(member.offset for member in members), max(member.offset + member.size for member in members)


def _stretches(items: list[Item]) -> Iterator[tuple[int, int, list[Item]]]:
    """Neighbouring items with the bytes (begin, end) that hold them all."""
    stretch: list[Item] = []
    begin = end = 0
    for item in items:
        first, last = _span(item)
        if stretch and max(end, last) - min(begin, first) > _STRETCH:
            yield begin, end, stretch
            stretch = []
        begin, end = (min(begin, first), max(end, last)) if stretch else (first, last)
        stretch.append(item)
    if stretch:
        yield begin, end, stretch


class TarSource(Source):
    """The pictures of one or several tars, in the order of the addresses and then of the members."""

    def __init__(self, addresses: Sequence[str], base: str | Path | None, naming: Naming, limit: int | None):
        super().__init__(", ".join(addresses), TarReader(naming), limit)
        self._tars = files(addresses, base, (".tar",), "tar")

    def _cuts(self, known: Mapping[str, str], size: int) -> Iterator[Cut]:
        counts = Counter((source_parts(source)[0], version) for source, version in known.items())
        finished = {
            (source, version): pictures
            for (source, version), pictures in counts.items()
            if version.rpartition("-")[2] == str(pictures)
        }
        done = {(source, version.rpartition("-")[0]): n for (source, version), n in finished.items()}
        skipped = [
            done.get((plain_text(str(entry.place)), version_of(entry.size, entry.mtime_ns)), 0) for entry in self._tars
        ]
        walks = _walk_all([entry for entry, known_whole in zip(self._tars, skipped, strict=True) if not known_whole])
        with contextlib.closing(walks):
            for entry, known_whole in zip(self._tars, skipped, strict=True):
                if known_whole:
                    yield Cut(skipped=known_whole)
                    continue
                items = self._items(entry, next(walks))
                for start in range(0, len(items), size):
                    yield Cut(items[start : start + size])

    def _items(self, entry: Entry, walked: Walked) -> list[Item]:
        samples: dict[str, list[tuple[str, Member]]] = {}
        for member in walked.members:
            folder, slash, name = member.name.rpartition("/")
            key, _, extension = name.partition(".")
            samples.setdefault(folder + slash + key, []).append((extension.lower(), member))
        tar = plain_text(str(entry.place))
        found: dict[str, tuple[Member, Any]] = {}
        for members in samples.values():
            plain = [member for extension, member in members if extension in PICTURE_SUFFIXES]
            # `a.jpg` with `a.mask.png`: the second is no picture of its own. `photo.1.jpg`, `photo.2.jpg`: both are.
            pictures = plain or [member for _, member in members if is_picture(member.name)]
            siblings = tuple((extension, member) for extension, member in members if extension in _SIDE_CARS)
            for picture in pictures:
                name = source_text(tar, plain_text(picture.name))
                while name in found:
                    name += " (again)"
                at: Any = MemberAt(entry.place, picture, siblings)
                if picture.size > MAX_BYTES:
                    at = Broken(f"the member is over {MAX_BYTES:,} bytes")
                elif any(member.offset + member.size > entry.size for member in (picture, *(m for _, m in siblings))):
                    at = Broken("the tar breaks off within this member")
                found[name] = (picture, at)
            others = len(members) - len(pictures) - (len(siblings) if pictures else 0)
            if others:
                self.notes["members that are not pictures"] += others
        if walked.broken:
            rest = Member(f"(after {len(walked.members)} members)", 0, 0)
            found[source_text(tar, rest.name)] = (rest, Broken(walked.broken))
        version = f"{version_of(entry.size, entry.mtime_ns)}-{len(found)}"
        return [
            Item(name, version, plain_text(picture.name.rpartition("/")[2]), at)
            for name, (picture, at) in found.items()
        ]

    def _why_empty(self) -> str:
        return f"{self.text}: no pictures (jpg, png, webp, ...) among the members"


def _walk_all(entries: Sequence[Entry]) -> Generator[Walked, None, None]:
    """Walk tars in order; those on an object store some ahead of the one that is wanted."""
    if not entries or entries[0].place.is_local:
        yield from map(walk, entries)
        return
    with ThreadPoolExecutor(_AHEAD) as pool:
        running: deque[Future[Walked]] = deque()
        try:
            for entry in entries:
                running.append(pool.submit(walk, entry))
                if len(running) > _AHEAD:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def walk(entry: Entry) -> Walked:
    """The regular members of a tar by its headers. Raises SourceError for what is no tar at all."""
    walked = Walked()
    with reaching(str(entry.place)), entry.place.open() as stream:
        buffer = 64 << 10 if entry.place.is_local else 4 << 20
        raw = io.BufferedReader(cast(io.RawIOBase, stream), buffer)
        if raw.peek(2)[:2] == b"\x1f\x8b":
            raise SourceError(f"{entry.place}: a compressed tar cannot be read at random places; unpack it with gunzip")
        try:
            tar = tarfile.open(fileobj=raw, mode="r:")  # noqa: SIM115 - closing it would close nothing of ours
        except tarfile.TarError as error:
            raise SourceError(f"{entry.place}: not a tar file ({one_line(error)}); make or fetch it again") from error
        last_end = 0
        try:
            while (info := tar.next()) is not None:
                cast(Any, tar).members = []  # tarfile keeps every header it has seen
                last_end = info.offset_data + -(-info.size // 512) * 512
                base = info.name.rpartition("/")[2]
                if info.isreg() and not info.issparse() and not base.startswith("."):
                    walked.members.append(Member(info.name, info.offset_data, info.size))
            # tarfile takes a damaged header for the end; the real end is a block of zeros.
            mark = stream.read_at(512, last_end)
            if mark != bytes(512):
                what = "a damaged header" if mark else "no end mark"
                walked.broken = f"the tar breaks off after {len(walked.members)} members ({what}); fetch it again"
        except (tarfile.TarError, pa.ArrowInvalid) as error:
            walked.broken = (
                f"the tar breaks off after {len(walked.members)} members ({one_line(error)}); fetch it again"
            )
    return walked
