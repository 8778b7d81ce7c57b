"""What every kind of data set has in common: pictures, the blocks they are handed out in, and the order of both.

A source lists its pictures in the driver, cheaply, as items; a block of items travels to a worker, which reads the
bytes. Blocks are cut at fixed places of the whole listing, whether or not some of its pictures are known already: so
a run that was killed and resumed cuts, and names, its blocks like one that was not.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from diffstyle.errors import DiffStyleError
from pipeline.sources.passed_over import PassedOver
from pipeline.storage.identity import digest
from pipeline.storage.masking import without_variables

# A file above this is no picture; reading it would only fill the memory.
MAX_BYTES = 1 << 30


class SourceError(DiffStyleError):
    """A data set that is missing, empty or unreadable; the message names the address and the cure."""


@dataclass(frozen=True)
class RawPicture:
    """A picture as its source has it.

    ``data`` holds the encoded bytes; where they can't be had it is None and ``error`` says why. ``name`` is what people
    call it (its stem becomes part of the key); ``meta`` is all else that the source says, JSON-able.
    """

    source: str
    source_version: str
    name: str
    data: bytes | None
    label: str | None = None
    caption: str | None = None
    meta: dict[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A picture in a listing: its identity, and in ``at`` what its kind's reader needs to find the bytes."""

    source: str
    version: str
    name: str
    at: Any


@dataclass(frozen=True, slots=True)
class Broken:
    """In place of ``Item.at``: the bytes can't be had, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Repeated:
    """In place of ``Item.at``: a row with a picture that an earlier row has, which is read there."""


class Reader(Protocol):
    """Reads the items of one kind of source, in a worker. Picklable."""

    def read(self, items: Sequence[Item]) -> Iterator[RawPicture]:
        """A picture for each item, in order."""


@dataclass(frozen=True)
class Block:
    """A unit of work: some pictures of a source. Picklable, small (it holds no bytes of pictures)."""

    index: int
    reader: Reader
    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        """The same for the same pictures at the same place of the listing, and for no others; sorts by place."""
        pieces = [piece for item in self.items for piece in (item.source, item.version)]
        return f"{self.index:06d}-{digest(*pieces)[:8]}"

    def __len__(self) -> int:
        return len(self.items)

    def pictures(self) -> Iterator[RawPicture]:
        """Read the pictures, one at a time. Raises SourceError where the whole source can't be reached."""
        for broken, items in itertools.groupby(self.items, lambda item: isinstance(item.at, Broken)):
            if broken:
                for item in items:
                    yield failed(item, item.at.reason)
            else:
                yield from self.reader.read(list(items))

    def split(self) -> list[Block]:
        """Two blocks of half the pictures, or [] where there is only one picture."""
        half = len(self.items) // 2
        parts = (self.items[:half], self.items[half:]) if half else ()
        return [Block(self.index, self.reader, part) for part in parts]


@dataclass(frozen=True)
class Cut:
    """A stretch of a listing that may become a block; or ``skipped`` pictures that are known to be known.

    ``gap``: or so many rows that were passed over, but hold their places: for who pairs two listings row by row.
    """

    items: Sequence[Item] = ()
    skipped: int = 0
    gap: int = 0


class Source(ABC):
    """A data set. After :meth:`blocks` has run out, ``passed_over`` counts what is there and is no picture.

    Pictures, rejects and what is passed over are then all that the data set holds (up to its ``limit``); a side-car
    that belongs to a picture counts with it.

    ``torn`` names the files and folders that can't be read to their end, so that nobody knows how many pictures they
    hold: what is listed behind them has no certain place.

    ``roots``: the folders (as text) from which paths relative to the data set are taken.
    """

    roots: tuple[str, ...] = ()

    def __init__(self, text: str, reader: Reader, limit: int | None):
        self.text = text
        self.passed_over = PassedOver()
        self.torn: list[str] = []
        self._left_out = PassedOver()  # what was passed over before the listing: in it every time
        self._reader = reader
        self._limit = limit

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.text}>"

    @abstractmethod
    def _cuts(self, known: Mapping[str, str], size: int) -> Iterator[Cut]:
        """The whole listing in its stable order, cut into stretches of about ``size`` pictures."""

    def _why_empty(self) -> str:
        return f"{self.text}: no pictures here"

    def blocks(self, known: Mapping[str, str], size: int = 256) -> Iterator[Block]:
        """The work that is left: pictures that ``known`` (source -> version) does not have, in a stable order.

        A stretch of which nothing is known is a block of its own; what is left of the others is gathered into blocks
        of ``size``. Raises SourceError for a data set that is missing or holds no picture at all.
        """
        self._begin()
        index, seen = 0, 0
        left = math.inf if self._limit is None else self._limit
        gathered: list[Item] = []
        gathered_index = 0
        for cut in self._cuts(known, size):
            if cut.skipped:
                index += math.ceil(cut.skipped / size)
                seen, left = seen + cut.skipped, left - cut.skipped
            elif cut.gap:
                index, left = index + math.ceil(cut.gap / size), left - cut.gap
            elif cut.items:
                rows = cut.items if len(cut.items) <= left else cut.items[: int(left)]
                seen, left = seen + len(rows), left - len(rows)
                items = [_without_secrets(item) for item in rows if not isinstance(item.at, Repeated)]
                if len(items) < len(rows):
                    self.passed_over.add("rows with a picture that an earlier row has", n=len(rows) - len(items))
                missing = [item for item in items if known.get(item.source) != item.version]
                if items and len(missing) == len(items):
                    yield Block(index, self._reader, tuple(items))
                elif missing:
                    gathered_index = gathered_index if gathered else index
                    gathered += missing
                index += 1
            while len(gathered) >= size:
                yield Block(gathered_index, self._reader, tuple(gathered[:size]))
                gathered, gathered_index = gathered[size:], index - 1
            if left <= 0:
                break
        if gathered:
            yield Block(gathered_index, self._reader, tuple(gathered))
        if not seen:
            raise SourceError(self._why_empty())

    def passed_over_by_file(self, earlier: Mapping[str, PassedOver]) -> dict[str, PassedOver]:
        """What was passed over, by the file that holds it; ``""`` where the data set is not a set of such files.

        Args:
            earlier: what an earlier run counted, for files that this one had no need to look at again.
        """
        return {"": self.passed_over} if self.passed_over else {}

    def listing(self, size: int = 1024) -> Iterator[str]:
        """The ``source`` of each picture as the data set lists it, within the limit, as often as it is listed.

        Rows that are passed over as a whole stretch are "".

        Raises SourceError as :meth:`blocks` does. Reads no picture.
        """
        self._begin()
        empty, left = True, math.inf if self._limit is None else self._limit
        for cut in self._cuts({}, size):
            if cut.gap:
                gap = int(min(cut.gap, left))
                yield from itertools.repeat("", gap)
                left -= gap
            else:
                items = cut.items if len(cut.items) <= left else cut.items[: int(left)]
                empty = empty and not items
                yield from (without_variables(item.source) for item in items)
                left -= len(items)
            if left <= 0:
                break
        if empty:
            raise SourceError(self._why_empty())

    def _begin(self) -> None:
        self.torn.clear()
        self.passed_over.clear()
        self.passed_over.include(self._left_out)

    def count(self) -> int:
        """How many pictures the data set lists (within the limit), readable or not, repeated rows included."""
        return sum(1 for _ in self.listing())


def _without_secrets(item: Item) -> Item:
    """The item as tables may name it: a path that a secret variable is a part of is written with its ``${NAME}``."""
    source = without_variables(item.source)
    return item if source == item.source else replace(item, source=source)


def failed(item: Item, reason: str) -> RawPicture:
    """The picture of an item whose bytes can't be had."""
    return RawPicture(item.source, item.version, item.name, None, error=reason)
