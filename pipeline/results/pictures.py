"""Encoding results and writing them: a plain folder, or a WebDataset shard for each tile."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.jobfile.schema import Pictures
from pipeline.results.manifest import TIMING_COLUMNS
from pipeline.storage.identity import digest, source_text
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place
from pipeline.storage.png import png
from pipeline.storage.tar import TarWriter
from pipeline.storage.whole import write_whole

EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp"}


@dataclass(frozen=True)
class Encoded:
    """A result as it will lie in its file."""

    name: str  # CONTENT-KEY__STYLE-KEY
    data: bytes
    row: dict[str, Any]  # its row of the manifest, without the picture's columns


def save_picture(image: Image.Image, file: str | os.PathLike[str]) -> None:
    """Write a picture for people, whole or not at all: what was there stays where the disk is full.

    Args:
        image: The picture.
        file: On a local disk; its suffix says the format.
    """
    data = io.BytesIO()
    image.save(data, Image.registered_extensions()[Path(file).suffix.lower()])
    write_whole(file, data.getvalue())


def encode(pixels: np.ndarray, spec: Pictures) -> bytes:
    """uint8 (H, W, 3) as a file's bytes; the same pixels give the same bytes."""
    if spec.format == "png":
        return png(pixels)
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    if spec.format == "jpeg":
        image.save(stream, "JPEG", quality=spec.quality, subsampling=0)
    else:
        image.save(stream, "WEBP", quality=spec.quality, method=4)
    return stream.getvalue()


def picture_settings(spec: Pictures) -> dict[str, Any]:
    """What of the output's format decides a result's bytes."""
    return {"format": spec.format} if spec.format == "png" else {"format": spec.format, "quality": spec.quality}


def write_pictures(
    output: Place, spec: Pictures, slug: str, part: str, pictures: Sequence[Encoded]
) -> list[dict[str, Any]]:
    """Write a tile's pictures below ``output/pictures``; returns their manifest rows. Each file appears whole."""
    extension = EXTENSIONS[spec.format]
    rows = []
    if spec.to == "webdataset":
        shard = OutputLayout(output).pictures / f"{part}.tar"
        with shard.writer() as stream:
            tar = TarWriter(stream)
            for picture in pictures:
                row = _described(picture, source_text(shard.relative_to(output), f"{picture.name}.{extension}"), spec)
                tar.add(f"{picture.name}.{extension}", picture.data)
                sample = {
                    name: value for name, value in row.items() if value is not None and name not in TIMING_COLUMNS
                }
                tar.add(f"{picture.name}.json", json.dumps(sample, sort_keys=True, ensure_ascii=False).encode())
                rows.append(row)
            tar.end()
        return rows
    folder = OutputLayout(output).pictures / slug
    for picture in pictures:
        place = folder / f"{picture.name}.{extension}"
        place.write_bytes(picture.data)
        rows.append(_described(picture, source_text(place.relative_to(output)), spec))
    return rows


def _described(picture: Encoded, where: str, spec: Pictures) -> dict[str, Any]:
    return {
        **picture.row,
        "picture": where,
        "picture_hash": digest(picture.data),
        "picture_bytes": len(picture.data),
        "format": spec.format,
    }


def inside(path: str) -> bool:
    """Whether a row's path of a picture lies in an output's folder of pictures, and not elsewhere."""
    pieces = path.split("/")
    return pieces[0] == OutputLayout.PICTURES and len(pieces) > 1 and not {"", ".", ".."} & set(pieces)


def recipe_slug(gamma: float | str, identifier: str, more: str = "") -> str:
    """The name of a recipe's folder and contact sheet.

    Args:
        gamma: The number, or the kind of its schedule.
        identifier: The recipe's digest.
        more: What else tells it from others, see ``words.name_words``.
    """
    pieces = ["gamma", gamma if isinstance(gamma, str) else format(gamma, "g"), more, identifier[:8]]
    return "-".join(piece for piece in pieces if piece)
