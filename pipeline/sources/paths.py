"""Pictures named by a list: a CSV or Parquet file with a column of paths."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources.addresses import beside, files, reaching, version_of
from pipeline.sources.attributes import Naming, plain_text
from pipeline.sources.base import Broken, Cut, Item, Source, SourceError, one_line
from pipeline.sources.folder import MISSING, FileAt, FileReader
from pipeline.storage.place import Entry, Place

PATH_COLUMNS = ("path", "file", "image", "filename", "file_name", "filepath", "file_path")


class ListSource(Source):
    """The files that one or several lists name; the lists' other columns are the pictures' attributes.

    A relative path is taken from the folder of its list. A picture that is listed twice counts once.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        base: str | Path | None,
        path_column: str | None,
        naming: Naming,
        limit: int | None,
    ):
        super().__init__(", ".join(addresses), FileReader(naming), limit)
        self._lists = files(addresses, base, (".csv", ".tsv", ".parquet"), "list")
        self._path_column = path_column
        self._naming = naming

    def _cuts(self, known: Mapping[str, str], size: int) -> Iterator[Cut]:
        listed: set[str] = set()
        rows = itertools.chain.from_iterable(self._rows(entry) for entry in self._lists)
        while batch := list(itertools.islice(rows, size)):
            yield Cut([item for item in _looked_at(batch) if self._first(item, listed)])

    def _first(self, item: Item, listed: set[str]) -> bool:
        if item.source in listed:
            self.passed_over.add("rows that list a picture again")
            return False
        listed.add(item.source)
        return True

    def _rows(self, entry: Entry) -> Iterator[Item]:
        """Items whose version is not known yet; a row without a path is a broken one."""
        column = None
        for number, row in enumerate(_read_rows(entry.place)):
            if column is None:
                column = self._column(entry.place, list(row))
            path = row.pop(column)
            if not isinstance(path, str) or not path.strip():
                version = version_of(entry.size, entry.mtime_ns)
                source = f"{plain_text(str(entry.place))}#{number}"
                yield Item(source, version, f"row {number}", Broken(f"row {number} has no {column}"))
                continue
            place = beside(entry.place.parent, path.strip())
            at = FileAt(place, values=row)
            yield Item(plain_text(str(place)), MISSING, plain_text(place.name), at)

    def _column(self, place: Place, columns: list[str]) -> str:
        wanted = PATH_COLUMNS if self._path_column is None else (self._path_column,)
        column = next((name for name in wanted if name in columns), None)
        if column is None:
            raise SourceError(
                f"{place}: no column {' or '.join(wanted)} with the paths (it has {', '.join(columns) or 'none'}); "
                "name it with image_column"
            )
        for name in (self._naming.label, self._naming.caption):
            if name is not None and name not in columns:
                raise SourceError(f"{place}: no column {name} (it has {', '.join(columns)})")
        return column

    def _why_empty(self) -> str:
        return f"{self.text}: the list has no rows"


def _looked_at(items: Sequence[Item]) -> list[Item]:
    """The items with the versions of their files: one question to the file system for all of a kind."""
    versions: dict[Place, str] = {}
    for scheme in {item.at.place.scheme for item in items if isinstance(item.at, FileAt)}:
        places = [item.at.place for item in items if isinstance(item.at, FileAt) and item.at.place.scheme == scheme]
        with reaching(str(places[0])):
            infos = places[0].fs.get_file_info([place.path for place in places])
        for place, info in zip(places, infos, strict=True):
            if info.is_file:
                versions[place] = version_of(info.size, info.mtime_ns or 0)
    looked = []
    for item in items:
        if isinstance(item.at, FileAt):
            item = Item(item.source, versions.get(item.at.place, MISSING), item.name, item.at)
        looked.append(item)
    return looked


def _read_rows(place: Place) -> Iterator[dict[str, Any]]:
    with reaching(str(place)):
        if place.name.lower().endswith(".parquet"):
            yield from _parquet_rows(place)
        else:
            yield from _csv_rows(place)


def _csv_rows(place: Place) -> Iterator[dict[str, Any]]:
    delimiter = "\t" if place.name.lower().endswith(".tsv") else ","
    with place.open() as stream:
        # pyarrow's stream has what a raw stream must have, without being one by name.
        text = io.TextIOWrapper(io.BufferedReader(cast(io.RawIOBase, stream)), encoding="utf-8-sig", newline="")
        try:
            for row in csv.DictReader(text, delimiter=delimiter, restkey="surplus"):
                yield {name: value or None for name, value in row.items()}
        except (csv.Error, UnicodeDecodeError) as error:
            raise SourceError(f"{place}: not readable as CSV in UTF-8 ({one_line(error)}); save it again") from error


def _parquet_rows(place: Place) -> Iterator[dict[str, Any]]:
    try:
        with place.open() as stream, pq.ParquetFile(stream) as table:
            for batch in table.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise SourceError(f"{place}: not readable as Parquet ({one_line(error)}); is it whole?") from error
