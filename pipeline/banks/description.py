"""What a bank holds, apart from any file format: its description, an entry, the index's columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa

from diffstyle.errors import DiffStyleError
from pipeline.storage.identity import digest

BANK_FORMAT_VERSION = 1

ROLES = ("content", "style", "both")
FORMATS = ("parquet", "webdataset")
DTYPES = ("float16", "float32")
TENSORS = ("x_t", "h")

# data_hash and data_size are the SHA-256 and the bytes of the whole payload file, the same in all rows of a part: a
# column, and not metadata of the index file, since tables lose their metadata on the way through casts and joins.
# The offsets give the tensor's place in the payload, so that one ranged read fetches it in either format: for a tar
# the `.npy` member, for Parquet the value's raw bytes (rows are alone in their group and uncompressed).
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.string()),
        ("source", pa.string()),
        ("source_hash", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("label", pa.string()),
        ("caption", pa.string()),
        ("meta", pa.string()),
        ("data", pa.string()),
        ("row", pa.int32()),
        ("x_t_offset", pa.int64()),
        ("x_t_size", pa.int64()),
        ("h_offset", pa.int64()),
        ("h_size", pa.int64()),
        ("data_size", pa.int64()),
        ("data_hash", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("created", pa.timestamp("us", tz="UTC")),
    ]
)

# What a row says about the picture, as opposed to where its tensors are.
PICTURE_COLUMNS = ("key", "image", "source", "source_hash", "width", "height", "label", "caption", "meta")
PLACE_COLUMNS = ("data", "row", "x_t_offset", "x_t_size", "h_offset", "h_size", "data_size", "data_hash")


class BankError(DiffStyleError):
    """A bank that is missing, broken, of another version, or asked for what it does not hold."""


class UnknownKeyError(BankError, KeyError):
    """A key or image hash that is not in the bank; also a KeyError."""

    def __str__(self) -> str:  # KeyError shows the repr of its argument, with quotes
        return str(self.args[0])


@dataclass(frozen=True)
class BankDescription:
    """All that must be equal for two entries to be in one bank; ``description.json`` holds it under ``identity``.

    ``h_timesteps`` are the kept ones (empty in a style bank), ``h_shape`` is (C, h, w) of one bottleneck tensor,
    ``image_size`` the side of x_T in pixels. Raises BankError for a value that is not possible.
    """

    model_fingerprint: str
    model_name: str
    image_size: int
    role: str  # "content": h alone, "style": x_T alone, "both"
    format: str  # "parquet" or "webdataset"
    inversion: dict[str, Any]
    preprocessing: dict[str, Any]
    h_timesteps: tuple[int, ...]
    h_shape: tuple[int, int, int]
    h_dtype: str = "float16"
    x_t_dtype: str = "float32"
    format_version: int = field(default=BANK_FORMAT_VERSION)

    def __post_init__(self) -> None:
        object.__setattr__(self, "h_timesteps", tuple(int(t) for t in self.h_timesteps))
        object.__setattr__(self, "h_shape", tuple(int(n) for n in self.h_shape))
        for name, allowed in (("role", ROLES), ("format", FORMATS), ("h_dtype", DTYPES), ("x_t_dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                raise BankError(f"bank description: {name} is {getattr(self, name)!r}; use {' or '.join(allowed)}")
        if self.keeps_h and not self.h_timesteps:
            raise BankError(f"bank description: h_timesteps is empty; a {self.role} bank keeps at least one")
        if not self.keeps_h and self.h_timesteps:
            raise BankError("bank description: h_timesteps must be empty in a style bank, which keeps no h")
        if len(set(self.h_timesteps)) != len(self.h_timesteps):
            raise BankError("bank description: h_timesteps names a timestep twice")

    @property
    def keeps_x_t(self) -> bool:
        return self.role != "content"

    @property
    def keeps_h(self) -> bool:
        return self.role != "style"

    @property
    def x_t_shape(self) -> tuple[int, int, int]:
        """(3, H, W)."""
        return (3, self.image_size, self.image_size)

    @property
    def h_stack_shape(self) -> tuple[int, ...]:
        """(K, C, h, w)."""
        return (len(self.h_timesteps), *self.h_shape)

    @property
    def bytes_per_image(self) -> int:
        """Bytes of the tensors of one entry, without what a format adds (see :func:`payload_bytes`)."""
        return sum(_tensor_sizes(self))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; ``kind`` tells a bank from the other stores of parts."""
        values = asdict(self)
        values.update(kind="bank", h_timesteps=list(self.h_timesteps), h_shape=list(self.h_shape))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "bank description") -> BankDescription:
        """The inverse of :meth:`to_dict`; BankError, beginning with ``where``, if it is not one this code can read."""
        if values.get("kind") != "bank":
            raise BankError(f"{where}: not a latent bank (kind is {values.get('kind')!r}); is this the right folder?")
        version = values.get("format_version")
        if not isinstance(version, int) or version > BANK_FORMAT_VERSION:
            raise BankError(
                f"{where}: format_version is {version!r}, this release reads up to {BANK_FORMAT_VERSION}; "
                "install a newer diffstyle"
            )
        if version < BANK_FORMAT_VERSION:
            raise BankError(
                f"{where}: format_version is {version}, this release reads {BANK_FORMAT_VERSION}; "
                "run `diffstyle bank upgrade` on the bank"
            )
        names = {one.name for one in fields(cls)}
        missing, surplus = sorted(names - set(values)), sorted(set(values) - names - {"kind"})
        if missing or surplus:
            raise BankError(f"{where}: missing fields {missing}, unknown fields {surplus}; restore the description")
        return cls(**{name: values[name] for name in names})


@dataclass
class Latents:
    """One entry. What the bank's role does not keep, or was not asked for, is None.

    ``x_t``: (3, H, W); ``h``: (K, C, h, w), one slice for each of ``h_timesteps``, in that order; ``row``: the row of
    the index, as a dict.
    """

    key: str
    image: str
    x_t: np.ndarray | None
    h: np.ndarray | None
    h_timesteps: tuple[int, ...]
    row: dict[str, Any] = field(default_factory=dict)


def part_name(images: Sequence[str]) -> str:
    """The name of the part that holds these images, in this order: the same images always make the same part."""
    return f"part-{digest(*images)[:24]}"


def index_rows(rows: Iterable[Mapping[str, Any]] | pa.Table) -> pa.Table:
    """Rows as a table of INDEX_SCHEMA: missing columns are null, columns that are none of the index's are left out."""
    if isinstance(rows, pa.Table):
        rows = rows.to_pylist()
    return pa.Table.from_pylist([{name: row.get(name) for name in INDEX_SCHEMA.names} for row in rows], INDEX_SCHEMA)


def stored_tensors(item: Latents, description: BankDescription) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(x_t, h) of an entry as the bank stores them: cast, contiguous, little-endian; None where not kept.

    Raises BankError naming the entry and the tensor: missing, another shape, other timesteps, or values that are not
    finite (or not any more, once cast to the bank's dtype).
    """
    if description.keeps_h and tuple(item.h_timesteps) != description.h_timesteps:
        raise BankError(
            f"{item.key}: h is for timesteps {list(item.h_timesteps)}, the bank keeps {list(description.h_timesteps)}"
        )
    x_t = h = None
    if description.keeps_x_t:
        x_t = _stored(item.key, "x_t", item.x_t, description.x_t_shape, description.x_t_dtype)
    if description.keeps_h:
        h = _stored(item.key, "h", item.h, description.h_stack_shape, description.h_dtype)
    return x_t, h


def _stored(key: str, name: str, tensor: np.ndarray | None, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if tensor is None:
        raise BankError(f"{key}: {name} is missing; the bank's role asks for it")
    if tuple(tensor.shape) != shape:
        raise BankError(f"{key}: {name} has shape {tuple(tensor.shape)}, the bank holds {shape}")
    with np.errstate(over="ignore"):  # told below, with the entry's name
        stored = np.ascontiguousarray(tensor, dtype=np.dtype(dtype).newbyteorder("<"))
    if not np.isfinite(stored).all():
        finite_before = bool(np.isfinite(np.asarray(tensor)).all())
        reason = f"beyond the range of {dtype}" if finite_before else "not finite"
        raise BankError(f"{key}: {name} has values that are {reason}")
    return stored


def payload_bytes(description: BankDescription, images: int, part_size: int) -> int:
    """Bytes of the payloads of a bank of so many images in parts of ``part_size``, before any is made.

    Right within a few hundred bytes an image (which depend on the length of names and captions): far below 1 % at
    256 px, and within 5 % down to tensors of some 20 KB.
    """
    tensors = int(description.keeps_x_t) + int(description.keeps_h)
    full, rest = divmod(images, part_size)
    parts = [(full, part_size)] + [(1, rest)] * bool(rest)
    if description.format == "webdataset":
        # A header and a rounded-up body for each member, the .npy header of 128 bytes, and a tar ends on a record.
        each = 1024 + sum(512 + _round_up(128 + size, 512) for size in _tensor_sizes(description))
        return sum(count * _round_up(size * each + 1024, 10240) for count, size in parts)
    # Page headers, the small columns and the row group's entry in the footer, as measured; then the footer's schema.
    each = description.bytes_per_image + 217 + 300 * tensors + 123 * description.keeps_h
    return sum(count * (size * each + 336 + 339 * tensors + 163 * description.keeps_h) for count, size in parts)


def _tensor_sizes(description: BankDescription) -> list[int]:
    shapes = ((description.x_t_shape, description.x_t_dtype), (description.h_stack_shape, description.h_dtype))
    kept = (description.keeps_x_t, description.keeps_h)
    return [
        math.prod(shape) * np.dtype(dtype).itemsize for (shape, dtype), keep in zip(shapes, kept, strict=True) if keep
    ]


def _round_up(size: int, block: int) -> int:
    return size + -size % block
