"""Some styles for each content, chosen at random, so that choices stay as contents and styles come and go.

Every content has an order of all styles, of which it takes the first. The order depends on a seed, the content and the
style alone, and is found without looking at all styles:

- a style has a place on a circle, by its hash;
- a content throws at the circle, at places that follow from its hash, and each throw is wider than the one before it;
- a throw hits the styles whose place is so near behind it, the nearest first.

So all styles are equally likely. Those that are neighbours on the circle come together a little more often than others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np

_CIRCLE = 1 << 62
_FIRST_WIDTH = _CIRCLE >> 24
_GROWTH = 7  # a throw is wider than the one before by 1 / 2**7 of it
_AT_ONCE = 1 << 20


def _widths() -> np.ndarray:
    """How wide each throw is, up to that which hits all styles: (n,) int64."""
    widths = [_FIRST_WIDTH]
    while widths[-1] < _CIRCLE:
        widths.append(min(widths[-1] + (widths[-1] >> _GROWTH), _CIRCLE))
    return np.array(widths, np.int64)


WIDTHS = _widths()


def random_styles(contents: Sequence[str], styles: Sequence[str], k: int, seed: int) -> np.ndarray:
    """The numbers of ``k`` styles for each content, in their order.

    Args:
        contents: The hashes of their images.
        styles: Likewise, each once.
        k: How many, at most as many as there are styles.
        seed: Another one chooses other styles.

    Returns:
        (n_contents, k) int32.
    """
    if k == len(styles):
        return np.tile(np.arange(k, dtype=np.int32), (len(contents), 1))
    places = (_hashes(seed, styles) >> np.uint64(2)).astype(np.int64)
    order = np.argsort(places, kind="stable")
    twice = np.concatenate((places[order] - _CIRCLE, places[order]))  # a throw near 0 reaches round to the end
    starts = _hashes(seed, contents)
    chosen = np.empty((len(contents), k), np.int32)
    left = np.arange(len(contents))
    hits = _hits_for(k, len(styles))
    while len(left):
        enough = int(np.searchsorted(np.cumsum(WIDTHS / _CIRCLE) * len(styles), hits)) + 1
        missing = []
        for some in _blocks(left, max(enough, math.ceil(hits))):
            numbers, is_whole = _first(starts[some], WIDTHS[:enough], twice, k)
            chosen[some[is_whole]] = order[numbers]
            missing.append(some[~is_whole])
        left = np.concatenate(missing)
        hits *= 2
    return np.sort(chosen, axis=1)


def _hashes(seed: int, images: Sequence[str]) -> np.ndarray:
    """(n,) uint64."""
    salt = hashlib.blake2b(f"{seed}/".encode(), digest_size=8)

    def digests() -> Iterator[bytes]:
        for image in images:
            state = salt.copy()
            state.update(image.encode())
            yield state.digest()

    return np.frombuffer(b"".join(digests()), "<u8").astype(np.uint64)


def _hits_for(k: int, n: int) -> float:
    """After how many hits nearly every content has ``k`` of ``n`` styles."""
    distinct = min(k + 2 * math.sqrt(k) + 2, n - 0.1)
    return -n * math.log1p(-distinct / n)


def _blocks(numbers: np.ndarray, size_of_one: int) -> Iterator[np.ndarray]:
    step = max(1, _AT_ONCE // size_of_one)
    for begin in range(0, len(numbers), step):
        yield numbers[begin : begin + step]


def throws(starts: np.ndarray, n: int) -> np.ndarray:
    """The places of the first ``n`` throws of some contents: (n_contents, n) int64, by the mixing of splitmix64."""
    z = starts[:, None] + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(2)).astype(np.int64)


def _first(starts: np.ndarray, widths: np.ndarray, twice: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``k`` different styles that some contents hit with throws of these widths.

    Returns:
        (n_whole, k) numbers of places, for the contents that hit as many; and which those are, (n_contents,) bool.
    """
    n = len(twice) // 2
    at = throws(starts, len(widths))
    end = np.searchsorted(twice, at, "right")
    contents, numbers = np.nonzero(twice[end - 1] > at - widths)  # a throw that hits none is the rule
    ends = end[contents, numbers]
    begins = np.searchsorted(twice, at[contents, numbers] - widths[numbers], "right")
    many = ends - begins
    before = np.repeat(np.cumsum(many) - many, many)
    hit = (np.repeat(ends, many) - 1 - (np.arange(len(before)) - before)) % n  # the nearest first
    content = np.repeat(contents, many)
    _, first = np.unique(content * n + hit, return_index=True)
    first.sort()
    content, hit = content[first], hit[first]
    counts = np.bincount(content, minlength=len(starts))
    is_whole = counts >= k
    place = np.arange(len(content)) - np.repeat(np.cumsum(counts) - counts, counts)
    return hit[(place < k) & is_whole[content]].reshape(-1, k), is_whole
