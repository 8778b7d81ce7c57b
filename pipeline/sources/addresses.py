"""Addresses of data sets: braces, globs, folders; and reading a file of theirs with a reason where that fails."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import itertools
import os
import posixpath
import re
import stat as stat_module
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.fs as pafs

from pipeline.sources.base import MAX_BYTES, SourceError
from pipeline.sources.outputs import files_of_a_kind, is_output, output_folders
from pipeline.sources.passed_over import PassedOver
from pipeline.storage.errors import fatal, reason_of, unanswered
from pipeline.storage.mistakes import shown
from pipeline.storage.place import Entry, Place

_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})\Z", re.ASCII)
_WILD = re.compile(r"[*?\[]")


#: How many addresses the braces of one may stand for.
MAX_ADDRESSES = 100_000
_MAX_CHARACTERS = 200 * MAX_ADDRESSES


class Unreadable(Exception):
    """One file can't be read, others may; ``str(error)`` is the reason for the table of rejects."""


def version_of(size: int, mtime_ns: int) -> str:
    """What changes when a file does: its size and modification time."""
    return f"{size}-{mtime_ns}"


def braces(text: str) -> list[str]:
    """Expand ``{000..009}`` (width kept) and ``{a,b}``, nested too, in order. Braces of another kind stay.

    Raises:
        SourceError: they stand for more addresses than a data set can be made of.
    """
    texts: list[str] = []
    characters = 0
    for one in _expanded(text):
        texts.append(one)
        characters += len(one)
        if len(texts) > MAX_ADDRESSES or characters > _MAX_CHARACTERS:
            raise SourceError(f"{shown(text)}: the braces stand for too many files (at most {MAX_ADDRESSES:,})")
    return texts


def _expanded(text: str) -> Iterator[str]:
    under_way: list[Iterator[str]] = [iter([text])]
    while under_way:
        one = next(under_way[-1], None)
        if one is None:
            under_way.pop()
        elif (options := _first_options(one)) is None:
            yield one
        else:
            under_way.append(options)


def _first_options(text: str) -> Iterator[str] | None:
    """The texts that the first braces with a choice in them stand for, the other braces as they are; or None."""
    start = text.find("{")
    while start >= 0:
        depth = 0
        commas = [start]
        for end in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if text[end] == "," and depth == 1:
                commas.append(end)
            if depth == 0:
                break
        else:
            return None
        head, inner, tail = text[:start], text[start + 1 : end], text[end + 1 :]
        if span := _RANGE.match(inner):
            first, last = int(span[1]), int(span[2])
            width = max(len(span[1]), len(span[2])) if "0" in (span[1][0], span[2][0]) else 0
            step = 1 if last >= first else -1
            return (f"{head}{number:0{width}d}{tail}" for number in range(first, last + step, step))
        if len(commas) > 1:
            cuts = [*commas, end]
            return (head + text[a + 1 : b] + tail for a, b in itertools.pairwise(cuts))
        start = text.find("{", start + 1)
    return None


@contextlib.contextmanager
def reaching(text: str) -> Iterator[None]:
    """Turn what an unreachable disk or store raises into one line that names the address."""
    try:
        yield
    except OSError as error:
        if unanswered(error) and (stop := fatal(error)) is not None:
            raise stop from error
        cure = "check the address and the credentials (AWS_*, GOOGLE_*)" if "://" in text else "check the path"
        raise SourceError(f"{text}: cannot be read ({reason_of(error)}); {cure}") from error


def stat(place: Place) -> Entry | None:
    """Size and time of a file; None where there is none (or a folder)."""
    info = place.fs.get_file_info(place.path)
    return Entry(place, info.size, info.mtime_ns or 0) if info.type == pafs.FileType.File else None


def resolve(address: str, base: str | Path | None) -> list[Place]:
    """The places that an address stands for: itself where it exists, else its braces and globs expanded, sorted.

    Raises SourceError where nothing is there.
    """
    with reaching(address):
        place = Place.parse(address, base)
        if _is_there(place):
            return [place]
        places: list[Place] = []
        for text in braces(address):
            one = Place.parse(text, base)
            if not _WILD.search(text):
                if not one.exists():
                    raise SourceError(f"{one}: no such file or folder; check the path")
                places.append(one)
                continue
            try:
                matching = _glob(one)
            except UnicodeDecodeError as error:  # pyarrow's, listing a folder
                raise SourceError(f"{text}: a file's name is no UTF-8; rename it, or give the folder itself") from error
            if not matching:
                raise SourceError(f"{text}: nothing matches; check the pattern")
            places += matching
        return places


def _is_there(place: Place) -> bool:
    try:
        return place.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no file of that name, but maybe a long pattern
            return False
        raise


def _glob(place: Place) -> list[Place]:
    """The files and folders that match, sorted; one folder is listed at a time, and only where it can matter."""
    pieces = place.path.split("/")
    first = next(n for n, piece in enumerate(pieces) if _WILD.search(piece))
    matching = [pafs.FileInfo("/".join(pieces[:first]) or "/", pafs.FileType.Directory)]
    for n, piece in enumerate(pieces[first:], first):
        last = n == len(pieces) - 1
        if not _WILD.search(piece):
            infos = place.fs.get_file_info([f"{info.path.rstrip('/')}/{piece}" for info in matching])
            matching = [info for info in infos if info.type != pafs.FileType.NotFound]
            continue
        deep = piece == "**" and not last
        pattern = re.compile("" if deep else fnmatch.translate(piece))
        inside = list(matching) if deep else []
        for folder in matching:
            selector = pafs.FileSelector(folder.path, allow_not_found=True, recursive=deep)
            infos = [info for info in place.fs.get_file_info(selector) if _shown(info)]
            ours = output_folders(Place(place.scheme, folder.path), (info.path for info in infos)) if deep else ()
            inside += [info for info in infos if pattern.match(_name(info)) and not f"{info.path}/".startswith(ours)]
        matching = [info for info in inside if last or info.type == pafs.FileType.Directory]
        if last:
            matching = [info for info in matching if not _is_output(place, info)]
    return [Place(place.scheme, path.rstrip("/")) for path in sorted({info.path for info in matching})]


def _is_output(place: Place, info: pafs.FileInfo) -> bool:
    """Whether a pattern matched the output of a job, which is then no data set."""
    if info.type != pafs.FileType.Directory:
        return False
    infos = place.fs.get_file_info(pafs.FileSelector(info.path))
    return is_output(Place(place.scheme, info.path.rstrip("/")), map(_name, infos))


def _name(info: pafs.FileInfo) -> str:
    return info.path.rstrip("/").rpartition("/")[2]


def _shown(info: pafs.FileInfo) -> bool:
    return not _name(info).startswith(".")


def files(
    addresses: Sequence[str],
    base: str | Path | None,
    suffixes: tuple[str, ...],
    kind: str,
    left_out: PassedOver | None = None,
) -> list[Entry]:
    """The files of a data set that consists of files of one kind; a folder stands for all of that kind below it.

    Outputs of jobs in a folder are left out, and counted in ``left_out``.
    """
    by_place: dict[Place, Entry] = {}
    for address in addresses:
        for place in resolve(address, base):
            with reaching(str(place)):
                entry = stat(place)
                entries = [entry] if entry else files_of_a_kind(place, suffixes, left_out)
            if not entries:
                raise SourceError(f"{place}: no {kind} files ({', '.join(suffixes)}) in this folder")
            by_place |= {entry.place: entry for entry in entries if entry.place not in by_place}
    return list(by_place.values())


def within(root: Place, place: Place) -> bool:
    """Whether a file lies below a folder once links are followed, so that reading it stays inside a data set.

    Lists, tables and links of strangers may name any file of this machine, or any store that it has rights for. A
    source that reads what they name asks this first, unless its spec says ``allow_outside: true``, and rejects the
    item with :func:`outside`. A file that does not exist is judged by its name.

    Args:
        root: the folder of the list, of the table, or of the data set.
        place: the file that the data names, as :func:`beside` resolves it.

    Returns:
        False too for a name that no file can have (it holds a NUL).
    """
    if "\0" in place.path or place.scheme != root.scheme:
        return False
    if not root.is_local:
        return f"{place.path}/".startswith(f"{root.path.rstrip('/')}/")
    base = _real_folder(root.path).rstrip("/") + "/"
    folder, _, name = place.path.rpartition("/")
    real = posixpath.join(_real_folder(folder or "/"), name)
    if os.path.islink(real):  # noqa: PTH114 - a million times
        real = os.path.realpath(real, strict=False)
    return real.startswith(base)


def forget_links() -> None:
    """Ask again where links lead: between two runs of one process they may have been changed."""
    _real_folder.cache_clear()


@functools.lru_cache(maxsize=4096)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)


def outside(root: Place) -> str:
    """The reason for a reject of what :func:`within` refuses, with the cure."""
    return f"lies outside {root}; move it there, or say allow_outside: true in the source if you trust what names it"


def beside(folder: Place, name: str) -> Place:
    """The place that a path in a list or table stands for: taken from the folder that the list lies in."""
    if "://" in name or (folder.is_local and posixpath.isabs(name)):
        return Place.parse(name)
    return Place(folder.scheme, posixpath.normpath(posixpath.join(folder.path, name)))


def read_file(place: Place, limit: int = MAX_BYTES) -> bytes:
    """A file's bytes. Raises Unreadable where the fault is this file's, SourceError where it is the store's."""
    try:
        if place.is_local:  # not through pyarrow: a file's name may hold bytes that are no UTF-8
            path = Path(place.path)
            if not stat_module.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
                raise Unreadable("not a regular file")
            with path.open("rb") as stream:
                data = stream.read(limit + 1)
        else:
            with place.open() as remote:
                data = remote.read(limit + 1)
    except FileNotFoundError as error:
        raise Unreadable(reason_of(error) if place.is_local else "no such object") from error
    except OSError as error:
        if place.is_local:
            raise Unreadable(reason_of(error)) from error
        with reaching(str(place)):
            raise
    if len(data) > limit:
        raise Unreadable(f"the file is over {limit:,} bytes")
    return data
