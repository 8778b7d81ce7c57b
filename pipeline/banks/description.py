"""What a bank holds, apart from any file format: its description, an entry, the index's columns."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.banks.tensors import BankError, TensorSpec, read_tensors
from pipeline.storage.identity import digest, digest_of

BANK_FORMAT_VERSION = 1

FORMATS = ("parquet", "webdataset")

# What a row says about the picture, as opposed to where its tensors are.
PICTURE_FIELDS = (
    ("key", pa.string()),
    ("image", pa.string()),
    ("source", pa.string()),
    ("source_hash", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("label", pa.string()),
    ("caption", pa.string()),
    ("meta", pa.string()),
)
PICTURE_COLUMNS = tuple(name for name, _ in PICTURE_FIELDS)
# Of these, what people write and correct.
TEXT_COLUMNS = ("label", "caption", "meta")

# Where the payload is. data_hash and data_size are the SHA-256 and the bytes of the whole file, the same in all rows of
# a part: columns, and not metadata of the index file, since tables lose their metadata on the way through casts and
# joins. Between them come the places of the tensors, NAME_offset and NAME_size, so that one ranged read fetches a
# tensor in either format: for a tar the `.npy` member, for Parquet the value's raw bytes (rows are alone in their group
# and uncompressed). NAME_crc is the CRC-32 of its values, so that such a read is checked too; null: of before there was
# one.
PAYLOAD_FIELDS = (
    ("data", pa.string()),
    ("row", pa.int32()),
    ("data_size", pa.int64()),
    ("data_hash", pa.string()),
)
STATE_FIELDS = (("status", pa.string()), ("error", pa.string()), ("created", pa.timestamp("us", tz="UTC")))

#: The columns that every bank's index has, whatever tensors it keeps.
INDEX_COLUMNS = tuple(name for name, _ in (*PICTURE_FIELDS, *PAYLOAD_FIELDS, *STATE_FIELDS))


class UnknownKeyError(BankError, KeyError):
    """A key or image hash that is not in the bank; also a KeyError."""

    def __str__(self) -> str:  # KeyError shows the repr of its argument, with quotes
        return str(self.args[0])


@dataclass(frozen=True)
class BankDescription:
    """All that must be equal for two entries to be in one bank; ``description.json`` holds it under ``identity``.

    ``tensors`` are what is kept for each image, sorted by name; ``image_size`` is the side of the prepared pictures in
    pixels. Raises BankError for a value that is not possible.
    """

    model_fingerprint: str
    model_name: str
    image_size: int
    format: str  # "parquet" or "webdataset"
    inversion: dict[str, Any]
    preprocessing: dict[str, Any]
    tensors: tuple[TensorSpec, ...]
    format_version: int = field(default=BANK_FORMAT_VERSION)

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise BankError(f"bank description: format is {self.format!r}; use {' or '.join(FORMATS)}")
        object.__setattr__(self, "tensors", tuple(sorted(self.tensors, key=lambda one: one.name)))
        if not self.tensors:
            raise BankError("bank description: tensors is empty; a bank keeps at least one")
        # Columns of the index, of a Parquet payload, of a data frame and of a batch: no name may mean two things.
        names = list(INDEX_COLUMNS)
        for one in self.tensors:
            names += [
                one.name,
                *(f"{one.name}_{column}" for column in ("offset", "size", "crc", "shape", "dtype", "timesteps")),
            ]
        clashes = sorted({name for name in names if names.count(name) > 1})
        if clashes:
            raise BankError(f"bank description: tensors: the column {clashes[0]!r} would be there twice; rename one")

    # ---- the tensors ----
    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tensors, sorted."""
        return tuple(one.name for one in self.tensors)

    def keeps(self, name: str) -> bool:
        """Whether the bank keeps a tensor of this name."""
        return name in self.names

    def tensor(self, name: str) -> TensorSpec:
        """The tensor of this name; BankError, naming those that are kept, if it is none of them."""
        for one in self.tensors:
            if one.name == name:
                return one
        raise BankError(f"no tensor {name!r} in this bank; it keeps {' and '.join(self.names)}")

    @property
    def keeps_x_t(self) -> bool:
        return self.keeps("x_t")

    @property
    def keeps_h(self) -> bool:
        return self.keeps("h")

    @property
    def h_timesteps(self) -> tuple[int, ...]:
        """The timesteps at which h is kept; () where none is."""
        return (self.tensor("h").timesteps or ()) if self.keeps_h else ()

    @property
    def bytes_per_image(self) -> int:
        """Bytes of the tensors of one entry, without what a format adds (see ``payload.payload_bytes``)."""
        return sum(one.nbytes for one in self.tensors)

    @functools.cached_property
    def identity(self) -> str:
        """The digest of all of this: banks with the same one can be merged."""
        return digest_of(self.to_dict())

    # ---- the index ----
    @functools.cached_property
    def place_columns(self) -> tuple[str, ...]:
        """The columns of the index that say where the tensors are."""
        places = (name for one in self.tensors for name in self._places_of(one.name))
        return ("data", "row", *places, "data_size", "data_hash")

    @staticmethod
    def _places_of(name: str) -> tuple[str, str, str]:
        return f"{name}_offset", f"{name}_size", f"{name}_crc"

    @functools.cached_property
    def index_schema(self) -> pa.Schema:
        """The columns of the index."""
        types = dict(PAYLOAD_FIELDS)
        payload = [(name, types.get(name, pa.int64())) for name in self.place_columns]
        return pa.schema([*PICTURE_FIELDS, *payload, *STATE_FIELDS])

    def index_rows(self, rows: Iterable[Mapping[str, Any]] | pa.Table) -> pa.Table:
        """Rows as a table of the index: missing columns are null, columns that are none of the index's are omitted."""
        if isinstance(rows, pa.Table):
            rows = rows.to_pylist()
        names = self.index_schema.names
        return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows], self.index_schema)

    # ---- as JSON ----
    def to_dict(self) -> dict[str, Any]:
        """JSON-able; ``kind`` tells a bank from the other stores of parts."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**values, "kind": "bank", "tensors": {one.name: one.to_dict() for one in self.tensors}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "bank description") -> BankDescription:
        """The inverse of :meth:`to_dict`; BankError, beginning with ``where``, if it is not one this code can read."""
        if values.get("kind") != "bank":
            raise BankError(f"{where}: not a latent bank (kind is {values.get('kind')!r}); is this the right folder?")
        version = values.get("format_version")
        if version != BANK_FORMAT_VERSION:
            raise BankError(
                f"{where}: format_version is {version!r}, this release reads {BANK_FORMAT_VERSION}; "
                "install the diffstyle that wrote it"
            )
        names = {one.name for one in fields(cls)}
        missing, surplus = sorted(names - set(values)), sorted(set(values) - names - {"kind"})
        if missing or surplus:
            raise BankError(f"{where}: missing fields {missing}, unknown fields {surplus}; restore the description")
        kinds = {
            "model_fingerprint": str,
            "model_name": str,
            "image_size": int,
            "inversion": dict,
            "preprocessing": dict,
        }
        for name, kind in kinds.items():
            if not isinstance(values[name], kind):
                raise BankError(f"{where}: {name} is {values[name]!r}, no {kind.__name__}; restore the description")
        tensors = read_tensors(values["tensors"], where)
        return cls(**{**{name: values[name] for name in names}, "tensors": tensors})


@dataclass
class Latents:
    """One entry of a bank.

    tensors    name -> array: what the bank keeps and was asked for
    timesteps  name -> the timesteps of the array's slices, for tensors that are kept per timestep
    row        the row of the index
    thumbnail  its picture as a small WebP file, see ``thumbnails.py``; None: to be written without, or not read
    """

    key: str
    image: str
    tensors: dict[str, np.ndarray]
    timesteps: dict[str, tuple[int, ...]] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)
    thumbnail: bytes | None = field(default=None, repr=False)

    @property
    def x_t(self) -> np.ndarray | None:
        """(3, H, W); None where it is not kept or was not asked for."""
        return self.tensors.get("x_t")

    @property
    def h(self) -> np.ndarray | None:
        """(K, C, h, w), one slice for each of ``h_timesteps``; None where it is not kept or was not asked for."""
        return self.tensors.get("h")

    @property
    def h_timesteps(self) -> tuple[int, ...]:
        """The timesteps of h's slices."""
        return self.timesteps.get("h", ())


def part_name(images: Sequence[str]) -> str:
    """The name of the part that holds these images, in this order: the same images always make the same part."""
    return f"part-{digest(*images)[:24]}"


def entry_of(
    description: BankDescription, row: Mapping[str, Any], thumbnail: bytes | None = None, **tensors: np.ndarray
) -> Latents:
    """An entry with those of ``tensors`` that the bank keeps, their slices at the bank's timesteps.

    Args:
        row: What is known of the picture, ``key`` and ``image`` at least.
        thumbnail: Its picture as a small WebP file, if it is to be kept.
        tensors: By name; those that the bank does not keep are left out.
    """
    kept = {name: tensor for name, tensor in tensors.items() if description.keeps(name)}
    timesteps = {one.name: one.timesteps for one in description.tensors if one.timesteps is not None}
    return Latents(row["key"], row["image"], kept, timesteps, dict(row), thumbnail)


def stored_tensors(item: Latents, description: BankDescription) -> dict[str, np.ndarray]:
    """The tensors of an entry as the bank stores them, in the bank's order: cast, contiguous, little-endian.

    Raises BankError naming the entry and the tensor: missing, another shape, other timesteps, or values that are not
    finite (or not any more, once cast to the bank's dtype).
    """
    stored = {}
    for one in description.tensors:
        timesteps = item.timesteps.get(one.name)
        if one.name in item.tensors and timesteps != one.timesteps:
            raise BankError(
                f"{item.key}: {one.name} is for timesteps {_listed(timesteps)}, the bank keeps {_listed(one.timesteps)}"
            )
        stored[one.name] = one.stored(item.key, item.tensors.get(one.name))
    return stored


def _listed(timesteps: tuple[int, ...] | None) -> str:
    return "none" if timesteps is None else str(list(timesteps))
