"""A bank's payload as Parquet: a row for each image, alone in its row group, tensors as plain uncompressed binary.

Latents are noise: compression, dictionaries and statistics cost time and save nothing. Uncompressed and alone, a
value's bytes lie in one piece at the end of its page, so the index can say where, and a reader needs neither the footer
nor Parquet to fetch them; other readers see ordinary columns. Pages carry their CRC-32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffstyle.errors import one_line
from pipeline.banks.description import BankDescription, Latents, stored_tensors
from pipeline.banks.tensors import BankError, TensorSpec, checksum
from pipeline.storage.place import Place

EXTENSION = "parquet"

# A binary value is preceded by its length in four bytes: read along, it guards against a wrong offset.
LEAD = 4

_INTEGERS = pa.list_(pa.field("element", pa.int32(), nullable=False))


def schema(description: BankDescription) -> pa.Schema:
    """The columns of a payload: NAME, NAME_shape and NAME_dtype of each tensor, NAME_timesteps where it has some."""
    columns = [pa.field("image", pa.string()), pa.field("key", pa.string())]
    for one in description.tensors:
        columns += [
            pa.field(one.name, pa.binary()),
            pa.field(f"{one.name}_shape", _INTEGERS),
            pa.field(f"{one.name}_dtype", pa.string()),
        ]
        if one.timesteps is not None:
            columns.append(pa.field(f"{one.name}_timesteps", _INTEGERS))
    return pa.schema([column.with_nullable(False) for column in columns])


def write(stream: BinaryIO, description: BankDescription, items: Sequence[Latents]) -> list[dict[str, Any]]:
    """Write a payload; returns for each item its row, and NAME_offset, NAME_size and NAME_crc of each tensor.

    The same items give the same bytes under the same pyarrow. Raises BankError as ``stored_tensors`` does.
    """
    columns = schema(description)
    checksums = []
    sink = pa.PythonFile(stream, mode="w")  # keeps the writer from closing the stream, which is the caller's
    with pq.ParquetWriter(
        sink, columns, compression="NONE", use_dictionary=False, write_statistics=False, write_page_checksum=True
    ) as writer:
        for item in items:
            values: dict[str, Any] = {"image": item.image, "key": item.key}
            tensors = stored_tensors(item, description)
            checksums.append({f"{name}_crc": checksum(tensor) for name, tensor in tensors.items()})
            for one in description.tensors:
                values[one.name] = _one_binary(tensors[one.name])
                values[f"{one.name}_shape"] = list(one.stored_shape)
                values[f"{one.name}_dtype"] = one.dtype
                values[f"{one.name}_timesteps"] = one.timesteps
            row = [_column(values[column.name], column.type) for column in columns]
            writer.write_table(pa.Table.from_arrays(row, schema=columns), row_group_size=1)
    places = _places(writer.writer.metadata, description, len(items))
    return [{**place, **sums} for place, sums in zip(places, checksums, strict=True)]


def _one_binary(tensor: np.ndarray) -> pa.Array:
    # From the array's own memory: going through `bytes` would copy it twice.
    offsets = pa.py_buffer(np.array([0, tensor.nbytes], np.int32))
    return pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(tensor)])


def _column(value: Any, type: pa.DataType) -> pa.Array:
    return value if isinstance(value, pa.Array) else pa.array([value], type)


def _places(metadata: pq.FileMetaData, description: BankDescription, rows: int) -> list[dict[str, Any]]:
    group = metadata.row_group(0)
    columns = {group.column(i).path_in_schema: i for i in range(group.num_columns)}
    places = []
    for row in range(rows):
        place: dict[str, Any] = {"row": row}
        for one in description.tensors:
            chunk = metadata.row_group(row).column(columns[one.name])
            place[f"{one.name}_offset"] = chunk.data_page_offset + chunk.total_compressed_size - one.nbytes
            place[f"{one.name}_size"] = one.nbytes
        places.append(place)
    return places


def stored_size(spec: TensorSpec) -> int:
    """Bytes that the index says a tensor takes."""
    return spec.nbytes


def total_bytes(description: BankDescription, images: int) -> int:
    """Bytes of a payload with so many images, as measured: see ``payload.payload_bytes``."""
    tensors = len(description.tensors)
    per_timestep = sum(one.timesteps is not None for one in description.tensors)
    # Page headers, the small columns and the row group's entry in the footer; then the footer's schema.
    each = description.bytes_per_image + 217 + 300 * tensors + 123 * per_timestep
    return images * each + 336 + 339 * tensors + 163 * per_timestep


def decode(data: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """The tensor from the bytes that the index points at, LEAD before them included. ValueError if they are not it."""
    if len(data) != LEAD + spec.nbytes or int.from_bytes(data[:LEAD].tobytes(), "little") != spec.nbytes:
        raise ValueError("the index does not point at a tensor of the bank's shape")
    return np.frombuffer(data, spec.stored_dtype, offset=LEAD).reshape(spec.stored_shape)


def read_all(place: Place) -> Iterator[Latents]:
    """Every entry by way of Parquet itself, one in memory at a time; its ``row`` holds the number of its row.

    Raises BankError for a file that is not Parquet or a page whose CRC is wrong.
    """
    try:
        with place.open() as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            names = [field.name for field in file.schema_arrow if pa.types.is_binary(field.type)]
            for row in range(file.num_row_groups):
                (values,) = file.read_row_group(row, use_threads=False).to_pylist()
                timesteps = {n: tuple(values[f"{n}_timesteps"]) for n in names if f"{n}_timesteps" in values}
                tensors = {name: _tensor(values, name) for name in names}
                yield Latents(values["key"], values["image"], tensors, timesteps, {"row": row})
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise BankError(f"{place}: not readable as a bank's Parquet ({one_line(error, most=160)})") from error


def _tensor(values: dict[str, Any], name: str) -> np.ndarray:
    dtype = np.dtype(values[f"{name}_dtype"]).newbyteorder("<")
    return np.frombuffer(values[name], dtype).reshape(values[f"{name}_shape"])
