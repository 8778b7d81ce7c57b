"""The payload files of a bank: which format is which module, and ranged reads with a bounded number of files open."""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from diffstyle.errors import one_line
from pipeline.banks import payload_parquet, payload_tar
from pipeline.banks.description import BankDescription, Latents
from pipeline.banks.tensors import BankError, TensorSpec, checksum
from pipeline.storage.counts import count
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place

# The modules offer EXTENSION, LEAD, write, decode, read_all, stored_size and total_bytes.
PAYLOADS: dict[str, Any] = {"parquet": payload_parquet, "webdataset": payload_tar}

# An object store answers one request in tens of milliseconds whatever its size: ask for several at once.
_REMOTE_READS = 16


class Payloads:
    """Reads the tensors of rows of the index. Can be pickled, and shared by threads."""

    def __init__(self, store: PartStore, description: BankDescription):
        self._store = store
        self._description = description
        self._files = OpenFiles()
        self._sizes = {one.name: PAYLOADS[description.format].stored_size(one) for one in description.tensors}

    @property
    def root(self) -> Place:
        """The bank."""
        return self._store.root

    def read_rows(self, rows: Sequence[dict[str, Any]], tensors: Sequence[str] | None = None) -> list[Latents]:
        """The entries of these rows, in their order, with these ``tensors`` (None: all that the bank keeps).

        Every payload is opened once and read front to back, no more than these rows and tensors. Rows that lead to the
        same tensors share the arrays. Raises BankError for a payload that is not as the rows say, and for a tensor
        that the bank does not keep.
        """
        specs = [self._description.tensor(name) for name in (self._description.names if tensors is None else tensors)]
        wanted = {(row["data"], row["row"]): row for row in rows}
        jobs = [(place, spec) for place in sorted(wanted) for spec in specs]

        def fetch(job: tuple[tuple[str, int], TensorSpec]) -> np.ndarray:
            return self._tensor(wanted[job[0]], job[1])

        if self._store.root.is_local or len(jobs) < 2:
            arrays = [fetch(job) for job in jobs]
        else:
            with ThreadPoolExecutor(min(_REMOTE_READS, len(jobs))) as pool:
                arrays = list(pool.map(fetch, jobs))
        by_place: dict[tuple[str, int], dict[str, np.ndarray]] = {place: {} for place in wanted}
        for (place, spec), array in zip(jobs, arrays, strict=True):
            by_place[place][spec.name] = array
        timesteps = {spec.name: spec.timesteps for spec in specs if spec.timesteps is not None}
        return [
            Latents(row["key"], row["image"], dict(by_place[row["data"], row["row"]]), dict(timesteps), row)
            for row in rows
        ]

    def _tensor(self, row: dict[str, Any], spec: TensorSpec) -> np.ndarray:
        payload = PAYLOADS[self._description.format]
        place = self._store.data(row["data"], payload.EXTENSION)
        offset, size, file_size = row[f"{spec.name}_offset"], self._sizes[spec.name], row["data_size"]
        if row[f"{spec.name}_size"] != size or not payload.LEAD <= (offset or -1) <= (file_size or 0) - size:
            raise BankError(
                f"{place}: {spec.name} of {row['key']}: the index does not point at a tensor of the bank's shape; "
                "run `diffstyle bank repair`"
            )
        data = self._files.read(place, offset - payload.LEAD, size + payload.LEAD, file_size)
        try:
            tensor: np.ndarray = payload.decode(data, spec)
            if row.get(f"{spec.name}_crc") not in (None, checksum(tensor)):
                raise ValueError("these are not the values that were written")
            return tensor
        except (ValueError, SyntaxError) as error:
            reason = one_line(error)
            raise BankError(f"{place}: {spec.name} of {row['key']}: {reason}; run `diffstyle bank repair`") from error


def payload_bytes(description: BankDescription, images: int, part_size: int) -> int:
    """Bytes of the payloads of a bank of so many images in parts of ``part_size``, before any is made.

    Right within a few hundred bytes an image (which depend on the length of names and captions): far below 1 % at
    256 px, and within 5 % down to tensors of some 20 KB.
    """
    total_bytes = PAYLOADS[description.format].total_bytes
    full, rest = divmod(images, part_size)
    return int(full * total_bytes(description, part_size) + (total_bytes(description, rest) if rest else 0))


class OpenFiles:
    """The ``limit`` files used last stay open. Threads may share one; a copy in another process starts empty."""

    def __init__(self, limit: int = 128):
        self._limit = limit
        self._files: collections.OrderedDict[Place, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenFiles, (self._limit,)

    def read(self, place: Place, offset: int, size: int, file_size: int) -> np.ndarray:
        """``size`` bytes from ``offset`` as uint8, in memory of their own, writable.

        Raises BankError if the file is missing or does not have the ``file_size`` bytes that the index says.
        """
        file = self._open(place, file_size)
        if not isinstance(file, pa.NativeFile):
            data = np.empty(size, np.uint8)  # not a bytearray: filling that with zeros takes longer than reading
            into = memoryview(data.data)
            got = os.preadv(file.fileno(), [into], offset)
            while 0 < got < size:  # a read may stop at 2 GiB, or at a signal
                more = os.preadv(file.fileno(), [into[got:]], offset + got)
                got = got + more if more else -1
        else:
            # Not through the file, whose readers wait for each other.
            data = np.frombuffer(bytearray(place.read_range(offset, size)), np.uint8)
            got = len(data)
        if got != size:
            raise BankError(f"{place}: ends before byte {offset + size}; run `diffstyle bank repair`")
        return data

    def _open(self, place: Place, file_size: int) -> Any:
        with self._lock:
            if place in self._files:
                self._files.move_to_end(place)
                return self._files[place]
        file: Any
        try:
            place.refuse_pipe()
            file = open(place.path, "rb", buffering=0) if place.is_local else place.open()  # noqa: PTH123, SIM115
        except FileNotFoundError:
            raise BankError(
                f"{place}: missing, though the index names it; reopen the bank if it was just pruned, "
                "else run `diffstyle bank repair`"
            ) from None
        actual_size = os.fstat(file.fileno()).st_size if place.is_local else file.size()
        if actual_size != file_size:
            file.close()
            raise BankError(
                f"{place}: has {count(actual_size, 'byte')}, the index says {file_size}; run `diffstyle bank repair`"
            )
        with self._lock:
            # An evicted file is closed when its last reader has let go of it, never while it is read.
            self._files[place] = file
            while len(self._files) > self._limit:
                self._files.popitem(last=False)
        return file

    def close(self) -> None:
        with self._lock:
            self._files.clear()
