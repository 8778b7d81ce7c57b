"""Parquet: pictures as bytes in a column, or as Hugging Face's struct of ``bytes`` and ``path``."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from diffstyle.errors import ConfigError
from pipeline.sources.addresses import Unreadable, beside, files, outside, reaching, read_file, version_of, within
from pipeline.sources.attributes import METADATA_ERROR, Naming, arrow_values, plain_text
from pipeline.sources.base import MAX_BYTES, Broken, Cut, Item, RawPicture, Source, SourceError, failed
from pipeline.sources.parquet_files import DAMAGE, first_value, has_no_value, read_footer, read_schema
from pipeline.sources.passed_over import PassedOver
from pipeline.sources.picture_columns import (
    find_image_column,
    holds_bytes,
    is_image_column,
    is_list_of_bytes,
    picture_bytes,
)
from pipeline.storage.errors import reason_of
from pipeline.storage.identity import source_text
from pipeline.storage.place import Entry, Place

# Rows that are read from a row group at a time: with pictures of a few megabytes still little memory.
_ROWS = 16
# A row group can be read from its beginning only; in at most so many pieces, lest the reading outgrow the decoding.
_PIECES = 32
# Row groups up to this size are fetched from an object store in one go.
_FETCH = 256 << 20


@dataclass(frozen=True, slots=True)
class RowAt:
    """A row: its row group and its number within it."""

    file: Place
    group: int
    row: int


@dataclass(frozen=True)
class TableReader:
    """Reads rows of Parquet files. ``columns`` are those that become attributes."""

    image_column: str
    columns: tuple[str, ...]
    naming: Naming
    allow_outside: bool = False

    def read(self, items: Sequence[Item]) -> Iterator[RawPicture]:
        for (file, group), rows in itertools.groupby(items, lambda item: (item.at.file, item.at.group)):
            yield from self._group(file, group, list(rows))

    def _group(self, file: Place, group: int, items: list[Item]) -> Iterator[RawPicture]:
        """The pictures of a row group; where another column is damaged, the rest of them without attributes."""
        n, reason = 0, ""
        for columns in dict.fromkeys((self.columns, ())):
            note = f"the other columns can't be read ({reason})" if reason else None
            try:
                for row in self._rows(file, group, items[n:], columns):
                    picture = self._one(items[n], row, note)
                    n += 1
                    yield picture
                reason = "the file has no such row any more"
                break
            except DAMAGE as error:
                reason = f"the Parquet file is damaged here ({reason_of(error)})"
            except SourceError as error:
                # Damaged pages come as OSError too; on a disk that is the only likely meaning.
                if not file.is_local:
                    raise
                reason = str(error)
        for item in items[n:]:
            yield failed(item, reason)

    def _rows(
        self, file: Place, group: int, items: Sequence[Item], columns: tuple[str, ...]
    ) -> Iterator[dict[str, pa.Scalar]]:
        """For each item, its row's values of the column of pictures and of ``columns``."""
        names = [self.image_column, *columns]
        start = n = 0
        with reaching(str(file)), file.open() as stream:
            table = pq.ParquetFile(stream)
            if not file.is_local and table.metadata.row_group(group).total_byte_size <= _FETCH:
                table = pq.ParquetFile(stream, metadata=table.metadata, pre_buffer=True)
            for batch in table.iter_batches(batch_size=_ROWS, row_groups=[group], columns=names):
                while n < len(items) and items[n].at.row < start + batch.num_rows:
                    row = items[n].at.row - start
                    n += 1
                    yield {name: batch.column(name)[row] for name in names}
                start += batch.num_rows
                if n == len(items):
                    return

    def _one(self, item: Item, row: dict[str, pa.Scalar], note: str | None) -> RawPicture:
        value = row.pop(self.image_column)
        try:
            name, data = self._picture(item, value)
        except Unreadable as error:
            return failed(item, str(error))
        if data is None:
            return failed(item, f"row without a picture ({self.image_column} is null)")
        if len(data) > MAX_BYTES:
            return failed(item, f"the picture is over {MAX_BYTES:,} bytes")
        values = arrow_values(row)
        if note is not None:
            values[METADATA_ERROR] = note
        attributes = self.naming.sort(values)
        return RawPicture(item.source, item.version, name, data, attributes.label, attributes.caption, attributes.meta)

    def _picture(self, item: Item, value: pa.Scalar) -> tuple[str, bytes | None]:
        """(name, bytes) of a picture; in Hugging Face's struct the path names it, or the file that holds it."""
        if not pa.types.is_struct(value.type):
            return item.name, picture_bytes(value)
        if not value.is_valid:
            return item.name, None
        data = picture_bytes(value["bytes"])
        path = arrow_values({"path": value["path"]})["path"] if value.type.get_field_index("path") >= 0 else None
        if not isinstance(path, str) or not path:
            return item.name, data
        name = plain_text(path.rpartition("/")[2]) or item.name
        return name, self._beside(item.at.file, path) if data is None else data

    def _beside(self, file: Place, path: str) -> bytes:
        """The file that a row names instead of holding its bytes."""
        shown = plain_text(path[:200])
        try:
            place = beside(file.parent, path)
            if not self.allow_outside and not within(file.parent, place):
                raise Unreadable(f"{shown}: {outside(file.parent)}")
            return read_file(place)
        except Unreadable as error:
            text = str(error)
            raise Unreadable(text if text.startswith(shown) else f"{shown}: {text}") from error
        except (ConfigError, ValueError) as error:
            raise Unreadable(f"{shown}: no path of a file ({reason_of(error)})") from error
        except SourceError as error:  # of another store than the table's: it costs this row alone
            if place.scheme == file.scheme and not place.is_local:
                raise
            raise Unreadable(f"{shown}: {error}") from error


class ParquetSource(Source):
    """The pictures in one or several Parquet files, in the order of the addresses and then of the rows."""

    def __init__(
        self,
        addresses: Sequence[str],
        base: str | Path | None,
        image_column: str | None,
        naming: Naming,
        limit: int | None,
        allow_outside: bool = False,
    ):
        left_out = PassedOver()
        self._files = files(addresses, base, (".parquet",), "Parquet", left_out)
        first, schema = self._first_readable()
        value = functools.partial(first_value, first)
        column = image_column or find_image_column(schema, value)
        if column is None or column not in schema.names or not is_image_column(schema, column, value):
            raise SourceError(f"{first}: {_what_is_wrong(schema, image_column)}")
        for name in (naming.label, naming.caption):
            if name is not None and name not in schema.names:
                raise SourceError(f"{first}: no column {name} (it has {_columns(schema)})")
        described = tuple(
            field.name
            for field in schema
            if field.name != column and not holds_bytes(field.type) and not is_list_of_bytes(field.type)
        )
        naming = Naming(naming.label, naming.caption, _class_names(schema))
        super().__init__(", ".join(addresses), TableReader(column, described, naming, allow_outside), limit)
        self._left_out = left_out
        self._column, self._type, self._described = column, schema.field(column).type, described
        self._first = first

    def _first_readable(self) -> tuple[Place, pa.Schema]:
        """The first file that is one, with its columns: all others must have them too."""
        errors = []
        for entry in self._files:
            try:
                return entry.place, read_schema(entry.place)
            except SourceError as error:
                if not entry.place.is_local:
                    raise
                errors.append(error)
        raise errors[0]

    def _cuts(self, known: Mapping[str, str], size: int) -> Iterator[Cut]:
        for entry in self._files:
            try:
                footer = read_footer(entry.place)
                schema = read_schema(entry.place, footer)
            except SourceError as error:
                if not entry.place.is_local:
                    raise
                source = source_text(plain_text(str(entry.place)), "(the file)")
                version = version_of(entry.size, entry.mtime_ns)
                self.torn.append(str(entry.place))
                yield Cut([Item(source, version, plain_text(entry.place.name), Broken(reason_of(error)))])
                continue
            self._check(entry.place, schema)
            yield from self._rows_of(entry, footer, size)

    def _check(self, file: Place, schema: pa.Schema) -> None:
        lacking = [name for name in (self._column, *self._described) if name not in schema.names]
        if not lacking:
            kind = schema.field(self._column).type
            if holds_bytes(kind) != holds_bytes(self._type) or (not holds_bytes(kind) and kind != self._type):
                lacking = [f"{self._column} of picture bytes"]
        if lacking:
            raise SourceError(
                f"{file}: no column {', '.join(lacking)}, unlike {self._first}; "
                "give files with other columns as a data set of their own"
            )

    def _rows_of(self, entry: Entry, footer: pq.FileMetaData, size: int) -> Iterator[Cut]:
        before = 0
        for group in range(footer.num_row_groups):
            rows = footer.row_group(group).num_rows
            if has_no_value(entry.place, footer, group, self._column):
                where = f"{plain_text(entry.place.name)} from row {before}"
                self.passed_over.add("rows without a picture, a whole row group of them", where, n=rows)
                yield Cut(gap=rows)
            else:
                step = max(size, -(-rows // _PIECES))
                for start in range(0, rows, step):
                    yield Cut([_item(entry, group, before, row) for row in range(start, min(start + step, rows))])
            before += rows

    def _why_empty(self) -> str:
        line = self.passed_over.line()
        return f"{self.text}: the Parquet files have no rows" + (f" with pictures; {line}" if line else "")


def _item(entry: Entry, group: int, before: int, row: int) -> Item:
    number = before + row
    stem = entry.place.name.rpartition(".")[0]
    source = source_text(plain_text(str(entry.place)), str(number))
    name = plain_text(f"{stem}-{number}")
    return Item(source, version_of(entry.size, entry.mtime_ns), name, RowAt(entry.place, group, row))


def _what_is_wrong(schema: pa.Schema, image_column: str | None) -> str:
    """Why no column of pictures is known, and what to do."""
    lists = [field.name for field in schema if is_list_of_bytes(field.type)]
    if image_column in lists or (image_column is None and lists):
        return f"column {image_column or lists[0]} holds lists of pictures; give each picture a row of its own"
    wrong = "no column of picture bytes"
    if image_column is not None:
        held = image_column in schema.names
        wrong = f"column {image_column} holds no picture bytes" if held else f"no column {image_column}"
    return f"{wrong} (it has {_columns(schema)}); name the one to use with image_column"


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {str(field.type).partition('<')[0]}" for field in schema)


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """The names of Hugging Face's class labels, which the columns hold as numbers."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: tuple(map(str, feature["names"]))
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return {}  # no such note, or one of another form: the numbers stand
