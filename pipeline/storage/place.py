"""Addresses: a local path, ``s3://bucket/...`` or ``gs://bucket/...``, read and written the same way.

Everything that the pipeline writes goes through :meth:`Place.writer`, which makes a file appear whole or not at all:
on a disk it is written beside its place, synced and renamed; on an object store it is uploaded in one piece once its
last byte is known. Credentials and endpoints come from the usual environment (``AWS_*``, ``GOOGLE_*``).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.storage.paths import join_address, split_address

# A file under way is called `.NAME.<random>.part` beside its place: hidden from every listing here, and a random
# part so that two writers of the same name never share one.
_PART_SUFFIX = ".part"


@dataclass(frozen=True)
class Entry:
    """A file as a listing shows it: its place, size in bytes and modification time in nanoseconds (0: unknown)."""

    place: Place
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Place:
    """An address on a disk or an object store. Immutable and picklable; ``place / "name"`` goes down."""

    scheme: str  # "file", "s3", "gs"
    path: str  # absolute path on a disk, "bucket/key" on a store

    # ---- addresses ----
    @classmethod
    def parse(cls, address: str | os.PathLike[str] | Place, base: str | os.PathLike[str] | None = None) -> Place:
        """Read an address. A relative path is taken from ``base`` (default: the working directory); ``~`` expands.

        Raises:
            ConfigError: as for :func:`pipeline.storage.paths.split_address`.
        """
        if isinstance(address, Place):
            return address
        return cls(*split_address(address, base))

    def __truediv__(self, name: str) -> Place:
        return Place(self.scheme, f"{self.path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return join_address(self.scheme, self.path)

    @property
    def is_local(self) -> bool:
        return self.scheme == "file"

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> Place:
        return Place(self.scheme, self.path.rstrip("/").rpartition("/")[0] or "/")

    def relative_to(self, root: Place) -> str:
        """The path below ``root`` with forward slashes; ValueError if it is not below it."""
        prefix = root.path.rstrip("/") + "/"
        if self.scheme != root.scheme or not self.path.startswith(prefix):
            raise ValueError(f"{self} is not below {root}")
        return self.path[len(prefix) :]

    @property
    def fs(self) -> pafs.FileSystem:
        """The pyarrow file system of this place (one per process and scheme)."""
        if self.scheme not in _FILE_SYSTEMS:
            _FILE_SYSTEMS[self.scheme] = _make_fs(self.scheme)
        return _FILE_SYSTEMS[self.scheme]

    # ---- questions ----
    def _info(self) -> pafs.FileInfo:
        return self.fs.get_file_info(self.path)

    def exists(self) -> bool:
        return self._info().type != pafs.FileType.NotFound

    def is_dir(self) -> bool:
        return self._info().type == pafs.FileType.Directory

    def is_file(self) -> bool:
        return self._info().type == pafs.FileType.File

    def size(self) -> int:
        """Bytes of this file; FileNotFoundError if there is none."""
        info = self._info()
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(str(self))
        return info.size

    def list(self, suffix: str | tuple[str, ...] = "", recursive: bool = False) -> list[Entry]:
        """The files below, sorted by path; [] where the folder does not exist. Unfinished and hidden files left out."""
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        found = []
        for info in self.fs.get_file_info(selector):
            hidden = any(piece.startswith(".") for piece in info.path[len(self.path) :].split("/"))
            if info.type == pafs.FileType.File and not hidden and info.path.endswith(suffix):
                found.append(Entry(Place(self.scheme, info.path), info.size or 0, info.mtime_ns or 0))
        return sorted(found, key=lambda entry: entry.place.path)

    # ---- reading ----
    def open(self) -> pa.NativeFile:
        """A seekable stream of the file's bytes."""
        return self.fs.open_input_file(self.path)

    def read_bytes(self) -> bytes:
        with self.open() as stream:
            return stream.read()

    def read_range(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``, without reading the rest."""
        with self.open() as stream:
            return stream.read_at(length, offset)

    # ---- writing ----
    @contextlib.contextmanager
    def writer(self) -> Iterator[BinaryIO]:
        """Write the file in one piece: it appears whole and synced when the block ends, not at all if it raises."""
        if not self.is_local:
            # pyarrow's upload stream completes on close even after an error, so the bytes are gathered first.
            with tempfile.SpooledTemporaryFile(max_size=64 << 20) as spool:
                yield cast(BinaryIO, spool)
                spool.seek(0)
                with self.fs.open_output_stream(self.path) as stream:
                    shutil.copyfileobj(cast(IO[Any], spool), stream, 8 << 20)
            return
        target = Path(self.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{_PART_SUFFIX}")
        try:
            with part.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)

    def write_bytes(self, data: bytes) -> None:
        """Replace the file's content, whole or not at all."""
        with self.writer() as stream:
            stream.write(data)

    def delete(self) -> None:
        """Remove this file; nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(self.path)

    def delete_tree(self) -> None:
        """Remove this folder and all below it; nothing happens where there is none."""
        if self.exists():
            self.fs.delete_dir(self.path)

    def remove_unfinished(self, recursive: bool = False) -> int:
        """Remove what killed writers left in this folder; returns how many files. Call it while holding the lock."""
        if not self.is_local or not Path(self.path).is_dir():
            return 0
        left = list(Path(self.path).glob(f"{'**/' if recursive else ''}.*{_PART_SUFFIX}"))
        for file in left:
            file.unlink(missing_ok=True)
        return len(left)


_FILE_SYSTEMS: dict[str, pafs.FileSystem] = {}


def _make_fs(scheme: str) -> pafs.FileSystem:
    if scheme == "file":
        return pafs.LocalFileSystem()
    if scheme == "gs":
        return pafs.GcsFileSystem()
    # Arrow reads credentials from the environment; the endpoint of an S3-compatible store is passed on here.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options: dict[str, Any] = {"endpoint_override": endpoint} if endpoint else {}
    return pafs.S3FileSystem(region=region, allow_bucket_creation=False, **options)


def _sync_folder(folder: Path) -> None:
    # A rename survives a power cut only once its folder is synced too.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
