"""The latent bank: the tensors of many images (x_T, h, ...), known by the images' content. One reader for both formats.

A bank is a folder of parts (``storage/parts.py``) on a disk or an object store. Opening it reads the index and no
tensors; an entry is one ranged read for each of its tensors, at the place that the index gives. Writing is in
``writer.py``, what a bank holds in ``description.py``; both are offered here too.
"""

from __future__ import annotations

import bisect
import difflib
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.banks.columns import read_columns
from pipeline.banks.description import BANK_FORMAT_VERSION, BankDescription, Latents, UnknownKeyError, part_name
from pipeline.banks.index import BankIndex, read_description
from pipeline.banks.payload import Payloads
from pipeline.banks.tensors import BankError, TensorSpec
from pipeline.banks.writer import BankWriter, latest_failures
from pipeline.storage.counts import count
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place

if TYPE_CHECKING:
    import pandas as pd
    import ray.data
    import webdataset as wds

    from pipeline.banks.views import BankDataset

__all__ = [
    "BANK_FORMAT_VERSION",
    "BankDescription",
    "BankError",
    "BankWriter",
    "LatentBank",
    "Latents",
    "TensorSpec",
    "UnknownKeyError",
    "part_name",
]


class LatentBank:
    """Read access to a bank. Entries are in the order of their keys; failed ones and unfinished parts are not there.

    ``bank[key]``, ``bank[image_hash]`` and ``bank[3]`` give :class:`Latents`, ``bank[10:20]`` a list of them. Memory:
    the index (some 250 bytes an entry), never more tensors than asked for. It can be pickled, and shared by threads.

    Where two different images have the same key (same name, and hashes that begin alike), the one with the larger hash
    is known by a key that ends in its whole hash.
    """

    def __init__(self, place: Place):
        self.place = place
        self._store = PartStore(place)
        self.description, self.about = read_description(self._store)
        self.payloads = Payloads(self._store, self.description)
        self.refresh()

    @classmethod
    def open(cls, path: str | os.PathLike[str] | Place) -> LatentBank:
        """The bank at an address.

        Args:
            path: a folder, or an address on S3 or GCS.

        Raises:
            DescriptionError: There is no bank.
            BankError: This code can't read it.
        """
        return cls(Place.parse(path))

    def refresh(self) -> None:
        """Read the index again, for entries that a running job has committed since."""
        everything = BankIndex(self._store, self.description).read()
        self._failed = latest_failures(everything, "key")
        self._index = _entries(everything)
        self._keys, self._images = self._index["key"], self._index["image"]
        self._by_image = pc.sort_indices(self._images).to_numpy()
        del everything
        pa.default_memory_pool().release_unused()  # what reading took beyond what is kept

    # ---- the index ----
    @property
    def index(self) -> pa.Table:
        """A row for each entry, sorted by key, with the columns of ``description.index_schema``."""
        return self._index

    def to_pandas(self) -> pd.DataFrame:
        """Everything but the tensors: the index, and the columns added by ``columns.write_column``."""
        frame = self._index.to_pandas()
        for name, values in read_columns(self.place).items():
            frame[name] = frame["image"].map(values)
        return frame

    def failed(self) -> dict[str, str]:
        """Key -> error of the images that could not be inverted."""
        return dict(self._failed)

    def keys(self) -> list[str]:
        """All keys, sorted."""
        return self._keys.to_pylist()

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def __repr__(self) -> str:
        description = self.description
        holds = f"{count(len(self), 'entry')}, {' and '.join(description.names)}"
        return f"<LatentBank {self.place}: {holds}, {description.format}, {description.model_name}>"

    def _find(self, name: str) -> int | None:
        """The entry's number by key or image hash: a binary search, no dictionary of Python strings to hold."""
        at = bisect.bisect_left(range(len(self)), name, key=lambda i: self._keys[i].as_py())
        if at < len(self) and self._keys[at].as_py() == name:
            return at
        order = self._by_image
        at = bisect.bisect_left(range(len(self)), name, key=lambda i: self._images[int(order[i])].as_py())
        if at < len(self) and self._images[int(order[at])].as_py() == name:
            return int(order[at])
        return None

    def _position(self, key: str | int | np.integer) -> int:
        if isinstance(key, int | np.integer):
            number = int(key) + len(self) if key < 0 else int(key)
            if not 0 <= number < len(self):
                raise IndexError(f"{self.place} has {count(len(self), 'entry')}, asked for number {key}")
            return number
        number_of_key = self._find(key)
        if number_of_key is None:
            raise self._unknown(key)
        return number_of_key

    def _unknown(self, key: str) -> UnknownKeyError:
        if key in self._failed:
            return UnknownKeyError(f"{key}: could not be inverted ({self._failed[key]}); try `--retry-failed`")
        # Comparing with all keys would take minutes in a large bank: those that begin alike, and the first ones.
        near = bisect.bisect_left(range(len(self)), key, key=lambda i: self._keys[i].as_py())
        some = pa.concat_tables([self._index.slice(max(0, near - 500), 1000), self._index.slice(0, 2000)])
        close = difflib.get_close_matches(key, sorted(set(some["key"].to_pylist())), n=3, cutoff=0.5)
        hint = f"; close: {', '.join(close)}" if close else ""
        return UnknownKeyError(f"{key!r} is neither a key nor an image of {self.place}{hint}")

    def named(self, name: str) -> str:
        """The key that people mean by ``name``.

        Args:
            name: A key or an image hash, whole, or the beginning of a single one.

        Returns:
            The whole key.

        Raises:
            UnknownKeyError: Nothing begins so, or entries of several pictures do.
        """
        at = self._find(name)
        if at is not None:
            return str(self._keys[at].as_py())
        order = self._by_image
        rows = self._beginning(name, lambda n: self._keys[n].as_py())
        rows = rows or [int(order[n]) for n in self._beginning(name, lambda n: self._images[int(order[n])].as_py())]
        if not rows:
            raise self._unknown(name)
        if len({self._images[row].as_py() for row in rows}) > 1:
            some = ", ".join(self._keys[row].as_py() for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
            raise UnknownKeyError(f"{name!r} begins several keys or images of {self.place} ({some}); write more of it")
        return str(self._keys[rows[0]].as_py())

    def _beginning(self, name: str, value: Callable[[int], str], most: int = 100) -> list[int]:
        """The first few numbers whose values, sorted by number, begin with ``name``."""
        first = bisect.bisect_left(range(len(self)), name, key=value)
        some = range(first, min(len(self), first + most)) if name else ()
        return list(itertools.takewhile(lambda n: value(n).startswith(name), some))

    # ---- entries ----
    @overload
    def __getitem__(self, key: str | int) -> Latents: ...
    @overload
    def __getitem__(self, key: slice) -> list[Latents]: ...
    def __getitem__(self, key: str | int | slice) -> Latents | list[Latents]:
        if isinstance(key, slice):
            return self.read_rows([self._row(number) for number in range(len(self))[key]])
        return self.read_rows([self._row(self._position(key))])[0]

    def get_many(self, keys: Sequence[str | int], tensors: Sequence[str] | None = None) -> list[Latents]:
        """Several entries, in the order of the keys.

        Every payload is opened once, only the rows asked for are read, front to back. Names of the same image share
        its arrays.

        Args:
            keys: keys, image hashes or numbers.
            tensors: names of those wanted: ``("h",)`` spares reading x_T. None: all.

        Raises:
            UnknownKeyError: A key that the bank does not hold.
            BankError: A payload that is not as the index says.
        """
        return self.read_rows([self._row(self._position(key)) for key in keys], tensors)

    def batches(
        self, size: int, shuffle: bool | int = False, tensors: Sequence[str] | None = None
    ) -> Iterator[list[Latents]]:
        """All entries in lists, in key order unless shuffled.

        Args:
            size: entries in a list; the last may be shorter.
            shuffle: True for another order every time, a number for the order of that seed.
            tensors: names of those wanted; None: all.
        """
        if size < 1:
            raise ValueError(f"a batch needs at least one entry, not {size}")
        order = np.arange(len(self))
        if shuffle is not False:
            np.random.default_rng(None if shuffle is True else shuffle).shuffle(order)
        for start in range(0, len(order), size):
            yield self.read_rows([self._row(number) for number in order[start : start + size].tolist()], tensors)

    def __iter__(self) -> Iterator[Latents]:
        for batch in self.batches(16):
            yield from batch

    def read_rows(self, rows: Sequence[dict[str, Any]], tensors: Sequence[str] | None = None) -> list[Latents]:
        """The entries of some rows, as :meth:`get_many` reads them.

        Args:
            rows: of the index.
            tensors: names of those wanted; None: all.
        """
        return self.payloads.read_rows(rows, tensors)

    def _row(self, number: int) -> dict[str, Any]:
        columns = zip(self._index.column_names, self._index.columns, strict=True)
        return {name: column[number].as_py() for name, column in columns}

    # ---- as other libraries want it; the imports are theirs to pay ----
    def torch_dataset(self, tensors: Sequence[str] | None = None) -> BankDataset:
        """A map-style ``torch.utils.data.Dataset``; see :class:`pipeline.banks.views.BankDataset`.

        Args:
            tensors: names of those wanted; None: all.
        """
        from pipeline.banks.views import BankDataset

        return BankDataset(self, tensors)

    def ray_dataset(self, tensors: Sequence[str] | None = None, batch_size: int = 32) -> ray.data.Dataset:
        """A Ray dataset that reads tensors as it is consumed; see :func:`pipeline.banks.views.ray_dataset`.

        Args:
            tensors: names of those wanted; None: all.
            batch_size: entries read at once.
        """
        from pipeline.banks.views import ray_dataset

        return ray_dataset(self, tensors, batch_size)

    def webdataset(self, shuffle: bool | int = False, tensors: Sequence[str] | None = None) -> wds.DataPipeline:
        """A WebDataset pipeline over either format; see :func:`pipeline.banks.views.webdataset_pipeline`.

        Args:
            shuffle: True for another order every time, a number for the order of that seed.
            tensors: names of those wanted; None: all.
        """
        from pipeline.banks.views import webdataset_pipeline

        return webdataset_pipeline(self, shuffle, tensors)


@functools.lru_cache(maxsize=8)
def cached_bank(path: str) -> LatentBank:
    """A bank opened once in this process. Banks only grow, so a worker that misses a key refreshes it."""
    return LatentBank.open(path)


def _entries(index: pa.Table) -> pa.Table:
    """The ok rows sorted by key, keys made unique, in one chunk. Of several for a (key, image) the last one made."""
    rows = index.filter(pc.equal(index["status"], "ok"))
    by = [("key", "ascending"), ("image", "ascending"), ("created", "descending")]
    by += [("data", "ascending"), ("row", "ascending")]
    rows = rows.sort_by(by).combine_chunks()
    if len(rows) < 2:
        return rows
    same_key = _equals_previous(rows["key"])
    same_image = _equals_previous(rows["image"])
    rows, same_key = rows.filter(pa.array(~(same_key & same_image))), same_key[~(same_key & same_image)]
    if same_key.any():
        keys = rows["key"].to_pylist()
        images = rows["image"].to_pylist()
        for i in np.flatnonzero(same_key):
            keys[i] = f"{keys[i]}-{images[i]}"
        rows = rows.set_column(0, "key", pa.array(keys, pa.string())).sort_by("key")
    return rows.combine_chunks()


def _equals_previous(column: pa.ChunkedArray) -> np.ndarray:
    """For each value, whether it equals the one before it."""
    values = column.combine_chunks()
    equal = pc.equal(values[1:], values[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[False], equal])
