"""Sets of pair ids in 16 bytes an id: a Python string of 32 hex digits in a Python set takes ten times as much.

Ids go about as arrays (n, 2) uint64: the first 16 hex digits of each and the last 16, as numbers.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.identity import digest


def packed(texts: pa.Array | pa.ChunkedArray | Iterable[str]) -> np.ndarray:
    """A column of ids, or any strings of Python's, as (n, 2) uint64.

    A text that is no id of a pair (a name, a path, an id written by hand) gets the 16 bytes of its hash.
    """
    if isinstance(texts, pa.ChunkedArray):
        chunks = texts.chunks
    else:
        chunks = [texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())]
    return from_bytes(b"".join(map(_bytes, chunks)))


def from_bytes(data: bytes) -> np.ndarray:
    """Ids of 16 bytes each, one after the other, as (n, 2) uint64."""
    return np.frombuffer(data, ">u8").reshape(-1, 2).astype(np.uint64)


def _bytes(texts: pa.Array) -> bytes:
    if not len(texts):
        return b""
    is_id = pc.match_substring_regex(texts, "^[0-9a-f]{32}$")
    if texts.null_count == 0 and pc.all(is_id).as_py():
        _, offsets, characters = texts.buffers()
        first = int(np.frombuffer(offsets, np.int32)[texts.offset])
        return binascii.unhexlify(memoryview(characters)[first : first + 32 * len(texts)])
    pairs = zip(texts.to_pylist(), is_id.to_pylist(), strict=True)
    return b"".join(bytes.fromhex(text if good else digest(text or "")) for text, good in pairs)


class PairIds:
    """A set of ids that does not change, sorted.

    Args:
        ids: (n, 2) uint64, or several such arrays, in any order; one that is there more than once counts once.
    """

    def __init__(self, *ids: np.ndarray) -> None:
        every = np.concatenate(ids) if ids else np.empty((0, 2), np.uint64)
        high, low = every[:, 0], every[:, 1]
        order = np.argsort(high)
        self._high, self._low = high[order], low[order]
        if (self._high[1:] == self._high[:-1]).any():
            order = np.lexsort((low, high))
            high, low = high[order], low[order]
            first = np.ones(len(order), bool)
            first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
            self._high, self._low = high[first], low[first]

    @classmethod
    def of(cls, texts: Iterable[str]) -> PairIds:
        """The set of some ids as text."""
        return cls(packed(texts))

    @classmethod
    def more_than_once(cls, *ids: np.ndarray) -> PairIds:
        """The set of those that are there more than once; ``ids`` as for the class."""
        every = np.concatenate(ids) if ids else np.empty((0, 2), np.uint64)
        every = every[np.lexsort((every[:, 1], every[:, 0]))]
        return cls(every[1:][(every[1:] == every[:-1]).all(1)])

    def contains(self, ids: np.ndarray) -> np.ndarray:
        """Which of some ids are in the set.

        Args:
            ids: (n, 2) uint64, in any order.

        Returns:
            (n,) bool.
        """
        return self.positions(ids) >= 0

    def positions(self, ids: np.ndarray) -> np.ndarray:
        """Where some ids are in the order of :meth:`ids`.

        Args:
            ids: (n, 2) uint64, in any order.

        Returns:
            (n,) int64, -1 for one that is not in the set.
        """
        positions = np.full(len(ids), -1)
        if not len(self):
            return positions
        left = np.argsort(ids[:, 0])  # neighbours are looked up one after the other, which the processor's caches like
        high, low = ids[left, 0], ids[left, 1]
        at = np.searchsorted(self._high, high)
        while len(left):
            near = np.minimum(at, len(self) - 1)
            same = (at < len(self)) & (self._high[near] == high)
            hit = same & (self._low[near] == low)
            positions[left[hit]] = at[hit]
            more = same & ~hit  # another id that begins alike: two in 10**7 are so once in 10**5 outputs
            left, high, low, at = left[more], high[more], low[more], at[more] + 1
        return positions

    def ids(self) -> np.ndarray:
        """(n, 2) uint64, sorted."""
        return np.stack((self._high, self._low), 1)

    def without(self, other: PairIds) -> PairIds:
        """Those that are not in ``other``."""
        if not len(self) or not len(other):
            return self
        ids = self.ids()
        return PairIds(ids[~other.contains(ids)])

    def __contains__(self, text: str) -> bool:
        return bool(self.contains(packed([text]))[0])

    def __len__(self) -> int:
        return len(self._high)

    def __iter__(self) -> Iterator[str]:
        """As text, 32 hex digits each."""
        for high, low in zip(self._high.tolist(), self._low.tolist(), strict=True):
            yield f"{high:016x}{low:016x}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PairIds) and np.array_equal(self.ids(), other.ids())

    __hash__ = None  # type: ignore[assignment]


class PairValues:
    """A number for each of some ids, in 20 bytes.

    Args:
        ids: (n, 2) uint64, or several such arrays; of an id that is there more than once any of its numbers counts.
        values: (n,) float32 for each of these arrays, NaN for none.
    """

    def __init__(self, ids: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> None:
        self._ids = PairIds(*ids)
        self._values = np.full(len(self._ids), np.nan, np.float32)
        for some, numbers in zip(ids, values, strict=True):
            self._values[self._ids.positions(some)] = numbers

    def __len__(self) -> int:
        """How many have a number."""
        return int((~np.isnan(self._values)).sum())

    def of(self, ids: np.ndarray) -> np.ndarray:
        """The numbers of some ids (n, 2): (n,) float32, NaN where there is none."""
        at = self._ids.positions(ids)
        return np.where(at < 0, np.float32(np.nan), self._values[at] if len(self._values) else np.float32(np.nan))

    def __repr__(self) -> str:
        return f"<PairIds: {len(self)}>"
