"""Contact sheets: contents down, styles across, the results between, so that a person sees what a job made."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipeline.results.pictures import inside, recipe_slug
from pipeline.shards.store import ShardStore, open_shards
from pipeline.storage.identity import digest, source_parts
from pipeline.storage.layout import OutputLayout
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.tables import DamagedError

#: The columns of the manifest that are read; of a million rows the others would be a gigabyte.
COLUMNS = (
    *("status", "settings", "gamma", "gamma_schedule", "picture", "picture_hash", "width"),
    *("content_key", "content_image", "style_key", "style_image"),
)

# A sheet is to be looked at, not to hold everything.
MAX_ROWS, MAX_COLUMNS, MAX_SHEETS = 12, 8, 12
_GAP = 2
_MARGIN = 6  # between the sources and the results


def contact_sheets(output: Place, manifest: pa.Table, shards: Sequence[Place]) -> list[Place]:
    """Write ``OUT/contact-sheets/SLUG.png`` for each recipe of the manifest; returns where they are, by name.

    The sources' own pictures are shown where a shard store of the job has them.
    """
    written: list[Place] = []
    rows = manifest.filter(pc.equal(manifest["status"], "ok"))
    recipes = rows.group_by(["settings", "gamma", "gamma_schedule"]).aggregate([]).to_pylist()
    settings_of = {_slug(recipe): recipe["settings"] for recipe in recipes}
    stores = [open_shards(place) for place in shards if PartStore(place).exists()]
    for slug in sorted(settings_of)[:MAX_SHEETS]:
        some = rows.filter(pc.equal(rows["settings"], settings_of[slug]))
        place = OutputLayout(output).contact_sheets / f"{slug}.png"
        sheet = _sheet(output, some, stores)
        stream = io.BytesIO()
        sheet.save(stream, "PNG")
        place.write_bytes(stream.getvalue())
        written.append(place)
    return written


def _slug(recipe: Mapping[str, Any]) -> str:
    """The name of a recipe's folder, from its columns of the manifest."""
    gamma = recipe["gamma"]
    return recipe_slug(next(iter(json.loads(recipe["gamma_schedule"]))) if gamma is None else gamma, recipe["settings"])


def read_picture(output: Place, picture: str, written: str | None = None) -> np.ndarray:
    """A result as uint8 (H, W, 3).

    Args:
        output: The output folder.
        picture: The manifest's column of that name: a file, or ``TAR#MEMBER``.
        written: The manifest's ``picture_hash``; None: not compared.

    Raises:
        DamagedError: The picture is missing or not as it was written.
    """
    path, member = source_parts(picture)
    place = output / path
    cure = f"run `diffstyle verify {output} --repair`, then the job again"
    if not inside(path):
        raise DamagedError(f"{output}: the manifest names {picture!r}, which is no picture of a run; {cure}")
    try:
        data = place.read_bytes() if member is None else _member(place, member)
    except FileNotFoundError as error:
        raise DamagedError(f"{place}: missing, though the manifest names it; {cure}") from error
    except (tarfile.TarError, KeyError) as error:
        raise DamagedError(f"{place}: {member} can't be read; {cure}") from error
    return decode_picture(place, data, written, output)


def decode_picture(place: Place, data: bytes, written: str | None, output: Place) -> np.ndarray:
    """The bytes of a result as uint8 (H, W, 3).

    Args:
        place: The file that they are from.
        data: The picture's bytes.
        written: The manifest's ``picture_hash``; None: not compared.
        output: The output folder.

    Raises:
        DamagedError: They are not as they were written.
    """
    cure = f"run `diffstyle verify {output} --repair`, then the job again"
    if written is not None and digest(data) != written:
        raise DamagedError(f"{place}: bytes have changed since it was written; {cure}")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # from memory: Pillow's, not the disk's
        raise DamagedError(f"{place}: no picture any more ({' '.join(str(error).split())}); {cure}") from error


def _member(tar: Place, name: str) -> bytes:
    with tar.open() as stream, tarfile.open(fileobj=stream) as opened:
        content = opened.extractfile(name)
        if content is None:
            raise KeyError(name)
        return content.read()


def _sheet(output: Place, rows: pa.Table, stores: Sequence[ShardStore]) -> Image.Image:
    contents = _first_distinct(rows, "content", MAX_ROWS)
    styles = _first_distinct(rows, "style", MAX_COLUMNS)
    shown = pc.and_(
        pc.is_in(rows["content_image"], pa.array(contents, pa.string())),
        pc.is_in(rows["style_image"], pa.array(styles, pa.string())),
    )
    picture_of = {
        (row["content_image"], row["style_image"]): (row["picture"], row["picture_hash"])
        for row in rows.filter(shown).select(["content_image", "style_image", "picture", "picture_hash"]).to_pylist()
    }
    sources = _source_pictures({**contents, **styles}, stores)
    size = rows["width"][0].as_py()
    cell = size + _GAP
    sheet = Image.new(
        "RGB", (cell * (len(styles) + 1) + _MARGIN, cell * (len(contents) + 1) + _MARGIN), (255, 255, 255)
    )

    def put(pixels: np.ndarray | None, row: int, column: int) -> None:
        if pixels is not None:
            at = (column * cell + _MARGIN * (column > 0), row * cell + _MARGIN * (row > 0))
            sheet.paste(Image.fromarray(pixels), at)

    for column, style in enumerate(styles, 1):
        put(sources.get(style), 0, column)
    for row, content in enumerate(contents, 1):
        put(sources.get(content), row, 0)
        for column, style in enumerate(styles, 1):
            picture = picture_of.get((content, style))
            put(read_picture(output, *picture) if picture else None, row, column)
    return sheet


def _first_distinct(rows: pa.Table, side: str, most: int) -> dict[str, str]:
    """image -> key of the first distinct pictures of a side, in key order."""
    image, key = f"{side}_image", f"{side}_key"
    distinct = rows.group_by([image, key]).aggregate([]).to_pylist()
    return {row[image]: row[key] for row in sorted(distinct, key=lambda row: (row[key], row[image]))[:most]}


def _source_pictures(images: Mapping[str, str], stores: Sequence[ShardStore]) -> dict[str, np.ndarray]:
    pictures: dict[str, np.ndarray] = {}
    for store in stores:
        table = store.rows()
        rows = table.filter(pc.is_in(table["image"], pa.array(list(images), pa.string()))).to_pylist()
        first = {row["image"]: row for row in reversed(rows) if row["image"] not in pictures}
        if first:
            chosen = list(first.values())
            pictures.update(zip([row["image"] for row in chosen], store.read_many(chosen), strict=True))
    return pictures
