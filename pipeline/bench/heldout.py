"""The benchmark's pairs: content A is a plain drawing, style B another drawing painted, the truth A in B's painting."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from diffstyle.errors import ConfigError, one_line
from diffstyle.images import prepare, to_tensor
from diffstyle.picture_files import Undecodable, read_picture
from pipeline.storage.counts import count

PLAIN = "plain"  # the painting of a drawing that is not painted

_COLUMNS = pa.schema(
    [
        ("image", pa.binary()),
        ("drawing", pa.string()),
        ("painting", pa.string()),
        ("unseen_painting", pa.bool_()),
    ]
)
_CURE = "benchmarks/demo_data makes such a file"


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
        raise ConfigError(f"{path}: has no paintings, only plain drawings; {_CURE}")
    names = [name for name, kind in GROUPS.items() if kind in unseen]
    counts = [count // len(names) + (n < count % len(names)) for n in range(len(names))]
    return {
        name: _chosen(path, rows, each, size, GROUPS[name], seed)
        for name, each in zip(names, counts, strict=True)
        if each
    }


def load_pairs(path: str | Path, count: int, size: int, unseen: bool = False, seed: int = 0) -> Pairs:
    """``count`` pairs of held-out drawings, every drawing about equally often, paintings in turn.

    path: the Parquet file of ``benchmarks/demo_data``; unseen: paintings that training never saw. Raises ConfigError
    where the file is missing or is another.
    """
    return _chosen(path, _rows(path), count, size, unseen, seed)


def _rows(path: str | Path) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file; the benchmark's pictures are demo/heldout.parquet in the source tree and are not "
            "installed with the package"
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{path}: not readable as Parquet ({one_line(error)})") from error
    missing = set(_COLUMNS.names) - set(table.column_names)
    if missing:
        raise ConfigError(f"{path}: lacks the columns {sorted(missing)}; {_CURE}")
    columns = [_column(path, table[field.name], field) for field in _COLUMNS]
    rows: list[dict[str, Any]] = pa.Table.from_arrays(columns, schema=_COLUMNS).to_pylist()
    _check(path, rows)
    return rows


def _column(path: str | Path, values: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    try:
        typed = values.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(
            f"{path}: the column {field.name} holds {values.type}, not {field.type} ({one_line(error)}); {_CURE}"
        ) from error
    if typed.null_count:
        row = typed.is_null().to_pylist().index(True)
        raise ConfigError(f"{path}: the column {field.name} is empty in row {row}, counted from 0; {_CURE}")
    return typed


def _check(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """ConfigError unless each drawing is there once plain and once in each painting, as pairs need them."""
    pictures = Counter((row["drawing"], row["painting"]) for row in rows)
    (most, times), *_ = pictures.most_common(1) or [(("", ""), 0)]
    if times > 1:
        raise ConfigError(f"{path}: has {times} pictures of drawing {most[0]} in painting {most[1]}; {_CURE}")
    kinds = {(row["painting"], row["unseen_painting"]) for row in rows if row["painting"] != PLAIN}
    both = sorted(painting for painting, unseen in kinds if unseen and (painting, False) in kinds)
    if both:
        raise ConfigError(f"{path}: unseen_painting is both true and false of painting {both[0]}; {_CURE}")
    drawings = sorted({drawing for drawing, _ in pictures})
    wanted = ((drawing, painting) for drawing in drawings for painting in (PLAIN, *sorted({name for name, _ in kinds})))
    lacking = [pair for pair in wanted if pair not in pictures]
    if lacking:
        drawing, painting = lacking[0]
        more = f", and {count(len(lacking) - 1, 'more picture')}" if len(lacking) > 1 else ""
        raise ConfigError(f"{path}: lacks drawing {drawing} in painting {painting}{more}; {_CURE}")
    if len(drawings) == 1:
        raise ConfigError(f"{path}: has one drawing alone, and a pair needs two; {_CURE}")


def _chosen(path: str | Path, rows: list[dict[str, Any]], number: int, size: int, unseen: bool, seed: int) -> Pairs:
    at = {(row["drawing"], row["painting"]): row["image"] for row in rows}
    paintings = sorted(
        {row["painting"] for row in rows if row["painting"] != PLAIN and row["unseen_painting"] == unseen}
    )
    drawings = sorted({row["drawing"] for row in rows})
    chooser = random.Random(seed)
    order: list[str] = []
    while len(order) < number:
        order += chooser.sample(drawings, len(drawings))
    triples, contents = [], order[:number]
    for n, a in enumerate(contents):
        b = chooser.choice([drawing for drawing in drawings if drawing != a])
        painting = paintings[n % len(paintings)]
        triples.append(((a, PLAIN), (b, painting), (a, painting)))

    def picture(name: tuple[str, str]) -> Tensor:
        try:
            return to_tensor(np.asarray(prepare(read_picture(at[name]).image, size)))
        except Undecodable as error:
            raise ConfigError(f"{path}: drawing {name[0]} in painting {name[1]} can't be read: {error}") from error

    content, style, truth = (torch.stack([picture(name) for name in column]) for column in zip(*triples, strict=True))
    return Pairs(content, style, truth, contents, [paintings[n % len(paintings)] for n in range(number)])
