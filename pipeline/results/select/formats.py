"""The three forms of a data set: a folder of pictures, Parquet, WebDataset. Each split is written by a writer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.results.select.pictures import Sample
from pipeline.storage.tar import TarWriter

#: Bytes of pictures after which the next shard is begun.
SHARD_BYTES = 256 << 20
#: Pictures in a sub-folder, and bytes and rows in a row group.
_FOLDER_PICTURES = 1000
_GROUP_BYTES, _GROUP_ROWS = 32 << 20, 500

#: A picture as `datasets` stores it.
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class SplitWriter(Protocol):
    """Writes the samples of one split; its files are whole when it is left."""

    def add(self, sample: Sample) -> None:
        """Write a sample."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Form:
    """A form of data set.

    Attributes:
        name: As ``--format`` has it.
        writer: Makes the writer of a split from the data set's folder, the split's name, the pictures of a sample
            (``image``, ``content``, ``style``) and the columns.
        pattern: The files of a split, below the data set, as a glob with ``{split}`` in it.
        data: Those that hold the rows.
        encoding: Their kind, as a MIME type.
        one_ending: Whether all results must be files of one kind.
        as_json: Whether rows are written as JSON.
        types_from_rows: Whether readers guess the columns' types from the rows, whatever the data card says of them.
    """

    name: str
    writer: Callable[[Path, str, Sequence[str], pa.Schema], SplitWriter]
    pattern: str
    data: str
    encoding: str
    one_ending: bool
    as_json: bool
    types_from_rows: bool


class _Base:
    def __init__(self, folder: Path, split: str, pictures: Sequence[str], schema: pa.Schema) -> None:
        self.folder, self.split, self.pictures, self.schema = folder, split, pictures, schema
        self._open = ExitStack()
        self._shards = self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def _next_shard(self, ending: str) -> Path:
        """Where the next shard is written."""
        self._open.close()
        path = self.folder / "data" / f"{self.split}-{self._shards:05}.{ending}"
        path.parent.mkdir(exist_ok=True)
        self._shards, self._bytes = self._shards + 1, 0
        return path

    def _is_full(self, sample: Sample) -> bool:
        """Whether the sample belongs into the next shard."""
        size = sum(len(data) for _, data in sample.pictures.values())
        full = self._shards == 0 or (self._bytes > 0 and self._bytes + size > SHARD_BYTES)
        self._bytes = (0 if full else self._bytes) + size
        return full


class _ImageFolder(_Base):
    """``SPLIT/metadata.jsonl``, and the pictures in sub-folders beside it. A source is written once a split."""

    def __init__(self, folder: Path, split: str, pictures: Sequence[str], schema: pa.Schema) -> None:
        super().__init__(folder, split, pictures, schema)
        self._root = folder / split
        self._root.mkdir()
        self._rows = self._open.enter_context((self._root / "metadata.jsonl").open("w", encoding="utf-8"))
        self._n = 0
        self._sources: set[str] = set()

    def add(self, sample: Sample) -> None:
        paths = {}
        for column, (name, data) in sample.pictures.items():
            path = f"{self._n // _FOLDER_PICTURES:05}/{name}" if column == "image" else f"{column}/{name}"
            if path not in self._sources:
                file = self._root / path
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(data)
            if column != "image":
                self._sources.add(path)
            paths["file_name" if column == "image" else f"{column}_file_name"] = path
        self._rows.write(json.dumps({**paths, **sample.row}, ensure_ascii=False, allow_nan=False) + "\n")
        self._n += 1


class _Parquet(_Base):
    """``data/SPLIT-00000.parquet``: pictures as structs of bytes and path, typed for `datasets` in the schema."""

    def __init__(self, folder: Path, split: str, pictures: Sequence[str], schema: pa.Schema) -> None:
        super().__init__(folder, split, pictures, schema)
        fields = [pa.field(column, _PICTURE) for column in pictures] + list(schema)
        features = {"huggingface": json.dumps({"info": {"features": features_of(pictures, schema)}})}
        self._schema = pa.schema(fields, metadata=features)
        self._writer: pq.ParquetWriter | None = None
        self._group: list[dict[str, Any]] = []
        self._group_bytes = 0

    def add(self, sample: Sample) -> None:
        if self._is_full(sample):
            size = self._bytes
            self._flush()
            path = self._next_shard("parquet")
            self._bytes = size
            # Pictures are compressed already, and a dictionary of them would be the whole file.
            self._writer = self._open.enter_context(
                pq.ParquetWriter(path, self._schema, compression="zstd", use_dictionary=self.schema.names)
            )
        pictures = {column: {"bytes": data, "path": name} for column, (name, data) in sample.pictures.items()}
        self._group.append({**pictures, **sample.row})
        self._group_bytes += sum(len(data) for _, data in sample.pictures.values())
        if len(self._group) >= _GROUP_ROWS or self._group_bytes >= _GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._group and self._writer is not None:
            self._writer.write_table(pa.Table.from_pylist(self._group, self._schema))
        self._group, self._group_bytes = [], 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._flush()
        super().__exit__(kind, error, at)


class _WebDataset(_Base):
    """``data/SPLIT-00000.tar``: ``NAME.png``, ``NAME.content.png``, ``NAME.style.png`` and ``NAME.json``."""

    _tar: TarWriter | None = None

    def add(self, sample: Sample) -> None:
        if self._is_full(sample):
            size = self._bytes
            stream: BinaryIO = self._next_shard("tar").open("wb")
            self._bytes = size
            self._open.callback(stream.close)
            self._tar = TarWriter(stream)
            self._open.callback(self._tar.end)
        assert self._tar is not None  # the first sample begins a shard
        for column, (name, data) in sample.pictures.items():
            ending = name.rpartition(".")[2]
            self._tar.add(f"{sample.name}.{ending if column == 'image' else f'{column}.{ending}'}", data)
        row = json.dumps(dict(sample.row), ensure_ascii=False, allow_nan=False)
        self._tar.add(f"{sample.name}.json", row.encode())


def features_of(pictures: Sequence[str], schema: pa.Schema) -> dict[str, Any]:
    """The columns as `datasets` describes them in a Parquet file."""
    values = {field.name: {"dtype": _type_name(field.type), "_type": "Value"} for field in schema}
    return {**{column: {"_type": "Image"} for column in pictures}, **values}


def webdataset_features(ending: str, pictures: Sequence[str], schema: pa.Schema) -> list[dict[str, Any]]:
    """The members of a sample as `datasets` describes them in a data card.

    Args:
        ending: Of the results' files.
        pictures: The columns of pictures.
        schema: The columns in a sample's JSON.
    """
    names = [ending if column == "image" else f"{column}.png" for column in pictures]
    row = [{"name": field.name, "dtype": _type_name(field.type)} for field in schema]
    keys = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    return [*({"name": name, "dtype": "image"} for name in names), {"name": "json", "struct": row}, *keys]


def _type_name(kind: pa.DataType) -> str:
    names = {pa.string(): "string", pa.int32(): "int32", pa.int64(): "int64"}
    return {**names, pa.float32(): "float32", pa.float64(): "float64"}[kind]


FORMS: Mapping[str, Form] = {
    form.name: form
    for form in (
        Form(
            name="imagefolder",
            writer=_ImageFolder,
            pattern="{split}/**",
            data="{split}/metadata.jsonl",
            encoding="application/jsonlines",
            one_ending=False,
            as_json=True,
            types_from_rows=True,
        ),
        Form(
            name="parquet",
            writer=_Parquet,
            pattern="data/{split}-*.parquet",
            data="data/{split}-*.parquet",
            encoding="application/x-parquet",
            one_ending=False,
            as_json=False,
            types_from_rows=False,
        ),
        Form(
            name="webdataset",
            writer=_WebDataset,
            pattern="data/{split}-*.tar",
            data="data/{split}-*.tar",
            encoding="application/x-tar",
            one_ending=True,
            as_json=True,
            types_from_rows=False,
        ),
    )
}
