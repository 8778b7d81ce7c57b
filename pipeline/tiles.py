"""Blocks of contents x blocks of styles: what is read together, computed together and committed together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tile:
    """Some pairs of one block of contents and one block of styles, as numbers: both (n,) int64, contents ascending."""

    contents: np.ndarray
    styles: np.ndarray

    def __len__(self) -> int:
        return len(self.contents)


def plan_tiles(contents: np.ndarray, styles: np.ndarray, pairs_per_tile: int) -> Iterator[Tile]:
    """Cut pairs into tiles of at most ``pairs_per_tile``, reading few distinct contents and styles each.

    Where pairs fill a grid, tiles are near-square blocks of it; where they are scattered (zip, random, a list), runs of
    consecutive pairs. Every pair is in exactly one tile. Memory and time grow with the pairs, N log N at most.
    """
    if pairs_per_tile < 1:
        raise ValueError(f"a tile needs at least one pair, not {pairs_per_tile}")
    n = len(contents)
    if n == 0:
        return
    n_contents, n_styles = len(np.unique(contents)), len(np.unique(styles))
    dense = n > 0.5 * n_contents * n_styles
    if dense:
        # A block as square as its sides allow: the fewest bank entries read for the pairs in it.
        side = max(1, int(pairs_per_tile**0.5))
        rows = min(n_contents, max(side, pairs_per_tile // max(1, n_styles)))
        columns = max(1, min(n_styles, pairs_per_tile // rows))
        c_rank = np.unique(contents, return_inverse=True)[1]
        s_rank = np.unique(styles, return_inverse=True)[1]
        block_c, block_s = c_rank // rows, s_rank // columns
        order = np.lexsort((styles, contents, block_s, block_c))
        edges = np.flatnonzero(np.diff(block_c[order]) | np.diff(block_s[order])) + 1
    else:
        order = np.lexsort((styles, contents))
        edges = np.arange(pairs_per_tile, n, pairs_per_tile)
    for indices in np.split(order, edges):
        yield Tile(contents[indices], styles[indices])
