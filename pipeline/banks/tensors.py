"""What tensors a bank keeps: their names, dtypes, shapes and timesteps. Everything else loops over this list.

Diffusion banks keep ``h`` (per timestep) and ``x_t``; a bank of another method or model keeps what it names.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffstyle.errors import DiffStyleError

#: Integers are stored exactly or refused; floats are rounded to the bank's dtype.
DTYPES = (
    *("float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
ROLES = ("content", "style", "both")

# A value of a Parquet column of type binary has its size in 31 bits.
_MOST_BYTES = 2**31 - 1
_WORD = re.compile(r"[a-z][a-z0-9_]*")


class BankError(DiffStyleError):
    """A bank that is missing, broken, of another version, or asked for what it does not hold."""


def checksum(tensor: np.ndarray) -> int:
    """CRC-32 of a tensor's values as a bank stores them: contiguous, little-endian."""
    return zlib.crc32(tensor.reshape(-1).view(np.uint8).data)


def _integers(values: Any) -> tuple[int, ...]:
    """() for what is no sequence of whole numbers, so that it is refused like an empty one."""
    if not isinstance(values, tuple | list) or not all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) for n in values
    ):
        return ()
    return tuple(int(n) for n in values)


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that a bank keeps for every image.

    name       a lower-case word; columns and members of the payload are called by it
    dtype      one of DTYPES; stored little-endian
    shape      of one slice, each axis at least 1
    timesteps  those at which a slice is kept, in the order of the slices; None: one slice, without an axis for it

    Raises BankError for a value that is not possible.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    timesteps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        where = f"bank description: tensor {self.name!r}"
        if not isinstance(self.name, str) or not _WORD.fullmatch(self.name):
            raise BankError(f"{where}: the name must be a lower-case word (letters, digits and _)")
        if self.dtype not in DTYPES:
            raise BankError(f"{where}: dtype is {self.dtype!r}; use one of {', '.join(DTYPES)}")
        shape = _integers(self.shape)
        if not shape or min(shape) < 1:
            raise BankError(f"{where}: shape is {self.shape!r}; give at least one axis, each of at least 1")
        object.__setattr__(self, "shape", shape)
        if self.timesteps is not None:
            timesteps = _integers(self.timesteps)
            if not timesteps:
                raise BankError(f"{where}: timesteps is {self.timesteps!r}; keep at least one")
            if len(set(timesteps)) != len(timesteps):
                raise BankError(f"{where}: timesteps has a duplicate")
            object.__setattr__(self, "timesteps", timesteps)
        if self.nbytes > _MOST_BYTES:
            raise BankError(f"{where}: {self.nbytes:,} bytes an image; a bank keeps tensors of less than 2 GiB")

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor of one image: ``shape``, or (K, *shape) for K timesteps."""
        return self.shape if self.timesteps is None else (len(self.timesteps), *self.shape)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """The dtype as it lies in a payload: little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor of one image."""
        return math.prod(self.stored_shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {self.stored_shape}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the name."""
        timesteps = None if self.timesteps is None else list(self.timesteps)
        return {"dtype": self.dtype, "shape": list(self.shape), "timesteps": timesteps}

    def stored(self, key: str, tensor: np.ndarray | None) -> np.ndarray:
        """``tensor`` as the bank stores it: cast, contiguous, little-endian.

        Args:
            key: The entry's key, for error messages.
            tensor: An array of ``stored_shape``.

        Raises:
            BankError: It is missing, has another shape, or values that are not finite or don't fit the dtype.
        """
        if tensor is None:
            raise BankError(f"{key}: {self.name} is missing; the bank keeps it")
        if tuple(tensor.shape) != self.stored_shape:
            raise BankError(f"{key}: {self.name} has shape {tuple(tensor.shape)}, the bank holds {self.stored_shape}")
        with np.errstate(over="ignore", invalid="ignore"):  # told below, with the entry's name
            stored = np.ascontiguousarray(tensor, dtype=self.stored_dtype)
        rounds = stored.dtype.kind == "f"
        fits = np.isfinite(stored).all() if rounds else np.array_equal(stored, tensor)
        if not fits:
            reason = f"beyond the range of {self.dtype}" if rounds else f"not values of {self.dtype}"
            if not np.isfinite(np.asarray(tensor)).all():
                reason = "not finite"
            raise BankError(f"{key}: {self.name} has values that are {reason}")
        return stored


#: How many pixels of the prepared picture have each value of each channel: what ``injection.match_colours`` reads.
COLOURS = TensorSpec("colours", "uint32", (3, 256))


def role_tensors(
    role: str,
    image_size: int,
    h_shape: Sequence[int],
    h_timesteps: Sequence[int],
    h_dtype: str = "float16",
    x_t_dtype: str = "float32",
    colours: bool = False,
) -> tuple[TensorSpec, ...]:
    """The tensors of a diffusion bank: ``content`` keeps h, ``style`` x_t, ``both`` both.

    Args:
        role: One of ROLES.
        image_size: Side of x_T in pixels; x_t is (3, image_size, image_size).
        h_shape: (C, h, w) of one bottleneck tensor.
        h_timesteps: Those at which h is kept; of no account for ``style``.
        h_dtype: How h is stored.
        x_t_dtype: How x_T is stored.
        colours: Keep COLOURS too.

    Raises:
        BankError: A value that is not possible.
    """
    if role not in ROLES:
        raise BankError(f"bank description: role is {role!r}; use {' or '.join(ROLES)}")
    h = TensorSpec("h", h_dtype, tuple(h_shape), tuple(h_timesteps)) if role != "style" else None
    x_t = TensorSpec("x_t", x_t_dtype, (3, image_size, image_size)) if role != "content" else None
    return tuple(one for one in (h, x_t, COLOURS if colours else None) if one is not None)


def read_tensors(values: Any, where: str) -> tuple[TensorSpec, ...]:
    """The inverse of ``{one.name: one.to_dict() ...}``; BankError, beginning with ``where``, if it is not that."""
    if not isinstance(values, Mapping):
        raise BankError(f"{where}: tensors is {values!r}, not a mapping of names; restore the description")
    tensors = []
    for name, value in values.items():
        if not isinstance(value, Mapping) or set(value) != {"dtype", "shape", "timesteps"}:
            raise BankError(f"{where}: tensor {name!r} needs dtype, shape and timesteps; restore the description")
        try:
            tensors.append(TensorSpec(name, **value))
        except BankError as error:
            raise BankError(f"{where}: {error}") from error
    return tuple(tensors)
