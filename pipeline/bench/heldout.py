"""The benchmark's pairs: content A is a plain drawing, style B another drawing painted, the truth A in B's painting."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from diffstyle.errors import ConfigError
from diffstyle.images import prepare, to_tensor

PLAIN = "plain"  # the painting of a drawing that is not painted


@dataclass(frozen=True)
class Pairs:
    """N pairs with known answers; pictures (N, 3, S, S) in [-1, 1].

    ``drawings`` names each pair's content drawing, ``paintings`` its style.
    """

    content: Tensor
    style: Tensor
    truth: Tensor
    drawings: list[str]
    paintings: list[str]

    def __len__(self) -> int:
        return len(self.drawings)

    def first(self, count: int) -> Pairs:
        """The first pairs alone; all where there are fewer."""
        return Pairs(
            self.content[:count],
            self.style[:count],
            self.truth[:count],
            self.drawings[:count],
            self.paintings[:count],
        )


#: What the groups of :func:`load_groups` are called, and whether their paintings are unseen.
GROUPS = {"paintings that training saw": False, "paintings that training never saw": True}


def load_groups(path: str | Path, count: int, size: int, seed: int = 0) -> dict[str, Pairs]:
    """``count`` pairs: half of them with seen paintings, half with unseen ones, or all with what the file has.

    Args:
        path: As of :func:`load_pairs`.
        count: Pairs of all groups together.
        size: The side of the pictures, in pixels.
        seed: Of the choice.

    Returns:
        The name of each group in GROUPS -> its pairs.

    Raises:
        ConfigError: As :func:`load_pairs`, or the file has no paintings.
    """
    rows = _rows(path)
    unseen = {row["unseen_painting"] for row in rows if row["painting"] != PLAIN}
    if not unseen:
        raise ConfigError(f"{path}: has no paintings, only plain drawings; benchmarks/demo_data makes such a file")
    names = [name for name, kind in GROUPS.items() if kind in unseen]
    counts = [count // len(names) + (n < count % len(names)) for n in range(len(names))]
    return {
        name: _chosen(rows, each, size, GROUPS[name], seed) for name, each in zip(names, counts, strict=True) if each
    }


def load_pairs(path: str | Path, count: int, size: int, unseen: bool = False, seed: int = 0) -> Pairs:
    """``count`` pairs of held-out drawings, every drawing about equally often, paintings in turn.

    path: the Parquet file of ``benchmarks/demo_data``; unseen: paintings that training never saw. Raises ConfigError
    where the file is missing or is another.
    """
    return _chosen(_rows(path), count, size, unseen, seed)


def _rows(path: str | Path) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; the benchmark's pictures are demo/heldout.parquet in the source tree and are not "
            "installed with the package"
        ) from None
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from error
    missing = {"image", "drawing", "painting", "unseen_painting"} - set(table.column_names)
    if missing:
        raise ConfigError(f"{path}: lacks the columns {sorted(missing)}; benchmarks/demo_data makes such a file")
    return table.select(["image", "drawing", "painting", "unseen_painting"]).to_pylist()


def _chosen(rows: list[dict[str, Any]], count: int, size: int, unseen: bool, seed: int) -> Pairs:
    at = {(row["drawing"], row["painting"]): row["image"] for row in rows}
    paintings = sorted(
        {row["painting"] for row in rows if row["painting"] != PLAIN and row["unseen_painting"] == unseen}
    )
    drawings = sorted({row["drawing"] for row in rows})
    chooser = random.Random(seed)
    order: list[str] = []
    while len(order) < count:
        order += chooser.sample(drawings, len(drawings))
    triples, contents = [], order[:count]
    for n, a in enumerate(contents):
        b = chooser.choice([drawing for drawing in drawings if drawing != a])
        painting = paintings[n % len(paintings)]
        triples.append((at[a, PLAIN], at[b, painting], at[a, painting]))
    content, style, truth = (
        torch.stack([_picture(data, size) for data in column]) for column in zip(*triples, strict=True)
    )
    return Pairs(content, style, truth, contents, [paintings[n % len(paintings)] for n in range(count)])


def _picture(data: bytes, size: int) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        return to_tensor(np.asarray(prepare(image, size)))
