"""The sheet of a sweep: pairs down, settings across, so that a person sees what each setting does to the same pair."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageFont

from pipeline.results.contact_sheets import (
    ASIDE,
    CELL,
    GAP,
    INK,
    MARGIN,
    SOFT,
    cut,
    fitted,
    read_picture,
    recipes_of,
    wrapped,
)
from pipeline.results.sheet_rows import MAX_COLUMNS, MAX_ROWS, SheetRows
from pipeline.results.source_pictures import SourcePictures
from pipeline.results.words import setting_words, settings_order, shared_words, short_name
from pipeline.storage.counts import count
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Entry, Place

FILE = "sweep.png"
_WORDS = 5  # lines above a column at most
_LINE = 15  # pixels
_SIDES = ["content_image", "style_image"]


def sweep_sheet(output: Place, shown: SheetRows, shards: Sequence[Place], banks: Sequence[Place] = ()) -> list[Place]:
    """Write ``OUT/contact-sheets/sweep.png`` where pairs were made with several settings; else delete it.

    Args:
        output: The output folder.
        shown: Rows of its manifest.
        shards: Where pictures of contents and styles may be.
        banks: Banks that may have thumbnails of the others.

    Returns:
        Where it is; nothing where there is no sweep.
    """
    rows = shown.rows
    place = OutputLayout(output).contact_sheets / FILE
    settings = recipes_of(rows)
    pairs = _swept_pairs(rows) if len(settings) > 1 else []
    if not pairs:
        place.delete()
        return []
    images = pa.array([content for content, _ in pairs], pa.string()), pa.array([s for _, s in pairs], pa.string())
    near = pc.and_(pc.is_in(rows["content_image"], images[0]), pc.is_in(rows["style_image"], images[1]))
    chosen = [one for one in rows.filter(near).to_pylist() if (one["content_image"], one["style_image"]) in set(pairs)]
    first: dict[str, Mapping[str, Any]] = {}
    for one in chosen:
        first.setdefault(one["settings"], one)
    rows_of_settings = list(first.values())
    order = [rows_of_settings[n] for n in settings_order(rows_of_settings)]
    extent = [
        f"{shown} of {all_of_them} {name}"
        for name, shown, all_of_them in (
            ("pairs", len(pairs), shown.n_pairs),
            ("settings", min(len(order), MAX_COLUMNS), len(settings)),
        )
        if shown < all_of_them
    ]
    drawn = order[:MAX_COLUMNS]
    pictures = {(one["content_image"], one["style_image"], one["settings"]): one for one in chosen}
    known = SourcePictures(shards, banks).of({image for pair in pairs for image in pair})
    stream = io.BytesIO()
    _draw(output, pairs, drawn, pictures, known, f"{' and '.join(extent)} shown" if extent else "").save(stream, "PNG")
    place.write_bytes(stream.getvalue())
    return [place]


def sweep_sheets(output: Place) -> list[Entry]:
    """The sheet of an output's sweep, as a list of one; empty where there is none."""
    return [entry for entry in OutputLayout(output).contact_sheets.list(".png") if entry.place.name == FILE]


def _swept_pairs(rows: pa.Table) -> list[tuple[str, str]]:
    """Some pairs that were made with several settings, of as many contents and styles as there is room for."""
    counted = rows.group_by([*_SIDES, "content_key", "style_key"]).aggregate([("settings", "count_distinct")])
    swept = counted.filter(pc.greater(counted["settings_count_distinct"], 1))
    styles_of: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for one in sorted(swept.to_pylist(), key=lambda one: (one["content_key"], one["style_key"])):
        of_content = styles_of.setdefault((one["content_key"], one["content_image"]), [])
        of_content.append((one["style_key"], one["style_image"]))
    pairs: list[tuple[str, str]] = []
    for turn in range(max(map(len, styles_of.values()), default=0)):
        for number, ((_, content), styles) in enumerate(styles_of.items()):
            if turn < len(styles) and len(pairs) < MAX_ROWS:
                pairs.append((content, styles[(number + turn) % len(styles)][1]))
    return pairs


def _draw(
    output: Place,
    pairs: Sequence[tuple[str, str]],
    settings: Sequence[Mapping[str, Any]],
    pictures: Mapping[tuple[str, str, str], Mapping[str, Any]],
    sources: Mapping[str, np.ndarray],
    extent: str,
) -> Image.Image:
    largest = max(one["width"] for one in pictures.values())
    side = largest * -(-CELL // largest)
    cell = side + GAP
    across = 2 + len(settings)
    width = ASIDE + cell * across + 2 * MARGIN
    font, small = ImageFont.load_default(15), ImageFont.load_default(11)
    shared = shared_words(settings)
    title = f"{count(len(settings), 'setting')} side by side{f', all with {shared}' if shared else ''}"
    head = wrapped([title, extent], width - 8)
    words = [cut(text, cell - 4, _WORDS, small) for text in ("content", "style", *setting_words(settings))]
    top = 20 * len(head) + 8 + _LINE * max(text.count("\n") + 1 for text in words) + 4
    sheet = Image.new("RGB", (width, top + cell * len(pairs) + MARGIN), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for n, line in enumerate(head):
        pen.text((4, 4 + 20 * n), line, INK, font)

    def left(column: int) -> int:
        return ASIDE + column * cell + MARGIN * (column > 1)

    for column, text in enumerate(words):
        pen.multiline_text((left(column), top - _LINE * (text.count("\n") + 1) - 4), text, SOFT, small, spacing=2)
    for row, (content, style) in enumerate(pairs):
        y = top + row * cell
        keys = next(one for (c, s, _), one in pictures.items() if (c, s) == (content, style))
        name = cut(short_name(keys["content_key"]), ASIDE - 10, 3, small)
        name += "\n" + cut(f"in {short_name(keys['style_key'])}", ASIDE - 10, 3, small)
        pen.multiline_text((4, y + 4), name, SOFT, small, spacing=2)
        for column, image in enumerate((content, style)):
            if image in sources:
                sheet.paste(fitted(sources[image], side), (left(column), y))
        for column, setting in enumerate(settings, 2):
            made = pictures.get((content, style, setting["settings"]))
            if made is not None:
                pixels = read_picture(output, made["picture"], made["picture_hash"])
                sheet.paste(fitted(pixels, side), (left(column), y))
    return sheet
