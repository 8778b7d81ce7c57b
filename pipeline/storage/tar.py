"""Tars whose bytes depend on their members alone: no times, no owners, one header block for each plain name."""

from __future__ import annotations

import tarfile
from typing import BinaryIO

Piece = bytes | memoryview


class TarWriter:
    """Writes a tar front to back into a stream, which need not be seekable.

    Attributes:
        position: bytes written so far.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.position = 0

    def add(self, name: str, *pieces: Piece) -> tuple[int, int]:
        """Append a member whose content is the pieces, one after the other.

        Args:
            name: the member's name; one that USTAR can't hold (over 100 bytes, or not ASCII) gets a PAX header.
            pieces: the content; several spare a copy of large arrays.

        Returns:
            (offset, size) of the content in the tar, in bytes.
        """
        info = tarfile.TarInfo(name)
        info.size = sum(memoryview(piece).nbytes for piece in pieces)
        info.mode = 0o644
        header = info.tobuf(tarfile.PAX_FORMAT)
        offset = self.position + len(header)
        padding = bytes(-info.size % tarfile.BLOCKSIZE)
        for piece in (header, *pieces, padding):
            self._stream.write(piece)
        self.position = offset + info.size + len(padding)
        return offset, info.size

    def end(self) -> None:
        """Write the end mark: two empty blocks, filled up to a whole record as ``tar`` does."""
        end = 2 * tarfile.BLOCKSIZE
        self._stream.write(bytes(end + -(self.position + end) % tarfile.RECORDSIZE))
