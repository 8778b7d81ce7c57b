"""Which content x style pairs a job wants, as two index arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from diffstyle.errors import DiffStyleError
from pipeline.job import Job, ListedPairs, RandomPairs
from pipeline.storage import Place


class PairsError(DiffStyleError):
    """A list of pairs that can't be read, or names a picture that is not there."""


@dataclass(frozen=True)
class Entries:
    """The distinct pictures of one side, in key order, with the index rows of their bank."""

    rows: list[dict]
    names: dict[str, int]  # every name a picture may be called by -> its number; -1 where a name is ambiguous

    @property
    def images(self) -> list[str]:
        return [row["image"] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)


def entries(index: pa.Table, wanted: set[str] | None = None) -> Entries:
    """The distinct pictures of a bank's index. Aliases (the same image under another key) become further names.

    ``wanted``: the images that count; None: all.
    """
    rows: list[dict] = []
    number: dict[str, int] = {}
    names: dict[str, int] = {}
    columns = ["key", "image", "source", "source_hash", "label", "caption", "meta"]
    for row in index.select(columns).to_pylist():
        if wanted is not None and row["image"] not in wanted:
            continue
        n = number.setdefault(row["image"], len(rows))
        if n == len(rows):
            rows.append(row)
        source = row["source"] or ""
        for name in {row["key"], row["image"], source, source.replace("#", "/").rpartition("/")[2], _stem(source)}:
            if name and names.setdefault(name, n) != n:
                names[name] = -1
    return Entries(rows, names)


def _stem(source: str) -> str:
    name = source.replace("#", "/").rpartition("/")[2]
    return name.rpartition(".")[0]


def wanted_pairs(job: Job, contents: Entries, styles: Entries) -> tuple[np.ndarray, np.ndarray]:
    """(content numbers, style numbers), both (N,) int64, each pair once, in the order of contents, then styles.

    Raises PairsError where ``zip`` meets sides of different length, or a list names a picture that is not there.
    """
    n_c, n_s = len(contents), len(styles)
    if job.pairs == "all":
        return np.repeat(np.arange(n_c), n_s), np.tile(np.arange(n_s), n_c)
    if job.pairs == "zip":
        if n_c != n_s:
            raise PairsError(
                f"pairs: zip needs as many contents as styles, but there are {n_c} distinct contents and {n_s} styles"
            )
        return np.arange(n_c), np.arange(n_c)
    if isinstance(job.pairs, RandomPairs):
        return _random_pairs(job.pairs, contents, styles)
    assert isinstance(job.pairs, ListedPairs)
    return _listed_pairs(job.pairs.file, contents, styles)


def _random_pairs(spec: RandomPairs, contents: Entries, styles: Entries) -> tuple[np.ndarray, np.ndarray]:
    """``k`` styles for each content: those whose hash together with the content's is smallest.

    So a content keeps its styles when other contents come, and mostly when other styles come (rendezvous hashing).
    """
    k = min(spec.random, len(styles))
    salt = str(spec.seed).encode()
    style_hashes = [image.encode() for image in styles.images]
    chosen = []
    for content in contents.images:
        state = hashlib.blake2b(salt + b"/" + content.encode(), digest_size=8)
        scores = []
        for image in style_hashes:
            one = state.copy()
            one.update(image)
            scores.append(int.from_bytes(one.digest(), "big"))
        chosen.append(np.sort(np.argsort(np.array(scores, np.uint64), kind="stable")[:k]))
    return np.repeat(np.arange(len(contents)), k), np.concatenate(chosen)


def _listed_pairs(file: str, contents: Entries, styles: Entries) -> tuple[np.ndarray, np.ndarray]:
    table = read_table(file)
    for column in ("content", "style"):
        if column not in table.column_names:
            raise PairsError(f"pairs.list: {file} has no column '{column}'; its columns are {table.column_names}")
    found: dict[tuple[int, int], None] = {}
    for line, row in enumerate(table.select(["content", "style"]).to_pylist(), 2):
        c = _lookup(contents, row["content"], file, line, "content")
        s = _lookup(styles, row["style"], file, line, "style")
        found[c, s] = None
    if not found:
        raise PairsError(f"pairs.list: {file} has no rows")
    pairs = np.array(sorted(found), np.int64)
    return pairs[:, 0], pairs[:, 1]


def _lookup(side: Entries, name: object, file: str, line: int, column: str) -> int:
    text = str(name)
    n = side.names.get(text)
    if n is None:
        n = side.names.get(text.replace("\\", "/").rpartition("/")[2])
    if n is None:
        raise PairsError(f"pairs.list: {file}, row {line}: no {column} is called '{text}'")
    if n < 0:
        raise PairsError(f"pairs.list: {file}, row {line}: several {column}s are called '{text}'; give the key or path")
    return n


def read_table(file: str) -> pa.Table:
    """A CSV or Parquet file as a table, CSV columns as text. PairsError where it can't be read."""
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    place = Place.parse(file)
    try:
        with place.open() as stream:
            if place.name.lower().endswith((".parquet", ".pq")):
                return pq.read_table(stream)
            names: Sequence[str] = ("content", "style")
            options = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
            return pacsv.read_csv(stream, convert_options=options)
    except FileNotFoundError:
        raise PairsError(f"pairs.list: {place} does not exist") from None
    except pa.ArrowInvalid as error:
        raise PairsError(f"pairs.list: {place} is not readable ({str(error).splitlines()[0]})") from error
