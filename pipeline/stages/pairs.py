"""Which content x style pairs a job wants, as two index arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from diffstyle.errors import DiffStyleError
from pipeline.jobfile.schema import Job, ListedPairs, RandomPairs
from pipeline.sources import SourceError
from pipeline.sources.rows import ROW_ERROR, SURPLUS, Row, Rows
from pipeline.stages.naming import Names, Picture, UnknownNameError, shown
from pipeline.stages.random_pairs import random_styles
from pipeline.storage.counts import count
from pipeline.storage.place import Place


class PairsError(DiffStyleError):
    """A list of pairs that can't be read, or names a picture that is not there."""


@dataclass(frozen=True)
class Listed:
    """A row of a data set: its picture's ``image``, or None and why it can't be used."""

    source: str
    image: str | None
    reason: str = "it can't be read"


@dataclass(frozen=True)
class Entries:
    """The distinct pictures of one side, in key order, with the index rows of their bank.

    listing  the pictures as the data set lists them, a copy as often as it is there
    keys     (key or image hash, number of the entry)
    roots    the folders of the data set
    """

    rows: list[dict]
    listing: list[Picture] = field(default_factory=list)
    keys: list[tuple[str, int]] = field(default_factory=list)
    roots: tuple[str, ...] = ()

    @property
    def images(self) -> list[str]:
        return [row["image"] for row in self.rows]

    @property
    def copies(self) -> int:
        """How many of the listed pictures have the pixels of one before them, and so are the same entry."""
        numbers = [picture.number for picture in self.listing if picture.number is not None]
        return len(numbers) - len(set(numbers))

    def __len__(self) -> int:
        return len(self.rows)

    def names(self, side: str) -> Names:
        """What each of them may be called in a list of pairs; ``side`` is ``content`` or ``style``."""
        keys = ((key, Picture(self.rows[number]["source"] or key, number)) for key, number in self.keys)
        return Names(side, self.listing, keys, self.roots)


def entries(index: pa.Table, listed: Sequence[Listed] | None = None, roots: Sequence[str] = ()) -> Entries:
    """The distinct pictures of a bank's index. Aliases (the same image under another key) become further names.

    ``listed``: what counts, as the data set below ``roots`` lists it. Without it, all that are in the bank count, in
    the order of their keys.
    """
    wanted = None if listed is None else {row.image for row in listed}
    rows: list[dict] = []
    in_key_order: list[Picture] = []
    number: dict[str, int] = {}
    keys: list[tuple[str, int]] = []
    columns = ["key", "image", "source", "source_hash", "label", "caption", "meta"]
    for row in index.select(columns).to_pylist():
        if wanted is not None and row["image"] not in wanted:
            continue
        n = number.setdefault(row["image"], len(rows))
        if n == len(rows):
            rows.append(row)
            keys.append((row["image"], n))
        keys.append((row["key"], n))
        in_key_order.append(Picture(row["source"] or row["key"], n))
    if listed is None:
        return Entries(rows, in_key_order, keys, tuple(roots))
    listing = [Picture(row.source, number.get(row.image or ""), row.reason) for row in listed]
    return Entries(rows, listing, keys, tuple(roots))


@dataclass(frozen=True)
class LostPair:
    """A pair that is asked for and can't be made, since one of its pictures can't be used."""

    where: str
    content: str
    style: str
    reason: str


@dataclass(frozen=True)
class WantedPairs:
    """The pairs of a job.

    contents, styles  (N,) int32 each, the numbers of the entries: each pair once, by contents, then styles
    repeated          how many rows ask for a pair that another row asks for
    lost              the rows that ask for a picture which can't be used
    """

    contents: np.ndarray
    styles: np.ndarray
    repeated: int = 0
    lost: tuple[LostPair, ...] = ()

    def __len__(self) -> int:
        return len(self.contents)


def wanted_pairs(job: Job, contents: Entries, styles: Entries) -> WantedPairs:
    """The pairs that ``job.pairs`` asks for.

    Raises PairsError where ``zip`` meets sides of different length, or a list names a picture that is not there.
    """
    n_c, n_s = len(contents), len(styles)
    if job.pairs == "all":
        return WantedPairs(np.repeat(_numbers(n_c), n_s), np.tile(_numbers(n_s), n_c))
    if job.pairs == "zip":
        check_zip(len(contents.listing), len(styles.listing))
        rows = zip(contents.listing, styles.listing, strict=True)
        return _gathered((f"row {n}", content, style) for n, (content, style) in enumerate(rows, 1))
    if isinstance(job.pairs, RandomPairs):
        return WantedPairs(*_random_pairs(job.pairs, contents, styles))
    assert isinstance(job.pairs, ListedPairs)
    return _gathered(_listed_pairs(job.pairs.file, contents, styles))


def check_zip(n_contents: int, n_styles: int) -> None:
    """PairsError where the sides can't be zipped."""
    if n_contents != n_styles:
        raise PairsError(
            f"pairs: zip needs as many contents as styles, but there are {count(n_contents, 'content')} and "
            f"{count(n_styles, 'style')}; set a limit on the longer side, or give the pairs in a list"
        )


def _gathered(rows: Iterator[tuple[str, Picture, Picture]]) -> WantedPairs:
    """Rows of (where, content, style) as pairs: a picture that can't be used costs its own rows and no others."""
    contents, styles = array("i"), array("i")
    lost = []
    for where, content, style in rows:
        if content.number is None or style.number is None:
            unusable = content if content.number is None else style
            lost.append(LostPair(where, content.source, style.source, f"{unusable.source}: {unusable.reason}"))
        else:
            contents.append(content.number)
            styles.append(style.number)
    joined = np.array(contents, np.int64) << 32 | np.array(styles, np.int64)
    each = np.unique(joined)
    numbers = (each >> 32).astype(np.int32), (each & 0xFFFFFFFF).astype(np.int32)
    return WantedPairs(*numbers, len(joined) - len(each), tuple(lost))


def _numbers(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.int32)


def _random_pairs(spec: RandomPairs, contents: Entries, styles: Entries) -> tuple[np.ndarray, np.ndarray]:
    """``spec.random`` styles for each content, the same whatever other pictures there are, as far as can be."""
    k = min(spec.random, len(styles))
    chosen = random_styles(contents.images, styles.images, k, spec.seed)
    return np.repeat(_numbers(len(contents)), k), chosen.reshape(-1)


# ---- lists ----


@dataclass(frozen=True)
class ListedPair:
    """A row of a list of pairs: the names as they are written."""

    where: str
    content: str
    style: str


def _listed_pairs(file: str, contents: Entries, styles: Entries) -> Iterator[tuple[str, Picture, Picture]]:
    folder = str(Place.parse(file).parent)
    names = {"content": contents.names("content"), "style": styles.names("style")}
    mistakes = _Mistakes(file)
    for row in read_list(file):
        pictures: list[Picture] = []
        for side, known in names.items():
            name = getattr(row, side)
            try:
                pictures.append(known.find(name, folder))
            except UnknownNameError as error:
                mistakes.add(f"{row.where}: {error}")
        if len(pictures) == 2:
            yield row.where, pictures[0], pictures[1]
    mistakes.refuse()


def read_list(file: str) -> Iterator[ListedPair]:
    """The rows of a list of pairs: CSV, JSON lines or Parquet with the columns ``content`` and ``style``.

    Raises PairsError, in one line, where the list can't be read, has no rows, or a row lacks a name: of a row that
    lacks one only after the last row.
    """
    place = Place.parse(file)
    mistakes = _Mistakes(file)
    n = 0
    try:
        if not place.is_file():
            raise PairsError(f"pairs.list: {place} does not exist, or is a folder; give a CSV, .jsonl or Parquet file")
        rows = Rows(place, ("content", "style"))
        for side in ("content", "style"):
            if rows.columns and rows.column((side,)) is None:
                raise PairsError(
                    f"pairs.list: {place} has no column '{side}'; its columns are {', '.join(rows.columns)}"
                )
        for row in rows:
            if (problem := _problem(row)) is not None:
                mistakes.add(problem)
            else:
                n += 1
                yield ListedPair(str(row), _text(row.values["content"]), _text(row.values["style"]))
    except (SourceError, ValueError) as error:
        raise PairsError(f"pairs.list: {shown(str(error), 400)}") from error
    mistakes.refuse()
    if not n:
        raise PairsError(f"pairs.list: {place} has no rows")


def _problem(row: Row) -> str | None:
    if row.problem is not None:
        return f"row {row.number}: {row.problem}"
    if ROW_ERROR in row.values:
        return f"row {row.number}: {row.values[ROW_ERROR]}"
    if SURPLUS in row.values:
        return f"{row} has more cells than there are columns; a name with the delimiter in it needs quotes"
    missing = [side for side in ("content", "style") if not _text(row.values.get(side))]
    return f"{row}: the {missing[0]} is missing" if missing else None


def _text(value: Any) -> str:
    return "" if value is None or isinstance(value, Mapping | list) else str(value).strip()


class _Mistakes:
    """What is wrong in a list: the first mistake and how many there are."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._first = ""
        self._n = 0

    def add(self, mistake: str) -> None:
        self._first = self._first or mistake
        self._n += 1

    def refuse(self) -> None:
        """PairsError where there are any."""
        if self._n:
            more = f" ({count(self._n - 1, 'more mistake')})" if self._n > 1 else ""
            raise PairsError(f"pairs.list: {self._file}, {self._first}{more}")
