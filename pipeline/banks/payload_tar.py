"""A bank's payload as a WebDataset tar: ``IMAGE.NAME.npy`` for each tensor, and ``IMAGE.json``, of each image.

Names, times and owners are fixed, so the same entries give the same bytes. The image's hash is the member's name: it
has no dots and is the same length for all, so the tar needs no extension headers.
"""

from __future__ import annotations

import functools
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from diffstyle.errors import one_line
from pipeline.banks.description import PICTURE_COLUMNS, BankDescription, Latents, stored_tensors
from pipeline.banks.tensors import BankError, TensorSpec, checksum
from pipeline.storage.place import Place
from pipeline.storage.tar import TarWriter

EXTENSION = "tar"
LEAD = 0
_BLOCK = tarfile.BLOCKSIZE


def write(stream: BinaryIO, description: BankDescription, items: Sequence[Latents]) -> list[dict[str, Any]]:
    """Write a payload; returns for each item its row, and NAME_offset, NAME_size and NAME_crc of each tensor.

    Offsets and sizes are those of the whole ``.npy`` members. Raises BankError as ``stored_tensors`` does.
    """
    places = []
    tar = TarWriter(stream)
    for row, item in enumerate(items):
        place: dict[str, Any] = {"row": row}
        for name, tensor in stored_tensors(item, description).items():
            place[f"{name}_crc"] = checksum(tensor)
            place[f"{name}_offset"], place[f"{name}_size"] = tar.add(f"{item.image}.{name}.npy", *_npy(tensor))
        sample = {name: item.row.get(name) for name in PICTURE_COLUMNS}
        sample.update(key=item.key, image=item.image)
        sample.update((f"{one.name}_timesteps", one.timesteps) for one in description.tensors if one.timesteps)
        tar.add(f"{item.image}.json", json.dumps(sample, sort_keys=True, ensure_ascii=False).encode())
        places.append(place)
    tar.end()
    return places


def stored_size(spec: TensorSpec) -> int:
    """Bytes that the index says a tensor takes: those of its ``.npy`` member."""
    header = io.BytesIO()
    _write_header(header, spec.stored_shape, spec.stored_dtype)
    return len(header.getvalue()) + spec.nbytes


def total_bytes(description: BankDescription, images: int) -> int:
    """Bytes of a payload with so many images: see ``payload.payload_bytes``."""
    # A header and a rounded-up body for each member, and a tar ends on a record.
    members = (_BLOCK + _round_up(stored_size(one), _BLOCK) for one in description.tensors)
    return _round_up(images * (2 * _BLOCK + sum(members)) + 2 * _BLOCK, tarfile.RECORDSIZE)


def _round_up(size: int, block: int) -> int:
    return size + -size % block


def _npy(tensor: np.ndarray) -> list[bytes | memoryview]:
    # What numpy.save writes, in two pieces: the header, and the values without a copy.
    header = io.BytesIO()
    _write_header(header, tensor.shape, tensor.dtype)
    return [header.getvalue(), tensor.reshape(-1).view(np.uint8).data]


def _write_header(stream: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, fields)


@functools.lru_cache(maxsize=64)
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = io.BytesIO(head)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not a version 1.0 .npy file")
    return np.lib.format.read_array_header_1_0(stream)


def decode(data: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """The tensor of an ``.npy`` member. ValueError if it is none, or not of this shape and dtype."""
    array = _array(data)
    if array.shape != spec.stored_shape or array.dtype != spec.stored_dtype:
        raise ValueError(f"a {array.dtype} tensor of shape {array.shape} where the bank has {spec}")
    return array


def _array(data: np.ndarray) -> np.ndarray:
    """The bytes of an ``.npy`` file as an array that shares them: no header makes it take more memory than it has."""
    length = 10 + int.from_bytes(data[8:10].tobytes(), "little")
    shape, fortran, dtype = _header(data[:length].tobytes())
    if fortran:
        raise ValueError("its values are not in C order")
    return np.frombuffer(data, dtype, offset=length).reshape(shape)


def read_all(place: Place) -> Iterator[Latents]:
    """Every entry in the order of the tar, one in memory at a time; its ``row`` holds the number of its sample.

    Raises BankError for a file that is not a tar, a member that is none of a bank's, or an end that comes too soon.
    """
    row = 0
    tensors: dict[str, np.ndarray] = {}
    try:
        with place.open() as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                image, _, kind = member.name.partition(".")
                content = tar.extractfile(member)
                data = content.read() if content else b""
                if len(data) != member.size:
                    raise BankError(f"{place}: ends inside {member.name}")
                if kind.endswith(".npy"):
                    tensors[kind.removesuffix(".npy")] = _array(np.frombuffer(data, np.uint8))
                elif kind == "json":
                    sample = json.loads(data)
                    timesteps = {n: tuple(sample[f"{n}_timesteps"]) for n in tensors if f"{n}_timesteps" in sample}
                    yield Latents(sample.get("key"), image, tensors, timesteps, {"row": row})
                    tensors, row = {}, row + 1
                else:
                    raise BankError(f"{place}: member {member.name} is none of a bank's")
    except (tarfile.TarError, OSError, SyntaxError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise BankError(f"{place}: not readable as a bank's tar ({one_line(error, most=160)})") from error
    if tensors:
        raise BankError(f"{place}: ends in the middle of an entry")
