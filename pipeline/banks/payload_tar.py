"""A bank's payload as a WebDataset tar: ``IMAGE.x_t.npy``, ``IMAGE.h.npy`` and ``IMAGE.json`` for each image.

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

from pipeline.banks.description import PICTURE_COLUMNS, BankDescription, BankError, Latents, stored_tensors
from pipeline.storage.place import Place

EXTENSION = "tar"
LEAD = 0
_BLOCK = tarfile.BLOCKSIZE


def write(stream: BinaryIO, description: BankDescription, items: Sequence[Latents]) -> list[dict[str, Any]]:
    """Write a payload; returns for each item where its tensors lie: row, x_t_offset, x_t_size, h_offset, h_size.

    Offsets and sizes are those of the whole ``.npy`` members. Raises BankError as ``stored_tensors`` does.
    """
    places = []
    written = 0
    for row, item in enumerate(items):
        x_t, h = stored_tensors(item, description)
        place: dict[str, Any] = {"row": row}
        for name, tensor in (("x_t", x_t), ("h", h)):
            offset = size = None
            if tensor is not None:
                offset = written + _BLOCK
                size, taken = _add(stream, f"{item.image}.{name}.npy", _npy(tensor))
                written += taken
            place[f"{name}_offset"], place[f"{name}_size"] = offset, size
        said = {name: item.row.get(name) for name in PICTURE_COLUMNS}
        said.update(key=item.key, image=item.image, h_timesteps=list(description.h_timesteps))
        text = json.dumps(said, sort_keys=True, ensure_ascii=False).encode()
        written += _add(stream, f"{item.image}.json", [text])[1]
        places.append(place)
    stream.write(bytes(2 * _BLOCK + -(written + 2 * _BLOCK) % tarfile.RECORDSIZE))
    return places


def _npy(tensor: np.ndarray) -> list[bytes | memoryview]:
    # What numpy.save writes, in two pieces: the header, and the values without a copy.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(tensor))
    return [header.getvalue(), tensor.reshape(-1).view(np.uint8).data]


def _add(stream: BinaryIO, name: str, pieces: Sequence[bytes | memoryview]) -> tuple[int, int]:
    """Append a member; returns (bytes of its data, bytes that it takes in the tar). One header block comes first."""
    info = tarfile.TarInfo(name)
    info.size = sum(len(piece) for piece in pieces)
    info.mode = 0o644
    header = info.tobuf(tarfile.USTAR_FORMAT)
    padding = bytes(-info.size % _BLOCK)
    for piece in (header, *pieces, padding):
        stream.write(piece)
    return info.size, len(header) + info.size + len(padding)


@functools.lru_cache(maxsize=64)
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = io.BytesIO(head)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not a version 1.0 .npy file")
    return np.lib.format.read_array_header_1_0(stream)


def decode(data: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """The tensor of an ``.npy`` member. ValueError if it is none, or not of this shape and dtype."""
    stored = np.dtype(dtype).newbyteorder("<")
    length = 10 + int.from_bytes(data[8:10].tobytes(), "little")
    there, fortran, kind = _header(data[:length].tobytes())
    if there != shape or kind != stored or fortran:
        raise ValueError(f"a {kind} tensor of shape {there} where the bank has {stored} {shape}")
    return np.frombuffer(data, stored, offset=length).reshape(shape)


def read_all(place: Place) -> Iterator[tuple[dict[str, Any], np.ndarray | None, np.ndarray | None]]:
    """Every entry in the order of the tar: (image, key, row, h_timesteps), x_t, h. One entry in memory at a time.

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
                if kind in ("x_t.npy", "h.npy"):
                    tensors[kind] = np.load(io.BytesIO(data), allow_pickle=False)
                elif kind == "json":
                    said = json.loads(data)
                    head = {"image": image, "key": said.get("key"), "row": row}
                    head["h_timesteps"] = said.get("h_timesteps", [])
                    yield head, tensors.get("x_t.npy"), tensors.get("h.npy")
                    tensors, row = {}, row + 1
                else:
                    raise BankError(f"{place}: member {member.name} is none of a bank's")
    except (tarfile.TarError, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise BankError(f"{place}: not readable as a bank's tar ({str(error).splitlines()[0]})") from error
    if tensors:
        raise BankError(f"{place}: ends in the middle of an entry")
