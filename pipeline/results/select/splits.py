"""Splits without leaks: by contents and styles that are held out, from the hash of the picture alone.

A picture's place follows from its hash and the seed, not from what else is there. So a data set that grows keeps its
splits, and a picture that is a content here and a style there is on one side only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from diffstyle.errors import ConfigError
from pipeline.storage.identity import digest

By = Literal["both", "content", "style"]
BY: tuple[str, ...] = get_args(By)


def parse_splits(text: str) -> dict[str, float]:
    """``train=0.8,validation=0.1,test=0.1`` as names and shares, which make up 1. ConfigError else."""
    example = "write them as train=0.8,validation=0.1,test=0.1"
    shares: dict[str, float] = {}
    for piece in text.split(","):
        name, equals, number = (part.strip() for part in piece.partition("="))
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not equals or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or not 0 < share <= 1:
            raise ConfigError(f"--splits: {piece.strip()!r} is no name with a share above 0 and up to 1; {example}")
        if name == "all":
            raise ConfigError("--splits: `datasets` keeps the name all for all splits together; name it otherwise")
        if name.lower() in {one.lower() for one in shares}:  # one folder, on many disks
            raise ConfigError(f"--splits: {name} is given twice; {example}")
        shares[name] = share
    if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise ConfigError(f"--splits: the shares make up {sum(shares.values()):g} and not 1; {example}")
    return shares


def split_of(image: str, shares: Mapping[str, float], seed: int) -> str:
    """The split that a picture belongs to.

    Args:
        image: The picture's hash.
        shares: Of each split, as :func:`parse_splits` gives them; their order counts.
        seed: Another seed gives other splits.
    """
    point = int(digest("split", str(seed), image)[:13], 16) / 16**13  # 52 bits: exact as a float
    end = 0.0
    for name, share in shares.items():
        end += share
        if point < end:
            return name
    return list(shares)[-1]  # shares that make up a little less than 1


def splits_of(
    contents: pa.ChunkedArray, styles: pa.ChunkedArray, shares: Mapping[str, float], seed: int, by: By
) -> pa.Array:
    """The split of each pair; null where its content and its style belong to different ones.

    Args:
        contents: The content's hash of each pair.
        styles: The style's.
        shares: As :func:`parse_splits` gives them.
        seed: Another seed gives other splits.
        by: ``both``; or ``content`` or ``style``, and then the other side's pictures may be in several splits.
    """
    names = {"content": contents, "style": styles}
    sides = [_side(names[side], shares, seed) for side in (("content", "style") if by == "both" else (by,))]
    if len(sides) == 1:
        return sides[0]
    return pc.if_else(pc.equal(*sides), sides[0], pa.scalar(None, pa.string()))


def _side(images: pa.ChunkedArray, shares: Mapping[str, float], seed: int) -> pa.Array:
    distinct = pc.unique(images)
    places = pa.array([split_of(image, shares, seed) for image in distinct.to_pylist()], pa.string())
    at = pc.index_in(images, distinct)
    return places.take(at.combine_chunks() if isinstance(at, pa.ChunkedArray) else at)
