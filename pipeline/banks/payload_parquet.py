"""A bank's payload as Parquet: a row for each image, alone in its row group, tensors as plain uncompressed binary.

Latents are noise: compression, dictionaries and statistics cost time and save nothing. Uncompressed and alone, a
value's bytes lie in one piece at the end of its page, so the index can say where, and a reader needs neither the footer
nor Parquet to fetch them; other readers see ordinary columns. Pages carry their CRC-32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.banks.description import BankDescription, BankError, Latents, stored_tensors
from pipeline.storage.place import Place

EXTENSION = "parquet"

# A binary value is preceded by its length in four bytes: read along, it guards against a wrong offset.
LEAD = 4

_INTEGERS = pa.list_(pa.field("element", pa.int32(), nullable=False))


def schema(description: BankDescription) -> pa.Schema:
    """The columns of a payload: those of a tensor that the bank's role does not keep are left out."""
    columns = [pa.field("image", pa.string()), pa.field("key", pa.string())]
    for name, kept in (("x_t", description.keeps_x_t), ("h", description.keeps_h)):
        if kept:
            columns += [
                pa.field(name, pa.binary()),
                pa.field(f"{name}_shape", _INTEGERS),
                pa.field(f"{name}_dtype", pa.string()),
            ]
    if description.keeps_h:
        columns.append(pa.field("h_timesteps", _INTEGERS))
    return pa.schema([column.with_nullable(False) for column in columns])


def write(stream: BinaryIO, description: BankDescription, items: Sequence[Latents]) -> list[dict[str, Any]]:
    """Write a payload; returns for each item where its tensors lie: row, x_t_offset, x_t_size, h_offset, h_size.

    The same items give the same bytes under the same pyarrow. Raises BankError as ``stored_tensors`` does.
    """
    columns = schema(description)
    sizes = []
    sink = pa.PythonFile(stream, mode="w")  # keeps the writer from closing the stream, which is the caller's
    with pq.ParquetWriter(
        sink, columns, compression="NONE", use_dictionary=False, write_statistics=False, write_page_checksum=True
    ) as writer:
        for item in items:
            values: dict[str, Any] = {"image": item.image, "key": item.key}
            x_t, h = stored_tensors(item, description)
            for name, tensor in (("x_t", x_t), ("h", h)):
                if tensor is not None:
                    values[name] = _one_binary(tensor)
                    values[f"{name}_shape"] = list(tensor.shape)
                    values[f"{name}_dtype"] = str(tensor.dtype)
            values["h_timesteps"] = list(description.h_timesteps)
            row = [_column(values[column.name], column.type) for column in columns]
            writer.write_table(pa.Table.from_arrays(row, schema=columns), row_group_size=1)
            sizes.append((x_t.nbytes if x_t is not None else None, h.nbytes if h is not None else None))
    return _places(writer.writer.metadata, sizes)


def _one_binary(tensor: np.ndarray) -> pa.Array:
    # From the array's own memory: going through `bytes` would copy it twice.
    offsets = pa.py_buffer(np.array([0, tensor.nbytes], np.int32))
    return pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(tensor)])


def _column(value: Any, type: pa.DataType) -> pa.Array:
    return value if isinstance(value, pa.Array) else pa.array([value], type)


def _places(metadata: pq.FileMetaData, sizes: list[tuple[int | None, int | None]]) -> list[dict[str, Any]]:
    group = metadata.row_group(0)
    columns = {group.column(i).path_in_schema: i for i in range(group.num_columns)}
    places = []
    for row, (x_t_size, h_size) in enumerate(sizes):
        place: dict[str, Any] = {"row": row}
        for name, size in (("x_t", x_t_size), ("h", h_size)):
            offset = None
            if size is not None:
                chunk = metadata.row_group(row).column(columns[name])
                offset = chunk.data_page_offset + chunk.total_compressed_size - size
            place[f"{name}_offset"], place[f"{name}_size"] = offset, size
        places.append(place)
    return places


def decode(data: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """The tensor from the bytes that the index points at, LEAD before them included. ValueError if they are not it."""
    stored = np.dtype(dtype).newbyteorder("<")
    size = math.prod(shape) * stored.itemsize
    if len(data) != LEAD + size or int.from_bytes(data[:LEAD].tobytes(), "little") != size:
        raise ValueError("the index does not point at a tensor of the bank's shape")
    return np.frombuffer(data, stored, offset=LEAD).reshape(shape)


def read_all(place: Place) -> Iterator[tuple[dict[str, Any], np.ndarray | None, np.ndarray | None]]:
    """Every entry by way of Parquet itself: (image, key, row, h_timesteps), x_t, h. One row in memory at a time.

    Raises BankError for a file that is not Parquet or a page whose CRC is wrong.
    """
    try:
        with place.open() as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            for row in range(file.num_row_groups):
                (values,) = file.read_row_group(row, use_threads=False).to_pylist()
                tensors = [_tensor(values, name) if name in values else None for name in ("x_t", "h")]
                head = {"image": values["image"], "key": values["key"], "row": row}
                yield {**head, "h_timesteps": values.get("h_timesteps", [])}, tensors[0], tensors[1]
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise BankError(f"{place}: not readable as a bank's Parquet ({str(error).splitlines()[0]})") from error


def _tensor(values: dict[str, Any], name: str) -> np.ndarray:
    dtype = np.dtype(values[f"{name}_dtype"]).newbyteorder("<")
    return np.frombuffer(values[name], dtype).reshape(values[f"{name}_shape"])
