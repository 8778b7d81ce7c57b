"""WebDataset: pictures as members of tar files, with ``.json``, ``.txt`` and ``.cls`` siblings of the same key.

The driver walks a tar's headers; a worker then reads the members of its block by their offsets. The version of each
picture ends in the number of pictures in its tar: so a tar of which all is known is known without being walked again.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.sources.addresses import files, reaching, version_of
from pipeline.sources.attributes import MAX_TEXT, Naming, SideCars, plain_text
from pipeline.sources.base import MAX_BYTES, Broken, Cut, Item, RawPicture, Source, SourceError, failed
from pipeline.sources.passed_over import PassedOver
from pipeline.sources.recognise import PICTURE_SUFFIXES, is_picture, stem_of, suffix_of
from pipeline.sources.tar_headers import Member, Walked, reader_of, walk_headers
from pipeline.storage.counts import count
from pipeline.storage.errors import reason_of
from pipeline.storage.identity import source_parts, source_text
from pipeline.storage.masking import without_variables
from pipeline.storage.place import Entry, Place

_SIDE_CARS = ("json", "txt", "cls")
# Members of a block are read in stretches of at most this many bytes: few requests, little memory.
_STRETCH = 16 << 20
_NEAR = 1 << 20
# Tars on an object store whose headers are read ahead of the work: walking one is mostly waiting.
_AHEAD = 4


@dataclass(frozen=True, slots=True)
class MemberAt:
    """A picture in a tar, with its siblings by extension."""

    tar: Place
    picture: Member
    siblings: tuple[tuple[str, Member], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Named:
    """A member with its name apart from its folder, and what follows the name's first dot, in small letters."""

    name: str
    extension: str
    member: Member


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
            wanted, n = list(group), 0
            try:
                with reaching(str(tar)), tar.open() as stream:
                    for begin, end, stretch in _stretches(wanted):
                        held = Held(stream, begin, stream.read_at(end - begin, begin))
                        for item in stretch:
                            yield self._one(item, held)
                            n += 1
            except SourceError as error:
                if not tar.is_local:
                    raise
                for item in wanted[n:]:
                    yield failed(item, reason_of(error))

    def _one(self, item: Item, held: Held) -> RawPicture:
        at: MemberAt = item.at
        data = held.bytes_of(at.picture)
        if len(data) < at.picture.size:
            return failed(item, "the tar is shorter than it was when it was listed")
        side_cars = SideCars()
        for suffix, member in at.siblings:
            name = plain_text(member.name.rpartition("/")[2])
            if member.broken is not None or member.size > MAX_TEXT:
                side_cars.failed(name, member.broken or f"over {MAX_TEXT:,} bytes")
            else:
                side_cars.add(name, suffix, held.bytes_of(member))
        attributes = self.naming.sort(side_cars.values, side_cars.label, side_cars.caption)
        return RawPicture(
            item.source, item.version, item.name, data, attributes.label, attributes.caption, attributes.meta
        )


def _span(item: Item) -> tuple[int, int]:
    """The bytes from the first to the last member of an item, siblings that lie far away left out."""
    at: MemberAt = item.at
    siblings = [member for _, member in at.siblings if member.size <= MAX_TEXT]
    near = [member for member in siblings if abs(member.offset - at.picture.offset) < _NEAR]
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
    """The pictures of one or several tars, in the order of the addresses and then of the members.

    ``extension``: only the members with this one (what follows the key's dot, as in ``jpg`` or ``mask.png``).
    """

    def __init__(
        self,
        addresses: Sequence[str],
        base: str | Path | None,
        naming: Naming,
        limit: int | None,
        extension: str | None = None,
    ):
        super().__init__(", ".join(addresses), TarReader(naming), limit)
        self._tars = files(addresses, base, (".tar",), "tar", self._left_out)
        self._extension = None if extension is None else extension.removeprefix(".").lower()
        self._by_tar: dict[str, PassedOver | None] = {}

    def _cuts(self, known: Mapping[str, str], size: int) -> Iterator[Cut]:
        self._by_tar.clear()
        counts = Counter((source_parts(source)[0], version) for source, version in known.items())
        finished = {
            (source, version): pictures
            for (source, version), pictures in counts.items()
            if version.rpartition("-")[2] == str(pictures)
        }
        done = {(source, version.rpartition("-")[0]): n for (source, version), n in finished.items()}
        skipped = [done.get((_written(entry.place), version_of(entry.size, entry.mtime_ns)), 0) for entry in self._tars]
        walks = _walk_all([entry for entry, known_whole in zip(self._tars, skipped, strict=True) if not known_whole])
        with contextlib.closing(walks):
            for entry, known_whole in zip(self._tars, skipped, strict=True):
                tar = _written(entry.place)
                if known_whole:
                    self._by_tar[tar] = None
                    yield Cut(skipped=known_whole)
                    continue
                walked = next(walks)
                if walked.no_tar is not None and len(self._tars) == 1:
                    raise SourceError(f"{entry.place}: {walked.no_tar}")
                items = self._items(entry, walked)
                self._by_tar[tar] = walked.passed_over
                if walked.broken is not None or walked.no_tar is not None:
                    self.torn.append(str(entry.place))
                self.passed_over.include(walked.passed_over)
                for start in range(0, len(items), size):
                    yield Cut(items[start : start + size])

    def passed_over_by_file(self, earlier: Mapping[str, PassedOver]) -> dict[str, PassedOver]:
        counts = {tar: earlier.get(tar) if one is None else one for tar, one in self._by_tar.items()}
        return {tar: one for tar, one in {"": self._left_out, **counts}.items() if one}

    def _items(self, entry: Entry, walked: Walked) -> list[Item]:
        """An item for each picture; the other members are counted in ``walked.passed_over``."""
        samples: dict[tuple[str, str], list[_Named]] = {}
        for member in walked.members:
            folder, _, name = member.name.rpartition("/")
            key, _, extension = name.partition(".")
            samples.setdefault((folder, key), []).append(_Named(name, extension.lower(), member))
        tar = plain_text(str(entry.place))
        items: dict[str, tuple[Member, Any]] = {}
        for (_, key), sample in samples.items():
            pictures = self._pictures(sample)
            used = {id(picture) for picture in pictures}
            for picture in pictures:
                siblings = _siblings(key, picture, sample)
                used.update(map(id, siblings.values()))
                name = source_text(tar, plain_text(picture.member.name))
                while name in items:
                    name += " (again)"
                side_cars = tuple((suffix, sibling.member) for suffix, sibling in siblings.items())
                items[name] = (picture.member, _at(entry, picture.member, side_cars))
            for named in sample:
                if id(named) not in used:
                    self._pass_over(walked.passed_over, named)
        for reason in (walked.broken, walked.no_tar):
            if reason is not None:
                rest = f"(after {count(len(walked.members), 'member')})" if reason == walked.broken else "(the tar)"
                items[source_text(tar, rest)] = (Member(rest, 0, 0), Broken(reason))
        version = f"{version_of(entry.size, entry.mtime_ns)}-{len(items)}"
        return [
            Item(name, version, plain_text(picture.name.rpartition("/")[2]), at)
            for name, (picture, at) in items.items()
        ]

    def _pictures(self, sample: list[_Named]) -> list[_Named]:
        """The pictures of a sample.

        ``a.jpg`` with ``a.mask.png``: the second is no picture of its own. ``photo.1.jpg``, ``photo.2.jpg``: both are.
        """
        if self._extension is not None:
            return [named for named in sample if named.extension == self._extension]
        plain = [named for named in sample if named.extension in PICTURE_SUFFIXES]
        return plain or [named for named in sample if is_picture(named.name)]

    def _pass_over(self, passed_over: PassedOver, named: _Named) -> None:
        name, suffix = plain_text(named.name), plain_text(suffix_of(named.name))
        if suffix in _SIDE_CARS:
            passed_over.add("side-cars without a picture", name)
        elif self._extension is not None:
            passed_over.add(f"members with another extension than {self._extension}", f".{plain_text(named.extension)}")
        elif is_picture(name):
            passed_over.add("pictures that belong to another one, by WebDataset's naming", name)
        elif suffix:
            passed_over.add("members of unknown suffix", f".{suffix}")
        else:
            passed_over.add("members without a suffix", name)

    def _why_empty(self) -> str:
        line = self.passed_over.line()
        wanted = "(jpg, png, webp, ...)" if self._extension is None else f"with the extension {self._extension}"
        return f"{self.text}: no pictures {wanted} among the members" + (f"; {line}" if line else "")


def _written(tar: Place) -> str:
    """A tar as tables have it: without the values of secret variables."""
    return without_variables(plain_text(str(tar)))


def _siblings(key: str, picture: _Named, sample: list[_Named]) -> dict[str, _Named]:
    """The side-cars of a picture: those named like it but for the last suffix, else those of the whole key.

    ``photo.v1.jpg`` takes ``photo.v1.txt``, and ``photo.txt`` where that is missing.
    """
    side_cars: dict[str, _Named] = {}
    for stem in (key, stem_of(picture.name)):
        for named in sample:
            if suffix_of(named.name) in _SIDE_CARS and stem_of(named.name) == stem:
                side_cars[suffix_of(named.name)] = named
    return side_cars


def _at(entry: Entry, picture: Member, siblings: tuple[tuple[str, Member], ...]) -> MemberAt | Broken:
    if picture.broken is not None:
        return Broken(picture.broken)
    if picture.size > MAX_BYTES:
        return Broken(f"the member is over {MAX_BYTES:,} bytes")
    if any(member.offset + member.size > entry.size for member in (picture, *(member for _, member in siblings))):
        return Broken("the tar breaks off within this member")
    return MemberAt(entry.place, picture, siblings)


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
    """The members of a tar by its headers. Raises SourceError where a store can't be reached."""
    try:
        with reaching(str(entry.place)), entry.place.open() as stream:
            read = reader_of(stream, entry.size, 64 << 10 if entry.place.is_local else 4 << 20)
            begin = read(0, 2)
            if begin == b"\x1f\x8b":
                return Walked(no_tar="a compressed tar cannot be read at random places; unpack it with gunzip")
            walked = walk_headers(read, entry.size)
    except SourceError as error:
        if not entry.place.is_local:
            raise
        return Walked(no_tar=reason_of(error))
    if walked.broken is not None and not walked.members and not walked.passed_over:
        beginning = "no header at its beginning" if entry.size else "0 bytes"
        return Walked(no_tar=f"not a tar file ({beginning}); make or fetch it again")
    return walked
