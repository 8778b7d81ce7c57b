"""Reading a data set that `diffstyle select` wrote, in any of its forms: rows, and the pictures of one."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffstyle.errors import ConfigError, one_line
from pipeline.results.select.card import SELECTION, SELECTION_KIND

#: A data set's columns of pictures.
_PICTURES = ("image", "content", "style")


@dataclass(frozen=True)
class DatasetRow:
    """A row of a data set.

    Attributes:
        split: Its split.
        number: Its place in the split, counted from 0.
        row: Its columns, without pictures.
        read: Reads its pictures: ``image``, and in a data set of triplets ``content`` and ``style`` -> bytes.
    """

    split: str
    number: int
    row: Mapping[str, Any]
    read: Callable[[], dict[str, bytes]]


def selection_of(folder: Path) -> dict[str, Any] | None:
    """What ``selection.json`` of a data set says; None for a folder that is no data set of this project.

    Raises:
        ConfigError: It is damaged.
    """
    file = folder / SELECTION
    try:
        selection = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{file}: damaged ({one_line(error)}); write the data set again") from error
    if not isinstance(selection, dict) or selection.get("kind") != SELECTION_KIND:
        return None
    return selection


def dataset_rows(folder: Path, selection: Mapping[str, Any], split: str | None = None) -> Iterator[DatasetRow]:
    """The rows of a data set, split by split, in their order.

    Args:
        folder: The data set's.
        selection: As :func:`selection_of` gives it.
        split: Only this one; None: all.

    Raises:
        ConfigError: The data set has no such split, or can't be read.
    """
    readers = {"imagefolder": _image_folder, "parquet": _parquet, "webdataset": _webdataset}
    form, splits = selection.get("format"), list(selection.get("splits") or ())
    if form not in readers:
        raise ConfigError(f"{folder / SELECTION}: format is {form!r}, none of {', '.join(readers)}")
    if split is not None and split not in splits:
        raise ConfigError(f"--split {split}: {folder} has {', '.join(splits)}")
    for name in splits if split is None else [split]:
        try:
            for number, (row, read) in enumerate(readers[form](folder, name)):
                stated = {column: None if value == "" else value for column, value in row.items()}
                yield DatasetRow(name, number, stated, read)
        except (OSError, ValueError, tarfile.TarError, pa.ArrowException) as error:
            raise ConfigError(f"{folder}: split {name} can't be read ({one_line(error)})") from error


Rows = Iterator[tuple[dict[str, Any], Callable[[], dict[str, bytes]]]]


def _image_folder(folder: Path, split: str) -> Rows:
    root = folder / split
    with (root / "metadata.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = _row(line)
            files = {
                name: root / row.pop(column)
                for name in _PICTURES
                if (column := "file_name" if name == "image" else f"{name}_file_name") in row
            }
            yield row, partial(_read_files, files)


def _row(text: str | bytes) -> dict[str, Any]:
    row = json.loads(text)
    if not isinstance(row, dict):
        raise ValueError("a row is no mapping")
    return row


def _read_files(files: Mapping[str, Path]) -> dict[str, bytes]:
    return {name: file.read_bytes() for name, file in files.items() if file.is_file()}


def _parquet(folder: Path, split: str) -> Rows:
    for file in sorted((folder / "data").glob(f"{split}-*.parquet")):
        with pq.ParquetFile(file) as opened:
            columns = [name for name in opened.schema_arrow.names if name not in _PICTURES]
            pictures = [name for name in opened.schema_arrow.names if name in _PICTURES]
            for group in range(opened.num_row_groups):
                rows = opened.read_row_group(group, columns).to_pylist()
                for number, row in enumerate(rows):
                    yield row, partial(_read_group, file, group, number, pictures)


def _read_group(file: Path, group: int, number: int, pictures: list[str]) -> dict[str, bytes]:
    with pq.ParquetFile(file) as opened:
        (row,) = opened.read_row_group(group, pictures).slice(number, 1).to_pylist()
    return {name: picture["bytes"] for name, picture in row.items()}


def _webdataset(folder: Path, split: str) -> Rows:
    for file in sorted((folder / "data").glob(f"{split}-*.tar")):
        with tarfile.open(file) as tar:
            places: dict[str, tuple[int, int]] = {}
            for member in tar:
                ending = member.name.partition(".")[2]
                if ending != "json":
                    name = ending.rpartition(".")[0]
                    places[name or "image"] = (member.offset_data, member.size)
                    continue
                content = tar.extractfile(member)
                if content is None:
                    raise ValueError(f"{file}: {member.name} is no file")
                yield _row(content.read()), partial(_read_places, file, places)
                places = {}


def _read_places(file: Path, places: Mapping[str, tuple[int, int]]) -> dict[str, bytes]:
    pictures = {}
    with file.open("rb") as stream:
        for name, (offset, size) in places.items():
            stream.seek(offset)
            pictures[name] = stream.read(size)
    return pictures
