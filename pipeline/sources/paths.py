"""Pictures named by a list (CSV, JSON lines, Parquet): files beside it, and addresses on the web."""

from __future__ import annotations

import itertools
import os
import stat as stat_module
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffstyle.errors import ConfigError
from pipeline.sources.addresses import beside, files, outside, reaching, version_of, within
from pipeline.sources.attributes import Naming, file_version, plain_text, version_with
from pipeline.sources.base import Broken, Cut, Item, RawPicture, Repeated, Source, SourceError
from pipeline.sources.folder import MISSING, FileAt, FileReader
from pipeline.sources.rows import LIST_SUFFIXES, Row, Rows
from pipeline.sources.web import REFUSED, UNFETCHED, WebAt, WebReader, is_web_address
from pipeline.storage.errors import reason_of
from pipeline.storage.identity import source_text
from pipeline.storage.place import Entry, Place

PATH_COLUMNS = ("path", "file", "image", "filename", "file_name", "filepath", "file_path", "url", "image_url")

# In a version's place where a file may not be read: it differs from every real one, so that a spec which allows it is
# heeded.
_OUTSIDE = "outside"
# What an object store takes for a name, in bytes.
_LONGEST_KEY = 1024


@dataclass(frozen=True)
class ListReader:
    """Reads what lists name: files, and addresses on the web."""

    files: FileReader
    web: WebReader

    def read(self, items: Sequence[Item]) -> Iterator[RawPicture]:
        for on_web, group in itertools.groupby(items, lambda item: isinstance(item.at, WebAt)):
            yield from (self.web if on_web else self.files).read(list(group))


class ListSource(Source):
    """The pictures that one or several lists name; the lists' other columns are the pictures' attributes.

    A relative path is taken from the folder of its list, and what lies outside of that folder is a reject unless
    ``allow_outside``. A picture that is listed again is read once, with the attributes of its first row.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        base: str | Path | None,
        path_column: str | None,
        naming: Naming,
        limit: int | None,
        allow_outside: bool = False,
    ):
        reader = ListReader(FileReader(naming), WebReader(naming, allow_outside))
        super().__init__(", ".join(addresses), reader, limit)
        self._lists = files(addresses, base, LIST_SUFFIXES, "list", self._left_out)
        self._wanted = PATH_COLUMNS if path_column is None else (path_column,)
        self._naming = naming
        self._allow_outside = allow_outside

    def _cuts(self, known: Mapping[str, str], size: int) -> Iterator[Cut]:
        listed: set[str] = set()
        rows = itertools.chain.from_iterable(self._rows(entry, known) for entry in self._lists)
        while batch := list(itertools.islice(rows, size)):
            yield Cut([self._first(item, listed) for item in _looked_at(batch)])

    def _first(self, item: Item, listed: set[str]) -> Item:
        if item.source in listed:
            return replace(item, at=Repeated())
        listed.add(item.source)
        return item

    def _rows(self, entry: Entry, known: Mapping[str, str]) -> Iterator[Item]:
        """An item for each row; the versions of files are not known yet."""
        rows = Rows(entry.place, self._wanted)
        column = self._column(rows)
        for row in rows:
            yield self._item(entry, row, column, known)
        if rows.skipped:
            self.passed_over.add("lines with nothing in them", n=rows.skipped)

    def _item(self, entry: Entry, row: Row, column: str | None, known: Mapping[str, str]) -> Item:
        def broken(reason: str, version: str = "", source: str = "", name: str = "") -> Item:
            source = source or source_text(plain_text(str(entry.place)), str(row.number))
            version = version or version_of(entry.size, entry.mtime_ns)
            return Item(source, version, name or f"row {row.number}", Broken(reason))

        values = dict(row.values)
        column = column or next((name for name in self._wanted if name in values), None)
        path = values.pop(column) if column in values else None
        if row.problem is not None:
            return broken(f"row {row.number}: {row.problem}")
        if not isinstance(path, str) or not path.strip():
            return broken(f"row {row.number} has no {column or ' or '.join(self._wanted)}")
        path = path.strip()
        if "\0" in path:
            return broken(f"row {row.number}: the {column} holds a NUL; correct the list")
        if is_web_address(path):
            if "@" in path.partition("://")[2].partition("/")[0]:
                return broken(f"row {row.number}: the address holds a password; take it out of the list")
            source, name = source_text(plain_text(path)), _web_name(path)
            version = known.get(source, UNFETCHED)
            if version == REFUSED and self._allow_outside:
                version = UNFETCHED
            if version not in (UNFETCHED, REFUSED):  # that of the picture is known, and its row may say something new
                version = version_with(file_version(version), values)
            return Item(source, version, plain_text(name), WebAt(path, values))
        folder = entry.place.parent
        try:
            place = beside(folder, path)
        except ConfigError:
            scheme = path.partition("://")[0]
            return broken(f"row {row.number}: {scheme}:// is no address; use a path, s3://, gs:// or https://")
        source, name = source_text(plain_text(str(place))), plain_text(place.name)
        if not place.is_local and len(place.path.encode(errors="surrogateescape")) > _LONGEST_KEY:
            return broken("the name is longer than an object store takes", MISSING, source, name)
        if not self._allow_outside and not within(folder, place):
            return broken(outside(folder), _OUTSIDE, source, name)
        if path.startswith("~/") and place.is_local and not os.path.lexists(place.path):
            return broken("no such file; `~` in a list is not the home folder, write the whole path", "", source, name)
        return Item(source, MISSING, name, FileAt(place, values=values))

    def _column(self, rows: Rows) -> str | None:
        """The column of paths; None for JSON lines, where each row is asked."""
        if not rows.columns:
            return None
        column = rows.column(self._wanted)
        if column is None:
            raise SourceError(
                f"{rows.place}: no column {' or '.join(self._wanted)} with the paths "
                f"(it has {', '.join(rows.columns)}); name it with image_column"
            )
        for name in (self._naming.label, self._naming.caption):
            if name is not None and rows.column((name,)) is None:
                raise SourceError(f"{rows.place}: no column {name} (it has {', '.join(rows.columns)})")
        return column

    def _why_empty(self) -> str:
        return f"{self.text}: the list has no rows"


def _web_name(address: str) -> str:
    path = address.partition("#")[0].partition("?")[0].rstrip("/")
    return path.rpartition("/")[2] or "picture"


def _looked_at(items: Sequence[Item]) -> list[Item]:
    """The items with the versions of their files. A name that can't be asked for costs that item alone."""
    local = {item.at.place for item in items if isinstance(item.at, FileAt) and item.at.place.is_local}
    remote = {item.at.place for item in items if isinstance(item.at, FileAt) and not item.at.place.is_local}
    answers = {place: _local_version(place) for place in local} | _remote_versions(sorted(remote, key=str))
    looked = []
    for item in items:
        if isinstance(item.at, FileAt):
            answer = answers[item.at.place]
            if isinstance(answer, Broken):
                item = Item(item.source, MISSING, item.name, answer)
            else:
                version = answer if answer == MISSING else version_with(answer, item.at.values)
                item = Item(item.source, version, item.name, item.at)
        looked.append(item)
    return looked


def _local_version(place: Place) -> str | Broken:
    try:
        status = os.stat(place.path)  # noqa: PTH116 - a million times
    except FileNotFoundError:
        return MISSING
    except (OSError, ValueError) as error:
        return Broken(reason_of(error))
    if not stat_module.S_ISREG(status.st_mode):
        return MISSING  # reading it says what it is
    return version_of(status.st_size, status.st_mtime_ns)


def _remote_versions(places: Sequence[Place]) -> dict[Place, str | Broken]:
    """One question for all of a bucket; a bucket that can't be reached costs its own pictures, if there are others."""
    answers: dict[Place, str | Broken] = {}
    buckets = [
        list(group)
        for _, group in itertools.groupby(places, lambda place: (place.scheme, place.path.partition("/")[0]))
    ]
    for bucket in buckets:
        try:
            infos = bucket[0].fs.get_file_info([place.path for place in bucket])
        except OSError as error:
            if len(buckets) == 1:
                with reaching(str(bucket[0])):
                    raise
            answers |= {place: Broken(reason_of(error)) for place in bucket}
            continue
        for place, info in zip(bucket, infos, strict=True):
            answers[place] = version_of(info.size, info.mtime_ns or 0) if info.is_file else MISSING
    return answers
