"""The headers of a tar, read one after the other in little memory, whatever they claim.

``tarfile`` parses each block; the walk over them is here, since ``tarfile`` reads a header of any size into memory,
stops at the first end mark, and takes a damaged header for the end.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.sources.passed_over import PassedOver
from pipeline.storage.counts import count

BLOCK = tarfile.BLOCKSIZE
# Names and PAX headers above this are no names; a header of 100 MB would take two gigabytes to parse.
MAX_HEADER = 1 << 20
# Zeros behind an end mark that are looked through for a tar that was joined on.
MAX_ZEROS = 64 << 20

_TOO_LONG = f"its header is over {MAX_HEADER:,} bytes"

_WITHOUT_DATA = (
    tarfile.DIRTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
)

SPARSE = "members with holes (sparse)"
HIDDEN = "members hidden by their name"
LINKS = "links to what is not in the tar"
DEVICES = "members of another type (devices, pipes)"
AFTER_THE_END = "tars with bytes behind their end mark"

Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Member:
    """A member's name and where its bytes lie. ``broken``: why it can't be used."""

    name: str
    offset: int
    size: int
    broken: str | None = None


@dataclass
class Walked:
    """What the headers of one tar say.

    ``members`` are the regular files and the links to them, in order; ``passed_over`` counts the others. ``broken``
    says why the rest of the tar can't be read, ``no_tar`` why none of it can.
    """

    members: list[Member] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)
    broken: str | None = None
    no_tar: str | None = None


@dataclass
class _Extended:
    """What the headers before a member say of it."""

    path: str | None = None
    link: str | None = None
    size: int | None = None
    sparse: bool = False
    broken: str | None = None


class _Damaged(Exception):
    pass


def walk_headers(read: Read, size: int) -> Walked:
    """Walk the headers of a tar of ``size`` bytes.

    Args:
        read: gives (offset, count) -> bytes, fewer only at the end of the file.
        size: of the file, in bytes.
    """
    walk = _Walk(read, size)
    try:
        walk.run()
    except _Damaged as error:
        walk.walked.broken = f"the tar breaks off after {count(walk.n, 'member')} ({error}); fetch it again"
    walk.resolve_links()
    return walk.walked


class _Walk:
    def __init__(self, read: Read, size: int) -> None:
        self._read, self._size = read, size
        self.walked = Walked()
        self.n = 0  # members so far, of any type
        self._links: list[tuple[int, str, str]] = []  # place among the members, name, target

    def run(self) -> None:
        position, extended = 0, _Extended()
        while True:
            block = self._read(position, BLOCK)
            if len(block) == BLOCK and block == bytes(BLOCK):
                following = self._behind_the_end(position)
                if following is None:
                    return
                position, extended = following, _Extended()
                continue
            if len(block) < BLOCK:
                raise _Damaged("no end mark" if not block else "the file ends within a header")
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise _Damaged(f"a damaged header: {error}") from error
            position += BLOCK
            if info.size < 0:
                raise _Damaged("a header with a size below zero")
            if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
                self._pax(info, position, extended)
            elif info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                self._long_name(info, position, extended)
            else:
                if info.type == tarfile.GNUTYPE_SPARSE:
                    position = self._behind_sparse_headers(block, position)
                    extended.sparse = True
                info.size = info.size if extended.size is None else extended.size
                self._member(info, position, extended)
                extended = _Extended()
            if info.type not in _WITHOUT_DATA:
                position += -(-info.size // BLOCK) * BLOCK
                if position - BLOCK > self._size:
                    raise _Damaged(f"a size of {info.size:,} bytes, more than the file has")

    def _member(self, info: tarfile.TarInfo, position: int, extended: _Extended) -> None:
        self.n += 1
        name = extended.path if extended.path is not None else info.name
        if info.type == tarfile.AREGTYPE and name.endswith("/"):  # a folder, as old tars write it
            return
        base = name.rstrip("/").rpartition("/")[2]
        passed_over = self.walked.passed_over
        link = info.type in (tarfile.LNKTYPE, tarfile.SYMTYPE)
        if info.type == tarfile.DIRTYPE:
            return
        if not link and not info.isreg():
            passed_over.add(DEVICES, base)
        elif base.startswith("."):
            passed_over.add(HIDDEN, base)
        elif extended.sparse:
            passed_over.add(SPARSE, base)
        elif extended.broken is not None:
            self.walked.members.append(Member(name, position, info.size, extended.broken))
        elif link:
            target = extended.link if extended.link is not None else info.linkname
            if info.type == tarfile.SYMTYPE:
                target = _joined(name.rpartition("/")[0], target)
            self._links.append((len(self.walked.members), name, target))
        else:
            self.walked.members.append(Member(name, position, info.size))

    def resolve_links(self) -> None:
        """Put the members that links lead to in the links' places."""
        if not self._links:
            return
        regular = self.walked.members
        targets = {_joined("", member.name): member for member in regular}
        members: list[Member] = []
        taken = 0
        for place, name, target in self._links:
            members += regular[taken:place]
            taken = place
            member = targets.get(_joined("", target))
            if member is None:
                self.walked.passed_over.add(LINKS, name.rpartition("/")[2])
            else:
                members.append(Member(name, member.offset, member.size, member.broken))
        self.walked.members = members + regular[taken:]

    def _pax(self, info: tarfile.TarInfo, position: int, extended: _Extended) -> None:
        if info.type == tarfile.XGLTYPE:  # of the whole tar: it says nothing of names
            return
        if info.size > MAX_HEADER:
            extended.broken = _TOO_LONG
            return
        try:
            records = dict(_pax_records(self._read(position, info.size)))
        except ValueError:
            extended.broken = "its PAX header is damaged"
            return
        for key, value in records.items():
            if key == "path":
                extended.path = value
            elif key == "linkpath":
                extended.link = value
            elif key == "size" and value.isdecimal() and len(value) < 20:
                extended.size = int(value)
            elif key.startswith("GNU.sparse."):
                extended.sparse = True
                if key == "GNU.sparse.name":
                    extended.path = value

    def _long_name(self, info: tarfile.TarInfo, position: int, extended: _Extended) -> None:
        if info.size > MAX_HEADER:
            extended.broken = _TOO_LONG
            return
        name = self._read(position, info.size).partition(b"\0")[0].decode("utf-8", "surrogateescape")
        if info.type == tarfile.GNUTYPE_LONGNAME:
            extended.path = name
        else:
            extended.link = name

    def _behind_sparse_headers(self, block: bytes, position: int) -> int:
        """Where the data of an old GNU sparse member begin: behind the further blocks of its map."""
        more = block[482]
        while more:
            block = self._read(position, BLOCK)
            if len(block) < BLOCK:
                raise _Damaged("the file ends within a header")
            more = block[504]
            position += BLOCK
        return position

    def _behind_the_end(self, position: int) -> int | None:
        """Where a tar goes on that was joined to the end of the one before; None where there is none."""
        step, begin = 1 << 20, position
        while position < self._size:
            data = self._read(position, step)
            if not data:
                return None
            if data.count(0) < len(data):
                first = next(n for n, byte in enumerate(data) if byte)
                position += first // BLOCK * BLOCK
                break
            position += len(data)
            if position - begin > MAX_ZEROS:
                break
        else:
            return None
        try:
            tarfile.TarInfo.frombuf(self._read(position, BLOCK), "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            self.walked.passed_over.add(AFTER_THE_END)
            return None
        return position


def _joined(folder: str, name: str) -> str:
    """A name below a folder of the tar, without ``.`` and ``..``."""
    pieces: list[str] = []
    for piece in f"{folder}/{name}".split("/"):
        if piece == "..":
            pieces = pieces[:-1]
        elif piece not in ("", "."):
            pieces.append(piece)
    return "/".join(pieces)


def _pax_records(data: bytes) -> Iterator[tuple[str, str]]:
    """The records ``LENGTH KEY=VALUE`` of a PAX header. ValueError at a damaged one."""
    position = 0
    while position < len(data) and data[position]:
        length, space, _ = data[position : position + 20].partition(b" ")
        end = position + int(length)
        key, equals, value = data[position + len(length) + 1 : end - 1].partition(b"=")
        if not space or not equals or end > len(data):
            raise ValueError("a damaged PAX header")
        yield key.decode("utf-8", "replace"), value.decode("utf-8", "surrogateescape")
        position = end


def reader_of(stream: pa.NativeFile, size: int, ahead: int) -> Read:
    """Reads of a file of ``size`` bytes that fetch ``ahead`` bytes at a time, since headers lie near one another."""
    held, begin = b"", 0

    def read(offset: int, count: int) -> bytes:
        nonlocal held, begin
        count = min(count, size - offset)
        if count <= 0:
            return b""
        if offset < begin or offset + count > begin + len(held):
            held, begin = stream.read_at(min(max(count, ahead), size - offset), offset), offset
        return held[offset - begin :][:count]

    return read
