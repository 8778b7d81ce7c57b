"""The best pairs: an order by a score, without near-duplicates, and no more than so many of a style or a content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffstyle.errors import ConfigError
from pipeline.results.select.pairs import score_columns


def best_first(table: pa.Table, best: str | None) -> np.ndarray:
    """The rows' numbers, the best first; pairs alike in it, or all where none is named, in the order of their ids.

    A pair's id is a hash, so that order is as good as shuffled, and always the same. Pairs without the score are last.

    Args:
        table: The pairs, sorted by ``pair``.
        best: A score, or another of its columns of numbers; ``-`` before it turns its direction. Where neither end is
            good by itself, and for columns that are no scores: ``+`` for most first, ``-`` for least first.

    Raises:
        ConfigError: Its direction isn't known.
    """
    if best is None:
        return np.arange(len(table))
    sign, name = (best[0], best[1:]) if best[:1] in "+-" else ("", best)
    values = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    column = score_columns(table).get(name)
    more = None if column is None else column.better
    if more is None:
        if not sign:
            raise ConfigError(
                f"--best {name}: neither end is good by itself; write +{name} for most first, -{name} for least first"
            )
        more = sign == "+"
    elif sign == "-":
        more = not more
    return np.argsort(np.where(np.isnan(values), np.inf, -values if more else values), kind="stable")


def without_duplicates(hashes: Sequence[bytes | None], order: np.ndarray, bits: int) -> np.ndarray:
    """The rows of ``order`` that differ in more than ``bits`` bits from each kept before them.

    Args:
        hashes: The perceptual hash of each row, 8 bytes; a row without one is kept.
        order: Rows' numbers; of two near-duplicates the first is kept.
        bits: Up to how many different bits two pictures are near-duplicates.
    """
    kept, n_kept, rows = np.empty(len(order), np.uint64), 0, []
    seen: set[bytes] = set()
    for row in order:
        value = hashes[row]
        if value is not None:
            if value in seen:
                continue
            seen.add(value)
            number = np.frombuffer(value, ">u8")[0].astype(np.uint64)
            if n_kept and int(np.bitwise_count(kept[:n_kept] ^ number).min()) <= bits:
                continue
            kept[n_kept] = number
            n_kept += 1
        rows.append(row)
    return np.array(rows, np.int64)


def within_quotas(table: pa.Table, order: np.ndarray, quotas: Mapping[str, int | None]) -> np.ndarray:
    """The rows of ``order`` that are among the first so many of their style, and of their content.

    Args:
        table: The pairs.
        order: Rows' numbers, the best first.
        quotas: Column -> how many pairs of one value of it are kept; None: any number.
    """
    limits = {name: limit for name, limit in quotas.items() if limit is not None}
    values = {name: pc.dictionary_encode(table[name]).combine_chunks() for name in limits}
    codes = {name: (one.chunk(0) if isinstance(one, pa.ChunkedArray) else one).indices for name, one in values.items()}
    numbers = {name: code.to_numpy(zero_copy_only=False) for name, code in codes.items()}
    counts = {name: Counter[int]() for name in limits}
    rows = []
    for row in order:
        if all(counts[name][numbers[name][row]] < limit for name, limit in limits.items()):
            for name in limits:
                counts[name][numbers[name][row]] += 1
            rows.append(row)
    return np.array(rows, np.int64)
