"""Contact sheets: contents down, styles across, the results between, so that a person sees what a job made."""

from __future__ import annotations

import io
import json
import re
import tarfile
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageFont

from pipeline.results.pictures import inside, recipe_slug
from pipeline.results.sheet_rows import MAX_COLUMNS, MAX_ROWS, SheetRows
from pipeline.results.source_pictures import SourcePictures
from pipeline.results.words import NAMING, name_words, setting_words, short_name
from pipeline.storage.identity import digest, source_parts
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Entry, Place
from pipeline.storage.tables import DamagedError

MAX_SHEETS = 12
CELL = 96  # pixels a side that a picture has at least; smaller ones are shown larger, pixel by pixel
GAP = 2
MARGIN = 6  # between the sources and the results
_SHEET = re.compile(r"gamma-.*-[0-9a-f]{8}\.png")
NAMES = 30  # pixels high, above the styles: two lines
ASIDE = 112  # pixels wide, left of the contents
INK, SOFT = (20, 22, 26), (90, 95, 105)


def contact_sheets(
    output: Place, shown: SheetRows, shards: Sequence[Place], banks: Sequence[Place] = ()
) -> list[Place]:
    """Write ``OUT/contact-sheets/SLUG.png`` for each recipe of the manifest; returns where they are, by name.

    A sheet has the settings as its title and the names of contents and styles on its axes, and says so where it shows
    only some of them. The sources' own pictures are shown where a shard store of the job has them, else as the
    thumbnails that its banks keep.
    """
    written: list[Place] = []
    rows = shown.rows
    settings_of = recipes_of(rows)
    for stale in stale_sheets(output, rows):
        stale.place.delete()
    _, first = np.unique(rows["settings"].to_numpy(zero_copy_only=False).astype(str), return_index=True)
    one_of_each = rows.take(first).to_pylist()
    words = {
        row["settings"]: text
        for row, text in zip(one_of_each, setting_words(one_of_each, all_of_one=True), strict=True)
    }
    sources = SourcePictures(shards, banks)
    for slug in sorted(settings_of)[:MAX_SHEETS]:
        some = rows.filter(pc.equal(rows["settings"], settings_of[slug]))
        place = OutputLayout(output).contact_sheets / f"{slug}.png"
        settings = settings_of[slug]
        sheet = _sheet(output, some, sources, words[settings], shown.sides[settings])
        stream = io.BytesIO()
        sheet.save(stream, "PNG")
        place.write_bytes(stream.getvalue())
        written.append(place)
    return written


def stale_sheets(output: Place, rows: pa.Table) -> list[Entry]:
    """The contact sheets of recipes of which no row is left, and those of before under other names.

    Args:
        output: The output folder.
        rows: The rows that stay, with the columns NAMING.
    """
    names = {f"{slug}.png" for slug in recipes_of(rows)}
    sheets = OutputLayout(output).contact_sheets.list(".png")
    return [entry for entry in sheets if entry.place.name not in names and _SHEET.fullmatch(entry.place.name)]


def recipes_of(rows: pa.Table) -> dict[str, str]:
    """The name of each recipe's folder and sheet -> its settings. Rows need the columns NAMING."""
    slugs: dict[str, str] = {}  # one for each recipe, also where two jobs wrote the same mask in two ways
    for recipe in rows.group_by(list(NAMING)).aggregate([]).to_pylist():
        slug = _slug(recipe)
        slugs[recipe["settings"]] = min(slug, slugs.get(recipe["settings"], slug))
    return {slug: settings for settings, slug in slugs.items()}


def _slug(recipe: Mapping[str, Any]) -> str:
    """The name of a recipe's folder, from its columns of the manifest."""
    gamma = recipe["gamma"]
    gamma = next(iter(json.loads(recipe["gamma_schedule"]))) if gamma is None else gamma
    return recipe_slug(gamma, recipe["settings"], name_words(recipe))


def read_picture(output: Place, picture: str, written: str | None = None) -> np.ndarray:
    """A result as uint8 (H, W, 3).

    Args:
        output: The output folder.
        picture: The manifest's column of that name: a file, or ``TAR#MEMBER``.
        written: The manifest's ``picture_hash``; None: not compared.

    Raises:
        DamagedError: The picture is missing or not as it was written.
    """
    return decode_picture(output / source_parts(picture)[0], read_bytes(output, picture), written, output)


def read_bytes(output: Place, picture: str) -> bytes:
    """The bytes of a result's file; as :func:`read_picture`."""
    path, member = source_parts(picture)
    place = output / path
    cure = f"run `diffstyle verify {output} --repair`, then the job again"
    if not inside(path):
        raise DamagedError(f"{output}: the manifest names {picture!r}, which is no picture of a run; {cure}")
    try:
        return place.read_bytes() if member is None else _member(place, member)
    except FileNotFoundError as error:
        raise DamagedError(f"{place}: missing, though the manifest names it; {cure}") from error
    except (tarfile.TarError, KeyError) as error:
        raise DamagedError(f"{place}: {member} can't be read; {cure}") from error


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


def _sheet(
    output: Place, rows: pa.Table, source_pictures: SourcePictures, title: str, in_all: tuple[int, int]
) -> Image.Image:
    """``in_all``: how many contents and styles the recipe has."""
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
    sources = source_pictures.of({**contents, **styles})
    size = rows["width"][0].as_py()
    larger = -(-CELL // size)
    cell = size * larger + GAP
    head = wrapped([title, _extent(in_all, contents, styles)], ASIDE + cell * (len(styles) + 1) + MARGIN - 8)
    top = 20 * len(head) + 8 + NAMES
    width, height = ASIDE + cell * (len(styles) + 1) + MARGIN, top + cell * (len(contents) + 1) + MARGIN
    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(15), ImageFont.load_default(11)
    for n, line in enumerate(head):
        pen.text((4, 4 + 20 * n), line, INK, font)

    def place_of(row: int, column: int) -> tuple[int, int]:
        return ASIDE + column * cell + MARGIN * (column > 0), top + row * cell + MARGIN * (row > 0)

    def put(pixels: np.ndarray | None, row: int, column: int) -> None:
        if pixels is not None:
            sheet.paste(fitted(pixels, size * larger), place_of(row, column))

    def name(key: str, x: int, y: int, across: int, lines: int) -> None:
        text = cut(short_name(key), across, lines, small)
        pen.multiline_text((x, y), text, SOFT, small, spacing=2)

    for column, (style, key) in enumerate(styles.items(), 1):
        name(key, place_of(0, column)[0], top - NAMES, cell - 4, 2)
        put(sources.get(style), 0, column)
    for row, (content, key) in enumerate(contents.items(), 1):
        name(key, 4, place_of(row, 0)[1] + 4, ASIDE - 10, 5)
        put(sources.get(content), row, 0)
        for column, style in enumerate(styles, 1):
            picture = picture_of.get((content, style))
            put(read_picture(output, *picture) if picture else None, row, column)
    return sheet


def fitted(pixels: np.ndarray, side: int) -> Image.Image:
    """A picture so many pixels a side: by whole pixels where these fit, as results do; thumbnails smoothly."""
    image = Image.fromarray(pixels)
    whole = side % image.width == 0 and image.width == image.height
    return image.resize((side, side), Image.Resampling.NEAREST if whole else Image.Resampling.BICUBIC)


def _extent(in_all: tuple[int, int], contents: Mapping[str, str], styles: Mapping[str, str]) -> str:
    """How much of the recipe a sheet shows; nothing where it is all."""
    parts = []
    for side, drawn, all_of_it in zip(("content", "style"), (contents, styles), in_all, strict=True):
        if len(drawn) < all_of_it:
            parts.append(f"{len(drawn)} of {all_of_it} {side}s")
    return f"{' and '.join(parts)} shown" if parts else ""


def wrapped(texts: Sequence[str], across: int) -> list[str]:
    """Texts in lines that fit."""
    font = ImageFont.load_default(15)
    letters = max(10, int(across / (font.getlength("abcdefghij") / 10)))
    return [line for text in texts for line in textwrap.wrap(text, letters)]


def cut(text: str, across: int, lines: int, font: Any) -> str:
    """A name in so many lines of a width in pixels; what is too long ends in dots."""
    pieces: list[str] = [""]
    for letter in text:
        if font.getlength(pieces[-1] + letter) <= across:
            pieces[-1] += letter
        elif len(pieces) < lines:
            # Rather after a mark than within a word.
            at = 1 + max(pieces[-1].rfind(mark) for mark in "-_ ")
            kept = at if at > len(pieces[-1]) // 2 else len(pieces[-1])
            pieces[-1:] = [pieces[-1][:kept], pieces[-1][kept:] + letter]
        else:
            pieces[-1] = pieces[-1][:-1] + "..."
            break
    return "\n".join(pieces)


def _first_distinct(rows: pa.Table, side: str, most: int) -> dict[str, str]:
    """image -> key of the first distinct pictures of a side, in key order."""
    image, key = f"{side}_image", f"{side}_key"
    distinct = rows.group_by([image, key]).aggregate([]).to_pylist()
    return {row[image]: row[key] for row in sorted(distinct, key=lambda row: (row[key], row[image]))[:most]}
