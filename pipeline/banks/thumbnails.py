"""Thumbnails of a bank's pictures: a small file for each part, beside index and payload, so that neither grows.

``thumbnails/PART.parquet`` holds ``image`` and ``picture``, a WebP of at most SIDE pixels a side. They are for people:
a bank without them, or with some, reads the same.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from diffstyle.errors import one_line
from pipeline.banks.index import BankIndex, read_description
from pipeline.banks.tensors import BankError
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.tables import DamagedError, read_table, write_table

#: Pixels of the longest side.
SIDE = 96
_QUALITY = 80
_FEW = 48  # pixels a side: WebP with losses would blur colours that are a pixel wide
_SCHEMA = pa.schema([("image", pa.string()), ("picture", pa.binary())])
_MOST_PIXELS = 1 << 20  # of a stranger's


def thumbnail(pixels: np.ndarray) -> bytes:
    """A picture as a thumbnail.

    Args:
        pixels: uint8 (H, W, 3).

    Returns:
        A WebP file: some 2 KB, less for pictures smaller than SIDE.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    stream = io.BytesIO()
    if max(image.size) <= _FEW:
        image.save(stream, "WEBP", lossless=True, quality=40, method=2)
    else:
        image.save(stream, "WEBP", quality=_QUALITY, method=2)
    return stream.getvalue()


def write_thumbnails(root: Place, part: str, pictures: Mapping[str, bytes]) -> None:
    """Keep thumbnails beside a part; of none, no file.

    Args:
        root: The bank.
        part: The part's name.
        pictures: Image hash -> as :func:`thumbnail` makes it.
    """
    if not pictures:
        return
    images = sorted(pictures)
    table = pa.table({"image": images, "picture": [pictures[image] for image in images]}, _SCHEMA)
    with _file(root, part).writer() as stream:
        write_table(stream, table)


def stored_thumbnails(root: Place, rows: Iterable[Mapping[str, Any]]) -> dict[str, bytes]:
    """Image hash -> the WebP file, of rows of the index; those that have one.

    Raises:
        BankError: A file of thumbnails is damaged.
    """
    by_part: dict[str, set[str]] = {}
    for row in rows:
        by_part.setdefault(row["data"], set()).add(row["image"])
    pictures: dict[str, bytes] = {}
    for part, images in by_part.items():
        place = _file(root, part)
        if place.is_file():
            pictures.update((image, data) for image, data in _read(place).items() if image in images)
    return pictures


def bank_thumbnails(root: str | Place, images: Collection[str]) -> dict[str, np.ndarray]:
    """Image hash -> uint8 (h, w, 3), of those images of a bank that have a thumbnail.

    Args:
        root: The bank.
        images: Those wanted.

    Raises:
        BankError: Index or thumbnails are damaged.
    """
    store = PartStore(Place.parse(root))
    index = BankIndex(store, read_description(store)[0]).read(["image", "data", "status"])
    wanted = pc.and_(pc.is_in(index["image"], pa.array(sorted(images), pa.string())), pc.equal(index["status"], "ok"))
    stored = stored_thumbnails(store.root, index.filter(wanted).to_pylist())
    return {image: _decoded(store.root, image, data) for image, data in stored.items()}


def damaged_thumbnails(root: Place) -> dict[str, str]:
    """Part -> what is wrong with its thumbnails, of those that can't be read."""
    wrong = {}
    for part in _parts(root):
        try:
            for image, data in _read(_file(root, part)).items():
                _decoded(root, image, data)
        except BankError as error:
            wrong[part] = str(error)
    return wrong


def drop_thumbnails(root: Place, part: str) -> None:
    """Delete a part's thumbnails, if it has some."""
    _file(root, part).delete()


def remove_uncommitted_thumbnails(root: Place, committed: Collection[str]) -> list[str]:
    """Delete the thumbnails of parts that are none of ``committed``, and unfinished files; returns the files' names."""
    spare = [part for part in _parts(root) if part not in committed]
    for part in spare:
        drop_thumbnails(root, part)
    _folder(root).remove_unfinished()
    return [f"{part}.parquet" for part in spare]


def _folder(root: Place) -> Place:
    return root / "thumbnails"


def _file(root: Place, part: str) -> Place:
    return _folder(root) / f"{part}.parquet"


def _parts(root: Place) -> list[str]:
    return [entry.place.name.removesuffix(".parquet") for entry in _folder(root).list(".parquet")]


def _read(place: Place) -> dict[str, bytes]:
    try:
        table = read_table(place, _SCHEMA, cure="run `diffstyle bank repair`, which drops it")
    except DamagedError as error:
        raise BankError(str(error)) from error
    return dict(zip(table["image"].to_pylist(), table["picture"].to_pylist(), strict=True))


def _decoded(root: Place, image: str, data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels are no thumbnail")
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise BankError(
            f"{_folder(root)}: the thumbnail of {image} can't be read ({one_line(error)}); "
            "run `diffstyle bank repair`, which drops it"
        ) from error
