"""Which content x style pairs a job wants, as two index arrays."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from diffstyle.errors import DiffStyleError
from pipeline.jobfile.schema import Job, ListedPairs, RandomPairs
from pipeline.storage.identity import source_name, source_stem
from pipeline.storage.place import Place


class PairsError(DiffStyleError):
    """A list of pairs that can't be read, or names a picture that is not there."""


@dataclass(frozen=True)
class Entries:
    """The distinct pictures of one side, in key order, with the index rows of their bank."""

    rows: list[dict]
    names: dict[str, int]  # every name a picture may be called by -> its number; -1 where a name is ambiguous
    # The pictures as the data set lists them, a copy as often as it is there; None for one that could not be used.
    listing: list[int | None] = field(default_factory=list)

    @property
    def images(self) -> list[str]:
        return [row["image"] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)


def entries(index: pa.Table, listed: Sequence[str | None] | None = None) -> Entries:
    """The distinct pictures of a bank's index. Aliases (the same image under another key) become further names.

    ``listed``: the images that count, as their data set lists them, None where a picture could not be read. Without it,
    all that are in the bank count, in the order of their keys.
    """
    wanted = None if listed is None else set(listed)
    rows: list[dict] = []
    in_key_order: list[str] = []
    number: dict[str, int] = {}
    names: dict[str, int] = {}
    columns = ["key", "image", "source", "source_hash", "label", "caption", "meta"]
    for row in index.select(columns).to_pylist():
        if wanted is not None and row["image"] not in wanted:
            continue
        in_key_order.append(row["image"])
        n = number.setdefault(row["image"], len(rows))
        if n == len(rows):
            rows.append(row)
        source = row["source"] or ""
        for name in {row["key"], row["image"], source, source_name(source), source_stem(source)}:
            if name and names.setdefault(name, n) != n:
                names[name] = -1
    order: Sequence[str | None] = in_key_order if listed is None else listed
    return Entries(rows, names, [None if image is None else number.get(image) for image in order])


def wanted_pairs(job: Job, contents: Entries, styles: Entries) -> tuple[np.ndarray, np.ndarray]:
    """(content numbers, style numbers), both (N,) int64, each pair once, in the order of contents, then styles.

    Raises PairsError where ``zip`` meets sides of different length, or a list names a picture that is not there.
    """
    n_c, n_s = len(contents), len(styles)
    if job.pairs == "all":
        return np.repeat(np.arange(n_c), n_s), np.tile(np.arange(n_s), n_c)
    if job.pairs == "zip":
        return _zipped_pairs(contents.listing, styles.listing)
    if isinstance(job.pairs, RandomPairs):
        return _random_pairs(job.pairs, contents, styles)
    assert isinstance(job.pairs, ListedPairs)
    return _listed_pairs(job.pairs.file, contents, styles)


def check_zip(n_contents: int, n_styles: int) -> None:
    """PairsError where the sides can't be zipped."""
    if n_contents != n_styles:
        raise PairsError(
            f"pairs: zip needs as many contents as styles, but there are {n_contents} contents and {n_styles} styles; "
            "set a limit on the longer side, or give the pairs in a list"
        )


def _zipped_pairs(contents: list[int | None], styles: list[int | None]) -> tuple[np.ndarray, np.ndarray]:
    """By place in the listings, so that a picture which can't be read costs its own pair and shifts no other."""
    check_zip(len(contents), len(styles))
    found = {(c, s) for c, s in zip(contents, styles, strict=True) if c is not None and s is not None}
    pairs = np.array(sorted(found), np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


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
    found: dict[tuple[int, int], None] = {}
    for number, row in enumerate(read_list(file).to_pylist(), 1):
        where = f"pairs.list: {file}, row {number}"
        c = _lookup(contents, row["content"], where, "content")
        s = _lookup(styles, row["style"], where, "style")
        found[c, s] = None
    pairs = np.array(sorted(found), np.int64)
    return pairs[:, 0], pairs[:, 1]


def _lookup(side: Entries, name: object, where: str, column: str) -> int:
    if name is None or name == "":
        raise PairsError(f"{where}: the {column} is missing")
    text = str(name)
    n = side.names.get(text)
    if n is None:
        n = side.names.get(text.replace("\\", "/").rpartition("/")[2])
    if n is None:
        # Comparing with the names of a whole data set would take minutes.
        close = difflib.get_close_matches(text, list(side.names)[:5000], n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "; give a file name, path, key or image hash"
        raise PairsError(f"{where}: no {column} is called '{text}'{hint}")
    if n < 0:
        raise PairsError(f"{where}: several {column}s are called '{text}'; give the key or path")
    return n


def read_list(file: str) -> pa.Table:
    """The columns ``content`` and ``style`` of a list of pairs. PairsError where they can't be had, or have no rows."""
    table = _read_table(file)
    for column in ("content", "style"):
        if column not in table.column_names:
            there = ", ".join(table.column_names)
            raise PairsError(f"pairs.list: {file} has no column '{column}'; its columns are {there}")
    if not len(table):
        raise PairsError(f"pairs.list: {file} has no rows")
    return table.select(["content", "style"])


def _read_table(file: str) -> pa.Table:
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    place = Place.parse(file)
    try:
        with place.open() as stream:
            if place.name.lower().endswith((".parquet", ".pq")):
                return pq.read_table(stream)
            names: Sequence[str] = ("content", "style")
            # As text: a picture may be called 007.
            options = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
            return pacsv.read_csv(stream, convert_options=options)
    except FileNotFoundError:
        raise PairsError(f"pairs.list: {place} does not exist") from None
    except pa.ArrowInvalid as error:
        raise PairsError(f"pairs.list: {place} is not readable ({str(error).splitlines()[0]})") from error
