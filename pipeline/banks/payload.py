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

from pipeline.banks import payload_parquet, payload_tar
from pipeline.banks.description import TENSORS, BankDescription, BankError, Latents
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place

# The modules offer EXTENSION, LEAD, write, decode and read_all.
PAYLOADS: dict[str, Any] = {"parquet": payload_parquet, "webdataset": payload_tar}

# An object store answers one request in tens of milliseconds whatever its size: ask for several at once.
_REMOTE_READS = 16


class Payloads:
    """Reads the tensors of rows of the index. Can be pickled, and shared by threads."""

    def __init__(self, store: PartStore, description: BankDescription):
        self._store = store
        self._description = description
        self._files = OpenFiles()

    def read_rows(self, rows: Sequence[dict[str, Any]], tensors: Sequence[str] = TENSORS) -> list[Latents]:
        """The entries of these rows, in their order.

        Every payload is opened once and read front to back, no more than these rows and ``tensors``. Rows that lead
        to the same tensors share the arrays. Raises BankError for a payload that is not as the rows say.
        """
        wanted = {(row["data"], row["row"]): row for row in rows}
        jobs = [(place, name) for place in sorted(wanted) for name in tensors if self._kept(name)]

        def fetch(job: tuple[tuple[str, int], str]) -> np.ndarray:
            return self._tensor(wanted[job[0]], job[1])

        if self._store.root.is_local or len(jobs) < 2:
            arrays = [fetch(job) for job in jobs]
        else:
            with ThreadPoolExecutor(min(_REMOTE_READS, len(jobs))) as pool:
                arrays = list(pool.map(fetch, jobs))
        found = dict(zip(jobs, arrays, strict=True))
        entries = []
        for row in rows:
            x_t, h = (found.get(((row["data"], row["row"]), name)) for name in TENSORS)
            entries.append(Latents(row["key"], row["image"], x_t, h, self._description.h_timesteps, row))
        return entries

    def _kept(self, name: str) -> bool:
        if name not in TENSORS:
            raise ValueError(f"no tensor {name!r}; a bank has {' and '.join(TENSORS)}")
        return self._description.keeps_x_t if name == "x_t" else self._description.keeps_h

    def _tensor(self, row: dict[str, Any], name: str) -> np.ndarray:
        what = self._description
        shape, dtype = (what.x_t_shape, what.x_t_dtype) if name == "x_t" else (what.h_stack_shape, what.h_dtype)
        payload = PAYLOADS[what.format]
        place = self._store.data(row["data"], payload.EXTENSION)
        offset, size = row[f"{name}_offset"] - payload.LEAD, row[f"{name}_size"] + payload.LEAD
        data = self._files.read(place, offset, size, row["data_size"])
        try:
            return payload.decode(data, shape, dtype)
        except (ValueError, SyntaxError) as error:
            raise BankError(f"{place}: {name} of {row['key']}: {error}; run `diffstyle bank repair`") from error


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
            data = np.frombuffer(bytearray(file.read_at(size, offset)), np.uint8)
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
            file = open(place.path, "rb", buffering=0) if place.is_local else place.open()  # noqa: PTH123, SIM115
        except FileNotFoundError:
            raise BankError(
                f"{place}: missing, though the index names it; reopen the bank if it was just pruned, "
                "else run `diffstyle bank repair`"
            ) from None
        there = os.fstat(file.fileno()).st_size if place.is_local else file.size()
        if there != file_size:
            file.close()
            raise BankError(f"{place}: has {there} bytes, the index says {file_size}; run `diffstyle bank repair`")
        with self._lock:
            # An evicted file is closed when the last reader lets go of it, not under its hands.
            self._files[place] = file
            while len(self._files) > self._limit:
                self._files.popitem(last=False)
        return file

    def close(self) -> None:
        with self._lock:
            self._files.clear()
