"""Picture files put together by hand: PNGs of every bit depth, and ICC profiles."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(samples: np.ndarray, bits: int = 8, colour: int = 2, before: bytes = b"", after: bytes = b"") -> bytes:
    """Samples (H, W) or (H, W, C) as a PNG of a bit depth and colour type, with chunks before and after its IDAT."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    if bits >= 8:
        lines = [row.astype(">u2" if bits == 16 else ">u1").tobytes() for row in rows]
    else:
        bit_rows = [np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :] for row in rows]
        lines = [np.packbits(row.reshape(-1)).tobytes() for row in bit_rows]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + after + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# ---- ICC profiles ----
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))


def _number(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _point(triple) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_number, triple))


def gamma_curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    white = (0.9642, 1.0, 0.8249)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"p\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": _point(white),
        **tags,
    }
    table, data, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, body in tags.items():
        padded = body + bytes(-len(body) % 4)
        table += name + struct.pack(">II", start + len(data), len(padded))
        data += padded
    head = struct.pack(">I4sI", start + len(data), bytes(4), 0x02100000) + kind + space + connection
    head += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + b"".join(map(_number, white))
    return head.ljust(128, b"\0") + table + data


def rgb_profile(primaries, gamma: float = 1.0, curve_points: list[int] | None = None) -> bytes:
    """A screen's profile: three primaries (XYZ, relative to D50) and one gamma, or one table of 16-bit points."""
    names = zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    curve = gamma_curve(gamma)
    if curve_points:
        curve = b"curv" + bytes(4) + struct.pack(f">I{len(curve_points)}H", len(curve_points), *curve_points)
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _profile(b"mntr", b"RGB ", b"XYZ ", {name: _point(xyz) for name, xyz in names} | curves)


def grey_profile(gamma: float) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": gamma_curve(gamma)})


def cmyk_profile(lab_of_corner) -> bytes:
    """A printer's profile of 16 corners: ``lab_of_corner(c, m, y, k)``, each 0 or 1, gives L, a, b."""
    ramp = bytes(range(256))
    corners = [lab_of_corner(*(n >> shift & 1 for shift in (3, 2, 1, 0))) for n in range(16)]
    grid = bytes(value for L, a, b in corners for value in (round(L * 2.55), round(a + 128), round(b + 128)))
    identity = b"".join(_number(float(i == j)) for i in range(3) for j in range(3))
    table = b"mft1" + bytes(4) + struct.pack(">BBBB", 4, 3, 2, 0) + identity + ramp * 4 + grid + ramp * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})
