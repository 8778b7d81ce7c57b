"""Walking the folders of a data set: the files of each, and what is left out and why."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from pipeline.sources.addresses import reaching, version_of
from pipeline.sources.base import SourceError
from pipeline.sources.outputs import OUTPUTS, everything_below, is_output, outermost, output_folders
from pipeline.sources.passed_over import PassedOver
from pipeline.sources.recognise import SIDE_CARS, is_picture, says_nothing, suffix_of
from pipeline.storage.errors import reason_of
from pipeline.storage.place import Place

HIDDEN_FILES = "files hidden by their name"
HIDDEN_FOLDERS = "folders hidden by their name"
OUTSIDE = "links that lead out of the data set, which allow_outside: true follows"
CIRCLES = "links to a folder that they lie in"


@dataclass(frozen=True)
class Folder:
    """A folder with its files: name -> version, None where it was not looked at. ``broken``: no way in, and why."""

    place: Place
    versions: dict[str, str | None] = field(default_factory=dict)
    broken: str | None = None


def walk(root: Place, within: Callable[[Place], bool], passed_over: PassedOver) -> Iterator[Folder]:
    """Each folder below ``root``, itself first: a folder before its subfolders, both sorted.

    Args:
        root: the folder to begin with. SourceError where it can't be read, or where a job wrote it.
        within: whether a link may be followed.
        passed_over: counts what is left out.
    """
    return _walk_local(root, within, passed_over) if root.is_local else _walk_remote(root, passed_over)


def _refuse(root: Place) -> NoReturn:
    raise SourceError(
        f"{root}: this is the output of a job; give the folder of pictures in it that you mean, or another folder"
    )


@dataclass(frozen=True)
class _Above:
    """A folder on the way down, by device and inode, and those above it."""

    here: tuple[int, int]
    up: _Above | None

    def holds(self, one: tuple[int, int]) -> bool:
        above: _Above | None = self
        while above is not None:
            if above.here == one:
                return True
            above = above.up
        return False


def _walk_local(root: Place, within: Callable[[Place], bool], passed_over: PassedOver) -> Iterator[Folder]:
    """One folder is in memory at a time. Links are followed; one that leads back to a folder above it is not."""
    to_do: list[tuple[str, _Above | None]] = [(root.path, None)]
    while to_do:
        path, above = to_do.pop()
        place = Place("file", path)
        folder, folders, here_passed_over = Folder(place), [], PassedOver()
        try:
            status = os.stat(path)  # noqa: PTH116 - as the entries below
            here = (status.st_dev, status.st_ino)
            if above is not None and above.holds(here):
                passed_over.add(CIRCLES, place.name)
                continue
            with os.scandir(path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if _entry(entry, within, folder.versions, here_passed_over):
                        folders.append(entry.path)
        except OSError as error:
            if path == root.path:
                with reaching(path):
                    raise
            yield Folder(place, broken=reason_of(error))
            continue
        if is_output(place, folder.versions):
            if path == root.path:
                _refuse(root)
            passed_over.add(OUTPUTS, place.relative_to(root))
            continue
        passed_over.include(here_passed_over)
        yield folder
        to_do += [(inner, _Above(here, above)) for inner in reversed(folders)]


def _entry(
    entry: os.DirEntry[str],
    within: Callable[[Place], bool],
    versions: dict[str, str | None],
    passed_over: PassedOver,
) -> bool:
    """Take a file into ``versions``; True for a folder to enter."""
    try:
        is_folder = entry.is_dir()
    except OSError:  # a link to itself
        is_folder = False
    if entry.name.startswith("."):
        passed_over.add(HIDDEN_FOLDERS if is_folder else HIDDEN_FILES, entry.name)
    elif entry.is_symlink() and not within(Place("file", entry.path)):
        passed_over.add(OUTSIDE, entry.name)
    elif is_folder:
        return True
    else:
        versions[entry.name] = None
        if is_picture(entry.name) or says_nothing(entry.name) or suffix_of(entry.name) in SIDE_CARS:
            # A link to nothing, or to itself, stays: reading it gives the reason for its reject.
            with contextlib.suppress(OSError):
                status = entry.stat()
                versions[entry.name] = version_of(status.st_size, status.st_mtime_ns)
    return False


def _walk_remote(root: Place, passed_over: PassedOver) -> Iterator[Folder]:
    with reaching(str(root)):
        everything = list(everything_below(root))
        ours = output_folders(root, (entry.place.path for entry in everything))
        in_root = [entry.place.name for entry in everything if entry.place.parent == root]
    if is_output(root, in_root):
        _refuse(root)
    for path in outermost(ours):
        passed_over.add(OUTPUTS, Place(root.scheme, path.rstrip("/")).relative_to(root))
    entries = []
    for entry in everything:
        hidden = next((piece for piece in entry.place.relative_to(root).split("/") if piece.startswith(".")), None)
        if entry.place.path.startswith(ours):
            continue
        if hidden is not None:
            passed_over.add(HIDDEN_FILES, hidden)
        else:
            entries.append(entry)
    # Folder by folder in the order of the local walk.
    entries.sort(key=lambda entry: (entry.place.path.split("/")[:-1], entry.place.name))
    for path, group in itertools.groupby(entries, lambda entry: entry.place.path.rpartition("/")[0]):
        versions: dict[str, str | None] = {entry.place.name: version_of(entry.size, entry.mtime_ns) for entry in group}
        yield Folder(Place(root.scheme, path), versions)
