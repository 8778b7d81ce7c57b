"""A bank as torch, Ray and WebDataset want their data. Tensors are read when an item is asked for, never before."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
import webdataset as wds

from pipeline.banks.description import Latents
from pipeline.banks.tensors import BankError
from pipeline.storage.place import Place


class Readable(Protocol):
    """What a view asks of a bank: all of it :class:`pipeline.banks.reader.LatentBank`'s."""

    place: Place

    @classmethod
    def open(cls, path: str) -> Readable: ...
    @property
    def index(self) -> pa.Table: ...
    def __len__(self) -> int: ...
    def get_many(self, keys: Sequence[str | int], tensors: Sequence[str] | None = None) -> list[Latents]: ...
    def read_rows(self, rows: Sequence[dict[str, Any]], tensors: Sequence[str] | None = None) -> list[Latents]: ...


class BankDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Items are dicts: ``key``, ``image`` (hash), and by name the tensors that the bank keeps, such as ``x_t``
    (3, H, W) and ``h`` (K, C, h, w), in the bank's dtypes. Works with any number of DataLoader workers; a batch is read
    in one go.
    """

    def __init__(self, bank: Readable, tensors: Sequence[str] | None = None):
        self.bank = bank
        self.tensors = None if tensors is None else tuple(tensors)

    def __len__(self) -> int:
        return len(self.bank)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: list[int]) -> list[dict[str, Any]]:
        """What a DataLoader calls with the numbers of a whole batch."""
        return [
            {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in item.items()}
            for item in map(_plain, self.bank.get_many(numbers, self.tensors))
        ]


def _plain(entry: Latents) -> dict[str, Any]:
    return {"key": entry.key, "image": entry.image, **entry.tensors}


def ray_dataset(bank: Readable, tensors: Sequence[str] | None = None, batch_size: int = 32) -> Any:
    """A ``ray.data.Dataset`` with the index's columns and the tensors as numpy columns, in key order.

    It holds the index; the workers that consume it open the bank at its address and read ``batch_size`` entries at a
    time, so the address must be one that they can reach.
    """
    import ray.data

    index = bank.index.drop_columns(["error", "status"])
    # As many blocks as there are batches: a block is what Ray hands to a worker.
    blocks = [index.slice(at, batch_size).combine_chunks() for at in range(0, len(index), batch_size)]
    read = functools.partial(_read_batch, open_bank=type(bank).open, address=str(bank.place), tensors=_names(tensors))
    return ray.data.from_arrow(blocks or [index]).map_batches(read, batch_size=None, batch_format="pyarrow")


@functools.lru_cache(maxsize=4)
def _opened(open_bank: Callable[[str], Readable], address: str) -> Readable:
    return open_bank(address)


def _read_batch(
    batch: pa.Table, open_bank: Callable[[str], Readable], address: str, tensors: tuple[str, ...] | None
) -> dict[str, np.ndarray]:
    rows = batch.to_pylist()
    entries = _opened(open_bank, address).read_rows(rows, tensors)
    columns = {name: np.array([row[name] for row in rows], dtype=object) for name in batch.column_names}
    columns["width"], columns["height"] = (batch[name].to_numpy() for name in ("width", "height"))
    for name in entries[0].tensors if entries else ():
        columns[name] = np.stack([entry.tensors[name] for entry in entries])
    return columns


def webdataset_pipeline(
    bank: Readable, shuffle: bool | int = False, tensors: Sequence[str] | None = None
) -> wds.DataPipeline:
    """A WebDataset pipeline over a bank of either format: samples with ``__key__`` (the entry's key), an array for
    each tensor (``x_t.npy``, ``h.npy``, ...) and ``json`` (the row of the index). Go on with
    ``.compose(wds.to_tuple(...))``.

    ``shuffle`` is as in ``LatentBank.batches``. Entries are divided among nodes and DataLoader workers as WebDataset
    divides shards. Unlike reading the tars of a
    bank with ``wds.WebDataset``, it sees committed parts only, names of the same image, and object stores.
    """
    return wds.DataPipeline(_BankSource(bank, shuffle, _names(tensors)), wds.split_by_node, wds.split_by_worker, _load)


# (bank, numbers of a batch, tensors)
Batch = tuple[Readable, list[int], tuple[str, ...] | None]


def _names(tensors: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if tensors is None else tuple(tensors)


class _BankSource(torch.utils.data.IterableDataset[Batch]):
    """Yields (bank, numbers of a batch, tensors): what WebDataset splits must be cheap to throw away."""

    def __init__(self, bank: Readable, shuffle: bool | int, tensors: tuple[str, ...] | None, batch: int = 8):
        self.bank, self.shuffle, self.tensors, self.batch = bank, shuffle, tensors, batch

    def __iter__(self) -> Iterator[Batch]:
        order = np.arange(len(self.bank))
        if self.shuffle is not False:
            np.random.default_rng(_new_seed() if self.shuffle is True else self.shuffle).shuffle(order)
        for start in range(0, len(order), self.batch):
            yield self.bank, order[start : start + self.batch].tolist(), self.tensors


def _new_seed() -> int | None:
    """Another seed for each pass, the same in all workers of a DataLoader, since they divide one order among them."""
    if wds.utils.pytorch_worker_info()[1] > 1:
        raise BankError("shuffle=True gives each node an order of its own; with several nodes, shuffle by a number")
    worker = torch.utils.data.get_worker_info()
    return worker.seed - worker.id if worker else None


def _load(source: Iterator[Batch]) -> Iterator[dict[str, Any]]:
    for bank, numbers, tensors in source:
        for entry in bank.get_many(numbers, tensors):
            row = {name: value for name, value in entry.row.items() if name != "created"}
            sample = {"__key__": entry.key, "__url__": str(bank.place), "json": row}
            sample.update({f"{name}.npy": value for name, value in entry.tensors.items()})
            yield sample
