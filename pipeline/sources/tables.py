"""Parquet: pictures as bytes in a column, or as Hugging Face's struct of ``bytes`` and ``path``."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources.addresses import Unreadable, beside, files, reaching, read_file, version_of
from pipeline.sources.attributes import Naming, plain_text
from pipeline.sources.base import Cut, Item, RawPicture, Source, SourceError, failed, one_line
from pipeline.sources.passed_over import PassedOver
from pipeline.storage.identity import source_text
from pipeline.storage.place import Entry, Place

_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "bytes", "data", "content")
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

    def read(self, items: Sequence[Item]) -> Iterator[RawPicture]:
        for (file, group), rows in itertools.groupby(items, lambda item: (item.at.file, item.at.group)):
            yield from self._group(file, group, list(rows))

    def _group(self, file: Place, group: int, items: list[Item]) -> Iterator[RawPicture]:
        done = 0
        try:
            with reaching(str(file)), file.open() as stream:
                table = pq.ParquetFile(stream)
                if not file.is_local and table.metadata.row_group(group).total_byte_size <= _FETCH:
                    table = pq.ParquetFile(stream, metadata=table.metadata, pre_buffer=True)
                start = 0
                names = [self.image_column, *self.columns]
                for batch in table.iter_batches(batch_size=_ROWS, row_groups=[group], columns=names):
                    while done < len(items) and items[done].at.row < start + batch.num_rows:
                        values = {name: batch.column(name)[items[done].at.row - start].as_py() for name in names}
                        yield self._one(items[done], values)
                        done += 1
                    start += batch.num_rows
                    if done == len(items):
                        return
                reason = "the file has no such row any more"
        except pa.ArrowInvalid as error:
            reason = f"the Parquet file is damaged here ({one_line(error)})"
        except SourceError as error:
            # Damaged pages come as OSError too; on a disk that is the only likely meaning.
            if not file.is_local:
                raise
            reason = str(error)
        for item in items[done:]:
            yield failed(item, reason)

    def _one(self, item: Item, values: dict[str, Any]) -> RawPicture:
        picture = values.pop(self.image_column)
        name, data = item.name, picture
        if isinstance(picture, dict):
            path, data = picture.get("path"), picture.get("bytes")
            name = plain_text(path.rpartition("/")[2]) if path else name
            if data is None and path:
                try:
                    data = read_file(beside(item.at.file.parent, path))
                except Unreadable as error:
                    return failed(item, f"{path}: {error}")
        if data is None:
            return failed(item, f"row without a picture ({self.image_column} is null)")
        told = self.naming.sort(values)
        return RawPicture(item.source, item.version, name, data, told.label, told.caption, told.meta)


class ParquetSource(Source):
    """The pictures in one or several Parquet files, in the order of the addresses and then of the rows."""

    def __init__(
        self,
        addresses: Sequence[str],
        base: str | Path | None,
        image_column: str | None,
        naming: Naming,
        limit: int | None,
    ):
        left_out = PassedOver()
        self._files = files(addresses, base, (".parquet",), "Parquet", left_out)
        schema = read_footer(self._files[0].place).schema.to_arrow_schema()
        first = self._files[0].place
        column = image_column or find_image_column(schema)
        if column is None or column not in schema.names or not _holds_pictures(schema.field(column).type):
            wrong = f"column {image_column} holds no picture bytes" if image_column else "no column of picture bytes"
            if image_column and image_column not in schema.names:
                wrong = f"no column {image_column}"
            raise SourceError(f"{first}: {wrong} (it has {_columns(schema)}); name the one to use with image_column")
        for name in (naming.label, naming.caption):
            if name is not None and name not in schema.names:
                raise SourceError(f"{first}: no column {name} (it has {_columns(schema)})")
        told = tuple(field.name for field in schema if not _holds_pictures(field.type) and field.name != column)
        naming = Naming(naming.label, naming.caption, _class_names(schema))
        super().__init__(", ".join(addresses), TableReader(column, told, naming), limit)
        self._left_out = left_out
        self._needed = (column, *told)

    def _cuts(self, known: Mapping[str, str], size: int) -> Iterator[Cut]:
        for entry in self._files:
            footer = read_footer(entry.place)
            schema = footer.schema.to_arrow_schema()
            lacking = [name for name in self._needed if name not in schema.names]
            if not lacking and not _holds_pictures(schema.field(self._needed[0]).type):
                lacking = [f"{self._needed[0]} of picture bytes"]
            if lacking:
                raise SourceError(
                    f"{entry.place}: no column {', '.join(lacking)}, unlike {self._files[0].place}; "
                    "give files with other columns as a data set of their own"
                )
            before = 0
            for group in range(footer.num_row_groups):
                rows = footer.row_group(group).num_rows
                step = max(size, -(-rows // _PIECES))
                for start in range(0, rows, step):
                    yield Cut(
                        [_item(entry, group, before, row) for row in range(start, min(start + step, rows))],
                    )
                before += rows

    def _why_empty(self) -> str:
        return f"{self.text}: the Parquet files have no rows"


def _item(entry: Entry, group: int, before: int, row: int) -> Item:
    number = before + row
    stem = entry.place.name.rpartition(".")[0]
    source = source_text(plain_text(str(entry.place)), str(number))
    name = plain_text(f"{stem}-{number}")
    return Item(source, version_of(entry.size, entry.mtime_ns), name, RowAt(entry.place, group, row))


def read_footer(file: Place) -> pq.FileMetaData:
    """The metadata of a Parquet file; SourceError where it is none."""
    with reaching(str(file)), file.open() as stream:
        try:
            return pq.read_metadata(stream)
        except pa.ArrowInvalid as error:
            raise SourceError(f"{file}: not a Parquet file ({one_line(error)}); make or fetch it again") from error


def find_image_column(schema: pa.Schema) -> str | None:
    """The column that holds pictures: one of a usual name, or the only one that can; None where neither is there."""
    able = [field.name for field in schema if _holds_pictures(field.type)]
    usual = [name for name in _IMAGE_COLUMNS if name in able]
    return usual[0] if usual else able[0] if len(able) == 1 else None


def _holds_pictures(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_pictures(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {str(field.type).partition('<')[0]}" for field in schema)


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """The names of Hugging Face's class labels, which the columns hold as numbers."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: tuple(feature["names"])
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}  # no such note, or one of another form: the numbers stand
