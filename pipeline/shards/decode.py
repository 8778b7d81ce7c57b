"""From a file's bytes to a prepared picture, and the words for what was done to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffstyle.images import prepare
from diffstyle.picture_files import BACKGROUND, FORMATS, PIXEL_LIMIT, Undecodable, read_picture

__all__ = ["FORMATS", "PIXEL_LIMIT", "Decoded", "Undecodable", "decode", "preparation"]

# Raised when the same bytes would give other pixels than before; part of the identity of shards and banks.
PREPARATION_VERSION = 2


@dataclass(frozen=True)
class Decoded:
    """A prepared picture.

    ``pixels`` is uint8 (S, S, 3); ``width`` and ``height`` are after orientation, before cropping; ``notes`` says what
    was ignored in the file, a line each.
    """

    pixels: np.ndarray
    width: int
    height: int
    notes: tuple[str, ...] = ()


def preparation(size: int, background: tuple[int, int, int] = BACKGROUND) -> dict[str, Any]:
    """Everything that decides the pixels of a prepared picture, for descriptions and identities (JSON-able)."""
    return {
        "size": size,
        "crop": "centre",
        "resample": "bilinear",
        "background": "#{:02x}{:02x}{:02x}".format(*background),
        "orientation": "exif",
        "icc": "srgb",
        "version": PREPARATION_VERSION,
    }


def decode(
    data: bytes,
    size: int,
    *,
    background: tuple[int, int, int] = BACKGROUND,
    pixel_limit: int = PIXEL_LIMIT,
    profiles: bool = True,
) -> Decoded:
    """Read a file's bytes as :func:`diffstyle.picture_files.read_picture` does, centre-crop and resize.

    Args:
        data: the whole file.
        size: the side of the prepared picture, in pixels.
        background: the colour under what is transparent.
        pixel_limit: a picture of more pixels is refused by its header, before it is decoded.
        profiles: whether ICC profiles are followed; not for masks, whose values are no colours.

    Raises:
        Undecodable: and nothing else, for any bytes.
    """
    picture = read_picture(data, background=background, pixel_limit=pixel_limit, profiles=profiles)
    width, height = picture.image.size
    return Decoded(np.array(prepare(picture.image, size)), width, height, picture.notes)
