"""Blocks of contents x blocks of styles: what is read together, computed together and committed together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tile:
    """Some pairs of one block of contents and one block of styles, as numbers: both (n,) int32."""

    contents: np.ndarray
    styles: np.ndarray

    def __len__(self) -> int:
        return len(self.contents)


class Sizer:
    """Says how many pairs the next tile gets: whole batches that take about ``seconds``, fewer towards the end.

    left      pairs of the whole run that are in no tile yet
    batch     pairs that go through the network at once
    workers   how many share the work
    seconds   what a tile should take
    most      pairs whose inputs and results fit in memory
    per_call  seconds that one pair's network call took in an earlier run; None: unknown, so the first tiles are small
    """

    # A worker has a few tiles under way, so a tile is at most this part of a worker's share of what is left. Sizes then
    # shrink to single batches and all workers end within about one.
    TAIL = 4

    def __init__(
        self, left: int, batch: int, workers: int, seconds: float, most: int, per_call: float | None = None
    ) -> None:
        self.left = left
        self.per_call = per_call
        self._batch, self._workers, self._seconds, self._most = batch, workers, seconds, most

    def next(self, calls: int, available: int) -> int:
        """The size of the next tile of at most ``available`` pairs with ``calls`` network calls each."""
        batches = -(-self.left // (self.TAIL * self._workers * self._batch))
        if self.per_call is None:
            batches = 1
        else:
            batches = min(batches, int(self._seconds / (self.per_call * max(calls, 1) * self._batch)))
        batches = min(batches, self._most // self._batch)
        n = min(max(batches, 1) * self._batch, available)
        self.left -= n
        return n

    def measured(self, pairs: int, calls: int, seconds: float) -> None:
        """A tile took so long; the latest counts most, since another machine or a warm one is another speed."""
        if pairs and seconds > 0:
            now = seconds / (pairs * max(calls, 1))
            self.per_call = now if self.per_call is None else (self.per_call + now) / 2


def most_pairs(memory: float, h_bytes: int, x_T_bytes: int, picture_bytes: int) -> int:
    """How many pairs of a near-square tile fit in ``memory`` bytes: h by content, x_T by style, a picture by pair."""
    # A tile may straddle two bands of the grid (plan_tiles), so it reads up to twice the side of its square.
    sides = 2 * (h_bytes + x_T_bytes)
    root = (-sides + math.sqrt(sides**2 + 4 * picture_bytes * memory)) / (2 * picture_bytes)
    return max(1, int(root**2))


def plan_tiles(contents: np.ndarray, styles: np.ndarray, size: int | Callable[[int], int]) -> Iterator[Tile]:
    """Cut pairs into tiles, each reading few distinct contents and styles.

    ``size``: pairs a tile, or what says so for the next tile from how many are left (so tiles can follow the clock).
    Tiles are near-square blocks where pairs fill a grid; where they are scattered (zip, random, a list), runs of
    consecutive pairs. Every pair is in exactly one tile, and all tiles but the last have the size asked for. Pairs that
    are sorted by contents, then styles, as those of a job are, are not copied: memory is that of a band of tiles.
    """
    if not _are_sorted(contents, styles):
        order = np.lexsort((styles, contents))
        contents, styles = contents[order], styles[order]
    # Where each content's pairs begin, and where the last one's end.
    edges = np.concatenate(([0], 1 + np.flatnonzero(contents[1:] != contents[:-1]), [len(contents)]))
    row = 0
    held_c, held_s = contents[:0], styles[:0]
    left = len(contents)
    while left:
        n = min(size(left) if callable(size) else size, left)
        if n < 1:
            raise ValueError(f"a tile needs at least one pair, not {n}")
        while len(held_c) < n:
            # A band of contents, walked style by style: so a run of it is a block, whatever its length.
            pairs_a_row = (len(contents) - edges[row]) / (len(edges) - 1 - row)
            rows = max(math.isqrt(n - 1) + 1, math.ceil((n - len(held_c)) / pairs_a_row))
            rows_left = len(edges) - 1 - row
            end = row + min(rows_left, -(-rows_left // max(1, round(rows_left / rows))))  # bands of about one height
            band = slice(edges[row], edges[end])
            by_style = np.lexsort((contents[band], styles[band]))
            held_c = np.concatenate((held_c, contents[band][by_style]))
            held_s = np.concatenate((held_s, styles[band][by_style]))
            row = end
        yield Tile(held_c[:n], held_s[:n])
        held_c, held_s, left = held_c[n:], held_s[n:], left - n


def _are_sorted(contents: np.ndarray, styles: np.ndarray) -> bool:
    same = contents[1:] == contents[:-1]
    return bool((same | (contents[1:] > contents[:-1])).all() and (~same | (styles[1:] >= styles[:-1])).all())
