"""Outputs of jobs that lie in a data set: no part of it, since a run must not feed on pictures that it made itself."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence

import pyarrow.fs as pafs

from pipeline.sources.passed_over import PassedOver
from pipeline.storage.errors import unanswered
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Entry, Place

OUTPUTS = "folders that a job wrote"

# What marks a folder that a job wrote: an output, and the stores in it.
_MARKS = (OutputLayout.DESCRIPTION, "description.json")
_OUR_KINDS = ("results", "shards", "bank")


def is_output(folder: Place, names: Iterable[str]) -> bool:
    """Whether a job wrote this folder, which holds files of these names."""
    for mark in set(_MARKS).intersection(names):
        try:
            if json.loads((folder / mark).read_range(0, 1 << 20))["identity"]["kind"] in _OUR_KINDS:
                return True
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            if unanswered(error):
                raise
            continue  # a file of that name which is none of ours
    return False


def everything_below(root: Place) -> Iterator[Entry]:
    """Every file below a folder, hidden ones too, in no order; none where the folder does not exist."""
    if root.is_local:
        yield from _below_local(root)
        return
    for info in root.fs.get_file_info(pafs.FileSelector(root.path, allow_not_found=True, recursive=True)):
        if info.type == pafs.FileType.File:
            yield Entry(Place(root.scheme, info.path), info.size or 0, info.mtime_ns or 0)


def _below_local(root: Place) -> Iterator[Entry]:
    """Not through pyarrow: names may hold bytes that are no UTF-8, and links may lead in circles."""
    seen: set[tuple[int, int]] = set()
    for path, folders, names in os.walk(root.path, followlinks=True):
        status = os.stat(path)  # noqa: PTH116 - as the files below
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in names:
            file = os.path.join(path, name)  # noqa: PTH118
            with contextlib.suppress(OSError):  # a link to nothing, or to itself
                status = os.stat(file)  # noqa: PTH116
                if stat.S_ISREG(status.st_mode):
                    yield Entry(Place("file", file), status.st_size, status.st_mtime_ns)


def output_folders(root: Place, paths: Iterable[str]) -> tuple[str, ...]:
    """The folders below ``root`` that jobs wrote, each with a slash behind; ``paths`` are all files below it."""
    marks: dict[str, list[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        if name in _MARKS and folder != root.path:
            marks.setdefault(folder, []).append(name)
    return tuple(f"{path}/" for path, names in marks.items() if is_output(Place(root.scheme, path), names))


def outermost(folders: Iterable[str]) -> list[str]:
    """Those of the folders, sorted, that lie in no other one."""
    outer: list[str] = []
    for path in sorted(folders):
        if not outer or not path.startswith(outer[-1]):
            outer.append(path)
    return outer


def files_of_a_kind(root: Place, suffixes: Sequence[str], left_out: PassedOver | None = None) -> list[Entry]:
    """The files below ``root`` with one of these suffixes (in any case), sorted by path.

    What is hidden is left out, and what lies in the output of a job, unless the root itself does; ``left_out`` counts
    those outputs.
    """
    entries = [
        entry
        for entry in everything_below(root)
        if not any(piece.startswith(".") for piece in entry.place.relative_to(root).split("/"))
    ]
    ours = output_folders(root, (entry.place.path for entry in entries))
    if left_out is not None:
        for path in outermost(ours):
            left_out.add(OUTPUTS, Place(root.scheme, path.rstrip("/")).relative_to(root))
    chosen = [
        entry
        for entry in entries
        if entry.place.name.lower().endswith(tuple(suffixes)) and not entry.place.path.startswith(ours)
    ]
    return sorted(chosen, key=lambda entry: entry.place.path)
