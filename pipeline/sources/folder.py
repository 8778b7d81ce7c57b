"""Pictures as files: a folder with all below it, class folders and side-cars included."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.sources.addresses import Unreadable, reaching, read_file, version_of
from pipeline.sources.attributes import Naming, plain_text, side_car, text_of
from pipeline.sources.base import (
    Cut,
    Item,
    RawPicture,
    Source,
    SourceError,
    failed,
    is_picture,
)
from pipeline.storage.identity import source_text
from pipeline.storage.place import Place

_SIDE_CARS = (".json", ".txt")
# In a version's place where a file can't be looked at; it differs from every real one, so the file is tried again.
MISSING = "missing"


@dataclass(frozen=True, slots=True)
class FileAt:
    """A picture file: which side-cars lie beside it, and what is known of it from elsewhere."""

    place: Place
    side_cars: tuple[str, ...] = ()
    label: str | None = None
    values: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class FileReader:
    """Reads picture files with their side-cars."""

    naming: Naming

    def read(self, items: Sequence[Item]) -> Iterator[RawPicture]:
        for item in items:
            try:
                yield self._one(item, item.at)
            except Unreadable as error:
                yield failed(item, str(error))

    def _one(self, item: Item, at: FileAt) -> RawPicture:
        data = read_file(at.place)
        stem = at.place.path.rpartition(".")[0]
        values, caption = dict(at.values or {}), None
        for suffix in at.side_cars:
            beside_it = Place(at.place.scheme, stem + suffix)
            try:
                content = read_file(beside_it)
            except Unreadable as error:
                values["side_car_error"] = f"{beside_it.name}: {error}"
                continue
            if suffix == ".json":
                values |= side_car(content, beside_it.name)
            else:
                caption = text_of(content)
        told = self.naming.sort(values, at.label, caption)
        return RawPicture(item.source, item.version, item.name, data, told.label, told.caption, told.meta)


class FolderSource(Source):
    """Every picture file below one or several folders, each folder before its subfolders; class folders are labels."""

    def __init__(self, roots: Sequence[Place], naming: Naming, limit: int | None):
        super().__init__(", ".join(map(str, roots)), FileReader(naming), limit)
        self._roots = list(dict.fromkeys(roots))
        for root in self._roots:
            with reaching(str(root)):
                if not root.is_dir():
                    problem = "this is a file, not a folder" if root.exists() else "no such folder; check the path"
                    raise SourceError(f"{root}: {problem}")
            for other in self._roots:
                if other.scheme == root.scheme and root.path.startswith(other.path.rstrip("/") + "/"):
                    raise SourceError(f"{root} lies in {other}; name only the outer folder")

    def _cuts(self, known: Mapping[str, str], size: int) -> Iterator[Cut]:
        items = itertools.chain.from_iterable(self._items(root) for root in self._roots)
        while batch := list(itertools.islice(items, size)):
            yield Cut(batch)

    def _items(self, root: Place) -> Iterator[Item]:
        walk = _walk_local(root.path, ()) if root.is_local else _walk_remote(root)
        for path, versions in walk:
            folder = Place(root.scheme, path)
            label = None if folder == root else plain_text(folder.name)
            pictures = sorted(name for name in versions if is_picture(name))
            for name in pictures:
                stem = name.rpartition(".")[0]
                side_cars = tuple(suffix for suffix in _SIDE_CARS if stem + suffix in versions)
                place = folder / name
                at = FileAt(place, side_cars, label)
                yield Item(source_text(plain_text(str(place))), versions[name] or MISSING, plain_text(name), at)
            stems = {name.rpartition(".")[0] for name in pictures}
            used = sum(name.endswith(_SIDE_CARS) and name.rpartition(".")[0] in stems for name in versions)
            if len(versions) > len(pictures) + used:
                self.notes["files that are not pictures"] += len(versions) - len(pictures) - used

    def _why_empty(self) -> str:
        for root in self._roots:
            for suffix, kind in ((".tar", "webdataset"), (".parquet", "parquet")):
                if root.list(suffix, recursive=True):
                    return f"{self.text}: no picture files, but {suffix} files; write `{kind}: {root}` instead"
        return f"{self.text}: no picture files in this folder or below it"


def _walk_local(path: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Each folder with its files and, for pictures, their versions: a folder before its subfolders, both sorted.

    One folder is in memory at a time. Links are followed; one that leads back to a folder above it is not.
    """
    versions: dict[str, str | None] = {}
    folders = []
    with reaching(path):
        status = os.stat(path)  # noqa: PTH116 - as the entries below
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                    continue
                versions[entry.name] = None
                if is_picture(entry.name):
                    # A link to nothing stays: reading it gives the reason for its reject.
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        versions[entry.name] = version_of(status.st_size, status.st_mtime_ns)
    yield path, versions
    for name in sorted(folders):
        yield from _walk_local(os.path.join(path, name), (*above, here))  # noqa: PTH118 - a million times


def _walk_remote(root: Place) -> Iterator[tuple[str, dict[str, str | None]]]:
    with reaching(str(root)):
        entries = root.list(recursive=True)
    # Folder by folder in the order of the local walk.
    entries.sort(key=lambda entry: tuple(entry.place.path.split("/")[:-1]))
    for path, group in itertools.groupby(entries, lambda entry: entry.place.path.rpartition("/")[0]):
        yield path, {entry.place.name: version_of(entry.size, entry.mtime_ns) for entry in group}
