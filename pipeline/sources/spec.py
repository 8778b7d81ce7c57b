"""What a job file may say of a data set, and opening the data set that it says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from pipeline.sources.addresses import forget_links, resolve
from pipeline.sources.attributes import Naming
from pipeline.sources.base import Source, SourceError
from pipeline.sources.folder import FolderSource, is_picture_file
from pipeline.sources.lmdbs import LmdbSource
from pipeline.sources.parquet_files import first_value, read_schema
from pipeline.sources.paths import PATH_COLUMNS, ListSource
from pipeline.sources.picture_columns import find_image_column
from pipeline.sources.tables import ParquetSource
from pipeline.sources.tars import TarSource
from pipeline.storage.address import BASE, InputPattern, Text
from pipeline.storage.masking import without_variables
from pipeline.storage.place import Place
from pipeline.storage.yamlfile import Document

#: One address, or several.
Addresses = Annotated[
    Annotated[InputPattern, Tag("<address>")] | Annotated[list[InputPattern], Tag("<addresses>")],
    Discriminator(lambda value: "<addresses>" if isinstance(value, list | tuple) else "<address>"),
]

_KINDS = ("folder", "webdataset", "parquet", "list", "lmdb")
# Fields that would be read by nothing.
_MEANINGLESS = {"folder": ("image_column",), "lmdb": ("image_column", "label_column", "caption_column")}


class SourceSpec(BaseModel):
    """A data set: exactly one of the kinds, with one or several addresses (a path, ``s3://...``, ``gs://...``).

    A bare string, or a list of them, stands for ``{any: ...}``: the kind is recognised by what is there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    OTHER_NAMES: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("path", "paths", "dir", "directory", "root", "file", "files", "images", "pictures"), "folder"),
        **dict.fromkeys(("tar", "tars", "wds", "shards"), "webdataset"),
        **dict.fromkeys(("csv", "tsv", "json", "jsonl"), "list"),
    }

    folder: Addresses | None = None
    """picture files in a folder and below; the folder that a picture lies in is its label. A picture file is a set of
    one: `content: me.jpg`"""
    webdataset: Addresses | None = None
    """tar files: `shard-{000..009}.tar`, a pattern with `*`, or a folder of them"""
    parquet: Addresses | None = None
    """Parquet files with a column of picture bytes"""
    list: Addresses | None = None
    """CSV, JSON lines or Parquet files with a column of paths or web addresses, see [lists](#lists)"""
    lmdb: Addresses | None = None
    """LSUN's lmdb databases (needs the extra `lmdb`)"""
    any: Addresses | None = None
    """one of the above, recognised by what is there; what a bare path stands for"""
    image_column: Text | None = None
    """Parquet: the column of pictures; lists: of paths; tars: the extension of the pictures (`jpg`, `mask.png`).
    `null`: found by itself"""
    label_column: Text | None = None
    """the column or side-car field that is the label; `null`: found by itself"""
    caption_column: Text | None = None
    """the column or side-car field that is the caption; `null`: found by itself"""
    allow_outside: bool = False
    """also read what lists, tables and links name outside of their own folder, see [lists](#lists)"""
    limit: int | None = Field(default=None, ge=1)
    """only the first so many pictures, in the data set's order; `null`: no limit"""

    @property
    def reading(self) -> dict[str, str]:
        """The columns that are given: with others the same rows are other pictures, labels or captions."""
        names = ("image_column", "label_column", "caption_column")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"any": value} if isinstance(value, (str, list_type)) else value

    @model_validator(mode="after")
    def _one_kind(self) -> SourceSpec:
        given = [kind for kind in (*_KINDS, "any") if getattr(self, kind) is not None]
        if len(given) != 1:
            wanted = f"give exactly one of {', '.join(_KINDS)}"
            raise ValueError(f"{wanted}, not {' and '.join(given)}" if given else wanted)
        if not self.addresses:
            raise ValueError(f"{given[0]}: an empty list; give a path or s3://bucket/folder")
        return self

    @property
    def kind(self) -> str:
        """``folder``, ``webdataset``, ``parquet``, ``list``, ``lmdb``; or ``any`` where it is to be recognised."""
        return next(kind for kind in (*_KINDS, "any") if getattr(self, kind) is not None)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses, absolute."""
        value = getattr(self, self.kind)
        return (value,) if isinstance(value, str) else tuple(value)


list_type: type = type([])  # the class above has a field called `list`


def _is_list(value: Any) -> bool:
    return isinstance(value, (list_type, tuple))


def open_source(
    spec: SourceSpec | str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, Any],
    base: str | Path | None = None,
) -> Source:
    """Open a data set.

    Args:
        spec: An address (a folder, ``.tar``, ``.parquet``, ``.csv`` or LSUN lmdb; on a disk, S3 or GCS) or several;
            or what ``content`` and ``style`` of a job are: a mapping of fields, or a :class:`SourceSpec`.
        base: The folder that a relative path given as text starts from; default: the working directory.

    Raises:
        ConfigError: It is none of these.
        SourceError: It is missing or not of its kind, in one line that names the address and the cure. One that is
            empty shows when its blocks are asked for.
    """
    forget_links()
    if not isinstance(spec, SourceSpec):
        value = os.fspath(spec) if isinstance(spec, os.PathLike) else spec
        value = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in value] if _is_list(value) else value
        spec = Document("data set", dict(value) if isinstance(value, Mapping) else {"any": value}).validate(
            SourceSpec, {BASE: base}
        )
    kind = spec.kind
    addresses = spec.addresses
    if kind == "any":
        kinds = {address: _recognise(address, base) for address in addresses}
        if len(set(kinds.values())) > 1:
            described = ", ".join(f"{address} is {kind}" for address, kind in kinds.items())
            raise SourceError(f"addresses of different kinds: {described}; give them as data sets of their own")
        kind = kinds[addresses[0]]
    source = _open(spec, kind, base)
    places = [place for address in addresses for place in resolve(address, base)]
    roots = (str(place if place.is_dir() else place.parent) for place in places)
    source.roots = tuple(dict.fromkeys(without_variables(root) for root in roots))  # as the sources are written
    return source


def _open(spec: SourceSpec, kind: str, base: str | Path | None) -> Source:
    naming, addresses = Naming(spec.label_column, spec.caption_column), spec.addresses
    for name in _MEANINGLESS.get(kind, ()):
        if getattr(spec, name) is not None:
            raise SourceError(f"{', '.join(addresses)}: {name} says nothing of a {kind}; remove it")
    if kind == "folder":
        roots = [place for address in addresses for place in resolve(address, base)]
        return FolderSource(roots, naming, spec.limit, spec.allow_outside)
    if kind == "lmdb":
        return LmdbSource(addresses, base, spec.limit)
    if kind == "webdataset":
        return TarSource(addresses, base, naming, spec.limit, spec.image_column)
    if kind == "parquet":
        return ParquetSource(addresses, base, spec.image_column, naming, spec.limit, spec.allow_outside)
    return ListSource(addresses, base, spec.image_column, naming, spec.limit, spec.allow_outside)


def _recognise(address: str, base: str | Path | None) -> str:
    place = resolve(address, base)[0]
    if place.is_dir():
        return "lmdb" if (place / "data.mdb").is_file() else "folder"
    if is_picture_file(place):
        return "folder"
    suffix = place.name.rpartition(".")[2].lower()
    if suffix == "parquet":
        return "parquet" if _holds_pictures(place) else "list"
    kinds = {"tar": "webdataset", "csv": "list", "tsv": "list", "jsonl": "list", "ndjson": "list", "mdb": "lmdb"}
    if suffix not in kinds:
        raise SourceError(
            f"{place}: not a folder, picture, .tar, .parquet, .csv or .jsonl; say of which kind it is: "
            f"{', '.join(_KINDS)}"
        )
    return kinds[suffix]


def _holds_pictures(place: Place) -> bool:
    schema = read_schema(place)
    return find_image_column(schema, partial(first_value, place)) is not None or not set(PATH_COLUMNS) & set(
        schema.names
    )
