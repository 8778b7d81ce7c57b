"""Pictures as files: a folder with all below it, class folders and side-cars included; or single files by name."""

from __future__ import annotations

import itertools
import os
import stat as stat_module
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.sources.addresses import Unreadable, reaching, read_file, stat, version_of, within
from pipeline.sources.attributes import MAX_TEXT, Naming, SideCars, plain_text, version_with
from pipeline.sources.base import Broken, Cut, Item, RawPicture, Source, SourceError, failed
from pipeline.sources.listing import OUTSIDE, Folder, walk
from pipeline.sources.outputs import OUTPUTS, files_of_a_kind
from pipeline.sources.recognise import (
    BEGINNING,
    SIDE_CARS,
    begins_like_a_picture,
    is_picture,
    says_nothing,
    stem_of,
    suffix_of,
)
from pipeline.storage.errors import unanswered
from pipeline.storage.identity import source_text
from pipeline.storage.place import Place

_TABLES = ("csv", "tsv", "parquet", "jsonl", "ndjson")
# In a version's place where a file can't be looked at; it differs from every real one, so the file is tried again.
MISSING = "missing"
# Files on an object store whose first bytes are asked for at a time.
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class FileAt:
    """A picture file: which side-cars lie beside it (their suffixes), and what is known of it from elsewhere."""

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
        side_cars = SideCars(at.values)
        for suffix in at.side_cars:
            name = f"{stem_of(at.place.name)}.{suffix}"
            try:
                side_cars.add(name, suffix.lower(), read_file(at.place.parent / name, limit=MAX_TEXT))
            except Unreadable as error:
                side_cars.failed(name, str(error))
        attributes = self.naming.sort(side_cars.values, at.label, side_cars.caption)
        return RawPicture(
            item.source, item.version, item.name, data, attributes.label, attributes.caption, attributes.meta
        )


class FolderSource(Source):
    """Every picture file below one or several folders, each folder before its subfolders; class folders are labels.

    A root that is a picture file stands for a folder that holds that picture, and its side-cars, alone.
    """

    def __init__(self, roots: Sequence[Place], naming: Naming, limit: int | None, allow_outside: bool = False):
        super().__init__(", ".join(map(str, roots)), FileReader(naming), limit)
        self._roots = list(dict.fromkeys(roots))
        self._files: set[Place] = set()
        self._allow_outside = allow_outside
        known = set(self._roots)
        for root in self._roots:
            with reaching(str(root)):
                if is_picture_file(root):
                    self._files.add(root)
                elif not root.is_dir():
                    problem = (
                        "this file is neither a folder nor a picture"
                        if root.exists()
                        else "no such folder; check the path"
                    )
                    raise SourceError(f"{root}: {problem}")
            above = root.parent
            while above not in known and above != above.parent:
                above = above.parent
            if above in known and above != root:
                raise SourceError(f"{root} lies in {above}; name only the outer folder")

    def _cuts(self, known: Mapping[str, str], size: int) -> Iterator[Cut]:
        items = itertools.chain.from_iterable(self._items(root) for root in self._roots)
        while batch := list(itertools.islice(items, size)):
            yield Cut(batch)

    def _inside(self, place: Place) -> bool:
        if self._allow_outside:
            return True
        real = os.path.realpath(place.path)
        return any(within(root, place) or real == os.path.realpath(root.path) for root in self._roots)

    def _items(self, root: Place) -> Iterator[Item]:
        alone = root in self._files
        for folder in [_alone(root)] if alone else walk(root, self._inside, self.passed_over):
            if folder.broken is not None:
                self.torn.append(str(folder.place))
                broken = Broken(f"the folder can't be read: {folder.broken}")
                path = plain_text(str(folder.place))
                yield Item(source_text(path), MISSING, plain_text(folder.place.name), broken)
                continue
            # Of several folders each is a class, as the folders in one are.
            unlabelled = alone or (folder.place == root and len(self._roots) - len(self._files) == 1)
            label = None if unlabelled else plain_text(folder.place.name)
            pictures = sorted({*filter(is_picture, folder.versions), *_pictures_by_content(folder)})
            side_cars = _side_cars(folder)
            for name in pictures:
                stem = stem_of(name)
                beside = tuple(side_cars[stem, kind] for kind in SIDE_CARS if (stem, kind) in side_cars)
                place = folder.place / name
                at = FileAt(place, beside, label)
                source = source_text(plain_text(str(place)))
                version = folder.versions[name] or MISSING
                if beside:
                    texts = (f"{suffix} {folder.versions[f'{stem}.{suffix}']}" for suffix in beside)
                    version = version_with(version, *texts)
                yield Item(source, version, plain_text(name), at)
            self._pass_over(folder, pictures, side_cars)

    def _pass_over(self, folder: Folder, pictures: list[str], side_cars: Mapping[tuple[str, str], str]) -> None:
        stems = {stem_of(name) for name in pictures}
        used = {f"{stem}.{suffix}" for (stem, _), suffix in side_cars.items() if stem in stems}
        for name in sorted(set(folder.versions) - used - set(pictures)):
            suffix = suffix_of(name)
            if suffix in SIDE_CARS:
                self.passed_over.add("side-cars without a picture", plain_text(name))
            elif suffix in _TABLES:
                self.passed_over.add("tables that `list:` may read", plain_text(name))
            elif suffix:
                self.passed_over.add("files of unknown suffix", f".{plain_text(suffix)}")
            else:
                self.passed_over.add("files without a suffix", plain_text(name))

    def _why_empty(self) -> str:
        for root in self._roots:
            for suffix, kind in ((".tar", "webdataset"), (".parquet", "parquet")):
                if files_of_a_kind(root, (suffix,)):
                    return f"{self.text}: no picture files, but {suffix} files; write `{kind}: {root}` instead"
        links, outputs = self.passed_over[OUTSIDE], self.passed_over[OUTPUTS]
        more = "; folders that a job wrote are left out: name the folder of pictures in it" if outputs else ""
        more = "; links lead out of it: say allow_outside: true if they may" if links else more
        return f"{self.text}: no picture files in this folder or below it{more}"


def is_picture_file(place: Place) -> bool:
    """Whether this is a picture file: by its name, or where that says nothing, by its first bytes."""
    if not (is_picture(place.name) or says_nothing(place.name)) or not place.is_file():
        return False
    return is_picture(place.name) or begins_like_a_picture(_beginning(place))


def _alone(file: Place) -> Folder:
    """The folder of a picture as if it held nothing but this picture and its side-cars."""
    versions: dict[str, str | None] = {}
    with reaching(str(file)):
        entry = stat(file)
        if entry is not None:
            versions[file.name] = version_of(entry.size, entry.mtime_ns)
        for kind in SIDE_CARS:
            for suffix in (kind, kind.upper()):
                side_car = stat(file.parent / (name := f"{stem_of(file.name)}.{suffix}"))
                if side_car is not None:
                    versions[name] = version_of(side_car.size, side_car.mtime_ns)
    return Folder(file.parent, versions)


def _side_cars(folder: Folder) -> dict[tuple[str, str], str]:
    """(stem, kind) -> suffix as written. Of ``a.JSON`` and ``a.json`` the second."""
    return {
        (stem_of(name), suffix_of(name)): name.rpartition(".")[2]
        for name in sorted(folder.versions)
        if suffix_of(name) in SIDE_CARS
    }


def _pictures_by_content(folder: Folder) -> list[str]:
    """The files whose names say nothing, but that begin like pictures."""
    names = [name for name, version in folder.versions.items() if version and says_nothing(name)]
    places = [folder.place / name for name in names]
    if folder.place.is_local:
        beginnings = list(map(_beginning, places))
    elif names:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            beginnings = list(pool.map(_beginning, places))
    else:
        return []
    return [name for name, data in zip(names, beginnings, strict=True) if begins_like_a_picture(data)]


def _beginning(place: Place) -> bytes:
    """The first bytes of a file; none of one that can't be read, which then counts as passed over."""
    try:
        if not place.is_local:
            return place.read_range(0, BEGINNING)
        handle = os.open(place.path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not be waited for
        try:
            return os.read(handle, BEGINNING) if stat_module.S_ISREG(os.fstat(handle).st_mode) else b""
        finally:
            os.close(handle)
    except OSError as error:
        if unanswered(error):  # that says nothing of the file
            raise
        return b""
