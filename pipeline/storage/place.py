"""Addresses: a local path, ``s3://bucket/...`` or ``gs://bucket/...``, read and written the same way.

Everything that the pipeline writes goes through :meth:`Place.writer`, which makes a file appear whole or not at all:
on a disk it is drafted, synced and renamed; on an object store it is uploaded in one piece once its last byte is known.
Below an output that this process holds (``FENCES``), writing and deleting go through the fence of its lock.
On a store, objects are written, read and deleted by ``objects.py``; folders are listed by Arrow.
Credentials and endpoints come from the usual environment (``AWS_*``, ``GOOGLE_*``).
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import functools
import logging
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol, cast

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.storage import objects
from pipeline.storage.first_answer import endpoint
from pipeline.storage.paths import join_address, split_address

log = logging.getLogger(__name__)

# Outside a fence, a file under way is called `.NAME.<random>.part` beside its place: hidden from every listing here,
# and random so that two writers of the same name never share one.
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

    def __repr__(self) -> str:
        return f"Place({str(self)!r})"

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
        if not _is_below(self, root):
            raise ValueError(f"{self} is not below {root}")
        return self.path[len(root.path.rstrip("/")) + 1 :]

    @property
    def fs(self) -> pafs.FileSystem:
        """The pyarrow file system of this place (one per process and scheme).

        Raises:
            NeverAnswered: A store that does not answer, which Arrow would ask for minutes.
        """
        if not self.is_local:
            objects.await_answer(self.scheme, self.path)
        if self.scheme not in _FILE_SYSTEMS:
            _FILE_SYSTEMS[self.scheme] = _make_fs(self.scheme)
        return _FILE_SYSTEMS[self.scheme]

    @property
    def fence(self) -> Fence | None:
        """The fence that this place is behind, if this process holds an output that it is below."""
        roots = [root for root in FENCES if self == root or _is_below(self, root)]
        return FENCES[max(roots, key=lambda root: len(root.path))] if roots else None

    # ---- questions ----
    def _info(self) -> pafs.FileInfo:
        return self.fs.get_file_info(self.path)

    def exists(self) -> bool:
        return self._info().type != pafs.FileType.NotFound

    def is_dir(self) -> bool:
        return self._info().type == pafs.FileType.Directory

    def is_file(self) -> bool:
        if not self.is_local:
            return objects.size(self.scheme, self.path) is not None
        return self._info().type == pafs.FileType.File

    def size(self) -> int:
        """Bytes of this file; FileNotFoundError if there is none."""
        if not self.is_local:
            size = objects.size(self.scheme, self.path)
            if size is None:
                raise FileNotFoundError(str(self))
            return size
        info = self._info()
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(str(self))
        return info.size

    def list(
        self, suffix: str | tuple[str, ...] = "", recursive: bool = False, hidden: bool | None = False
    ) -> list[Entry]:
        """The files below, sorted by path; [] where the folder does not exist. Unfinished files are omitted.

        ``hidden``: files whose names begin with a dot instead of the others; None: both.
        """
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        entries = []
        for info in self.fs.get_file_info(selector):
            is_hidden = any(piece.startswith(".") for piece in info.path[len(self.path) :].split("/"))
            if info.type == pafs.FileType.File and hidden in (is_hidden, None) and info.path.endswith(suffix):
                entries.append(Entry(Place(self.scheme, info.path), info.size or 0, info.mtime_ns or 0))
        return sorted(entries, key=lambda entry: entry.place.path)

    def folders(self) -> builtins.list[str]:
        """The names of the folders directly below, sorted, hidden ones omitted; [] where this one does not exist."""
        infos = self.fs.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        names = (info.base_name for info in infos if info.type == pafs.FileType.Directory)
        return sorted(name for name in names if not name.startswith("."))

    # ---- reading ----
    def open(self) -> pa.NativeFile:
        """A seekable stream of the file's bytes. FileNotFoundError where there is no file, but perhaps a pipe."""
        self.refuse_pipe()
        if not self.is_local:
            return pa.PythonFile(objects.ObjectFile(self.scheme, self.path), mode="r")
        return self.fs.open_input_file(self.path)

    def refuse_pipe(self) -> None:
        """FileNotFoundError where a pipe, socket or device is in a file's place: to open that may wait forever."""
        try:
            mode = Path(self.path).stat().st_mode if self.is_local else stat.S_IFREG
        except OSError:  # opening it tells better
            return
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise FileNotFoundError(errno.ENOENT, "a pipe, socket or device, and no file", str(self))

    def read_bytes(self) -> bytes:
        if not self.is_local:
            return objects.get(self.scheme, self.path)
        with self.open() as stream:
            return stream.read()

    def read_range(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``, without reading the rest."""
        if not self.is_local:
            return objects.get_range(self.scheme, self.path, offset, length)
        with self.open() as stream:
            return stream.read_at(length, offset)

    # ---- writing ----
    @contextlib.contextmanager
    def writer(self) -> Iterator[BinaryIO]:
        """Write the file in one piece: it appears whole and synced when the block ends, not at all if it raises.

        Raises Stopped below an output that another run has taken over.
        """
        fence = self.fence
        if not self.is_local:
            # Gathered first, so that nothing is uploaded of a file that is not finished.
            with tempfile.SpooledTemporaryFile(max_size=objects.ONE_REQUEST) as spool:
                yield cast(BinaryIO, spool)
                spool.seek(0, os.SEEK_END)
                size = spool.tell()
                spool.seek(0)
                if fence is not None:
                    fence.check()
                objects.put(self.scheme, self.path, cast(IO[bytes], spool), size)
                self.changed(size)
            return
        target = Path(self.path)
        draft = self._draft_beside() if fence is None else fence.draft()
        try:
            if fence is not None:
                fence.check()
            target.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            self._rename(draft, target, fence)
        except BaseException as error:
            draft.unlink(missing_ok=True)
            if fence is not None and isinstance(error, FileNotFoundError):
                fence.check()
            raise
        _sync_folder(target.parent)

    def _draft_beside(self) -> Path:
        target = Path(self.path)
        return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{_PART_SUFFIX}")

    def _rename(self, draft: Path, target: Path, fence: Fence | None) -> None:
        try:
            draft.replace(target)
        except OSError as error:
            if fence is None or error.errno != errno.EXDEV:
                raise
            _warn_of_two_file_systems(target.parent)
            near = self._draft_beside()
            shutil.copyfile(draft, near)
            draft.unlink()
            with near.open("rb") as stream:
                os.fsync(stream.fileno())
            fence.check()
            near.replace(target)

    def put(self, data: bytes) -> None:
        """Write an object of a store, whatever fence there is: for the lock itself."""
        objects.put(self.scheme, self.path, data, len(data))

    def write_bytes(self, data: bytes) -> None:
        """Replace the file's content, whole or not at all."""
        with self.writer() as stream:
            stream.write(data)

    def delete(self) -> None:
        """Remove this file; nothing happens where there is none. Raises Stopped as :meth:`writer` does."""
        fence = self.fence
        if fence is not None:
            fence.check()
        if not self.is_local:
            objects.delete(self.scheme, self.path)
            self.changed(None)
            return
        if fence is None:
            with contextlib.suppress(FileNotFoundError):
                self.fs.delete_file(self.path)
            return
        draft = fence.draft()
        try:
            Path(self.path).rename(draft)  # fails for a holder that is fenced off, and then the file stays
            draft.unlink()
        except FileNotFoundError:
            fence.check()
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            fence.check()
            Path(self.path).unlink(missing_ok=True)

    def changed(self, size: int | None) -> None:
        """Remember, below an output that this process holds, that an object has so many bytes now; None: it is gone."""
        if self.fence is not None:
            self.fence.changed(Entry(self, size or 0, time.time_ns()), gone=size is None)

    def delete_tree(self) -> None:
        """Remove this folder and all below it; nothing happens where there is none."""
        if self.fence is not None:
            self.fence.check()
            self.fence.forget(self)
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


class Fence(Protocol):
    """The right to write below an output; ``storage/lock.py`` has what it is."""

    turn: int  # the number of the holder's turn
    seal: int

    def check(self) -> None:
        """Raise Stopped if this process no longer holds the output."""

    def check_now(self) -> None:
        """The same, and never by what was known a moment ago."""

    def files(self, folder: Place, again: bool = False) -> list[Entry]:
        """The files of a folder, hidden ones too, in which the holder's process alone writes.

        ``again``: as they are now, where that may be known already.
        """

    def changed(self, entry: Entry, gone: bool) -> None:
        """This process has written or deleted a file."""

    def forget(self, folder: Place) -> None:
        """All below a folder may have changed."""

    def draft(self) -> Path:
        """On a disk: a new name in the holder's own folder, out of which a file is renamed to its place."""


#: The outputs that this process holds, or works for as a worker of the process that does.
FENCES: dict[Place, Fence] = {}

_FILE_SYSTEMS: dict[str, pafs.FileSystem] = {}


def _make_fs(scheme: str) -> pafs.FileSystem:
    if scheme == "file":
        return pafs.LocalFileSystem()
    if scheme == "gs":
        return pafs.GcsFileSystem()
    # Arrow reads credentials from the environment; the endpoint of an S3-compatible store is passed on here.
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    where = endpoint(scheme)
    options: dict[str, Any] = {"endpoint_override": where} if where else {}
    options["retry_strategy"] = pafs.AwsStandardS3RetryStrategy(max_attempts=10)
    return pafs.S3FileSystem(region=region, allow_bucket_creation=False, **options)


def _is_below(place: Place, root: Place) -> bool:
    return place.scheme == root.scheme and place.path.startswith(root.path.rstrip("/") + "/")


@functools.cache
def _warn_of_two_file_systems(folder: Path) -> None:
    log.warning(
        "%s is on another file system than the output's lock, so a run that is paused just here can write over what "
        "its successor wrote; put both on one file system",
        folder,
    )


def _sync_folder(folder: Path) -> None:
    # A rename survives a power cut only once its folder is synced too.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
