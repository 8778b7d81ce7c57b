"""How pictures become PNG files, wherever the project writes one."""

from __future__ import annotations

import io
import zlib

import numpy as np
from PIL import Image


def png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 3) as a PNG file's bytes.

    Run-length matching (type 3): at 256 px 3.9 ms a photograph on one core for the size that zlib's level 4 takes
    8.0 ms for, 53 % of raw; level 9 takes 34 ms for 52 %. benchmarks/png_level.py measures it.
    """
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1, compress_type=3)
    return stream.getvalue()


def whole_png(data: bytes) -> bool:
    """Whether every chunk of a PNG has its checksum, up to the last one, with nothing behind it."""
    at, kind = 8, b""
    while len(data) - at >= 12 and kind != b"IEND":
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        at = end + 4
    return kind == b"IEND" and at == len(data)
