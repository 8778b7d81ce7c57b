"""Ranged reads from the payloads of a bank, with a bounded number of files kept open."""

from __future__ import annotations

import collections
import os
import threading
from typing import Any

import pyarrow as pa

from pipeline.bank_format import BankError
from pipeline.storage import Place


class OpenFiles:
    """The ``limit`` files used last stay open. Threads may share one; a copy in another process starts empty."""

    def __init__(self, limit: int = 128):
        self._limit = limit
        self._files: collections.OrderedDict[Place, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenFiles, (self._limit,)

    def read(self, place: Place, offset: int, size: int, file_size: int) -> bytearray:
        """``size`` bytes from ``offset``, in memory of their own.

        Raises BankError if the file is missing or does not have the ``file_size`` bytes that the index says.
        """
        file = self._open(place, file_size)
        if not isinstance(file, pa.NativeFile):
            data = bytearray(size)
            got = os.preadv(file.fileno(), [data], offset)
            while 0 < got < size:  # a read may stop at 2 GiB, or at a signal
                more = os.preadv(file.fileno(), [memoryview(data)[got:]], offset + got)
                got = got + more if more else -1
        else:
            data = bytearray(file.read_at(size, offset))
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
