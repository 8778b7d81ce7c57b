"""From a file's bytes to a prepared picture.

Whatever is wrong with the bytes ends as one exception, :class:`Undecodable`, whose text is the reason in a table of
rejects. Nothing is guessed: a picture whose values have no known white is refused and not stretched.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from diffstyle.images import prepare

# Raised when the same bytes would give other pixels than before; part of the identity of shards and banks.
PREPARATION_VERSION = 1

# Pillow's own limit, about 13,000 x 13,000 pixels: above it a small file can take gigabytes once it is decoded.
PIXEL_LIMIT = 178_956_970

# What shows through where a picture is transparent.
BACKGROUND = (255, 255, 255)

# The formats tried. Named, since Pillow can also hand files to other programs (EPS to Ghostscript), which is nothing to
# do with a stranger's bytes. Those that this Pillow was built without are left out.
_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "PCX", "QOI")
Image.init()
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Undecodable(Exception):
    """These bytes are no picture that can be prepared; ``str(error)`` is the reason, one line."""


@dataclass(frozen=True)
class Decoded:
    """A prepared picture: ``pixels`` uint8 (S, S, 3); ``width`` and ``height`` after orientation, before cropping."""

    pixels: np.ndarray
    width: int
    height: int


def preparation(size: int, background: tuple[int, int, int] = BACKGROUND) -> dict[str, Any]:
    """Everything that decides the pixels of a prepared picture, for descriptions and identities (JSON-able)."""
    return {
        "size": size,
        "crop": "centre",
        "resample": "bilinear",
        "background": "#{:02x}{:02x}{:02x}".format(*background),
        "orientation": "exif",
        "icc": "ignored",
        "version": PREPARATION_VERSION,
    }


def decode(
    data: bytes,
    size: int,
    *,
    background: tuple[int, int, int] = BACKGROUND,
    pixel_limit: int = PIXEL_LIMIT,
) -> Decoded:
    """Decode a file's bytes, orient, flatten to RGB, centre-crop and resize to ``size`` x ``size`` pixels.

    Of an animation the first frame counts. A picture of more than ``pixel_limit`` pixels is refused by its header,
    before it is decoded. Raises Undecodable, and nothing else, for any bytes.
    """
    if not data:
        raise Undecodable("the file is empty (0 bytes)")
    if pixel_limit > PIXEL_LIMIT and Image.MAX_IMAGE_PIXELS is not None:
        # Pillow keeps a limit of its own for the process; it must not be the lower one.
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, pixel_limit)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > pixel_limit:
                raise Undecodable(
                    f"{image.width} x {image.height} pixels are over the limit of {pixel_limit:,} (pixel_limit)"
                )
            image.load()
            flat = _flatten(_orient(image), background)
            width, height = flat.size
            return Decoded(np.array(prepare(flat, size)), width, height)
    except Undecodable:
        raise
    except Image.UnidentifiedImageError as error:
        raise Undecodable(f"not an image of a known format ({_beginning(data)})") from error
    except Image.DecompressionBombError as error:
        raise Undecodable(f"too many pixels: {_one_line(error)}") from error
    # Pillow's readers fail on broken files with every kind of exception (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        named = isinstance(error, (OSError, SyntaxError)) and str(error)
        raise Undecodable(_one_line(error) if named else f"{type(error).__name__}: {_one_line(error)}") from error


def _orient(image: Image.Image) -> Image.Image:
    # After load(): some readers (TIFF) have turned the picture by then and dropped the tag.
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, EOFError):
        # A broken EXIF block says nothing about the orientation; the pixels are whole.
        turn = None
    return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Any mode to RGB."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or (mode in ("1", "L", "P", "RGB") and "transparency" in image.info):
        if mode == "La":
            image = image.convert("LA")
        layer = image.convert("RGBA")
        below = Image.new("RGBA", layer.size, (*background, 255))
        return Image.alpha_composite(below, layer).convert("RGB")
    # A JPEG in CMYK holds inverted values by Adobe's convention; Pillow has turned them back when it loaded them.
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Grey values of more than 8 bits as uint8 (H, W), scaled by the white that their range stands for."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        white = 65535.0
    elif image.mode == "F" and 0 <= low <= high <= 1:
        white = 1.0
    elif 0 <= low <= high <= 255:
        white = 255.0
    elif 0 <= low <= high <= 65535:
        white = 65535.0
    else:  # also where a value is not a number: every comparison with it is false
        raise Undecodable(f"{image.mode} values from {low:g} to {high:g} have no known white")
    return np.round(values.astype(np.float64) * (255.0 / white)).clip(0, 255).astype(np.uint8)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _beginning(data: bytes) -> str:
    return "begins with " + " ".join(f"{byte:02x}" for byte in data[:8])
