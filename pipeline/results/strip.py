"""A strip: a few pictures side by side, each with its label above, under one title."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

#: Pixels a side that a picture has at least; smaller ones are shown larger, pixel by pixel.
CELL = 144
_GAP, _MARGIN = 4, 14
_INK, _SOFT, _MISSING = (20, 22, 26), (90, 95, 105), (235, 236, 239)


def strip(groups: Sequence[Sequence[tuple[str, np.ndarray | None]]], title: str) -> Image.Image:
    """Draw pictures from left to right, all as large as the largest of them.

    Args:
        groups: Labels with their pictures, uint8 (S, S, 3), None: not there, which is said in its place; between two
            groups there is more room.
        title: The line above all.
    """
    cells = [cell for group in groups for cell in group]
    size = max(pixels.shape[0] for _, pixels in cells if pixels is not None)
    larger = -(-CELL // size)
    side = size * larger
    width = 2 * _MARGIN + sum(len(group) * (side + _GAP) - _GAP for group in groups) + _MARGIN * (len(groups) - 1)
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    head = _lines(title, width - 2 * _MARGIN, font)
    labels = {label: _lines(label, side, small) for label, _ in cells}
    top = _MARGIN + 20 * len(head) + 17 * max(map(len, labels.values())) + 8
    drawn = Image.new("RGB", (width, top + side + _MARGIN), (255, 255, 255))
    pen = ImageDraw.Draw(drawn)
    for n, line in enumerate(head):
        pen.text((_MARGIN, _MARGIN - 6 + 20 * n), line, _INK, font)
    x = _MARGIN
    for group in groups:
        for label, pixels in group:
            if pixels is None:
                pen.rectangle((x, top, x + side - 1, top + side - 1), _MISSING)
                pen.text((x + 8, top + 8), "not kept", _SOFT, small)
            elif pixels.shape[0] == size:
                drawn.paste(Image.fromarray(pixels.repeat(larger, 0).repeat(larger, 1)), (x, top))
            else:  # a thumbnail
                drawn.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC), (x, top))
            for n, line in enumerate(reversed(labels[label])):  # upwards from the picture
                pen.text((x, top - 20 - 17 * n), line, _SOFT, small)
            x += side + _GAP
        x += _MARGIN - _GAP
    return drawn


def _lines(text: str, across: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """A text in lines that fit; each has room for at least ten letters."""
    letters = max(10, int(across / (font.getlength("abcdefghij") / 10)))
    return textwrap.wrap(text, letters)
