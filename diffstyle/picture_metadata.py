"""The same picture without what describes it, for files whose metadata keeps a reader from their pixels.

A broken or huge EXIF block, text chunk or resolution makes Pillow give up a PNG, JPEG or TIFF whose pixels are whole.
Nothing here looks at pixels: chunks, segments and tags are kept or dropped by their names.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
#: Chunks of a PNG that are kept if their checksums are right: colours and orientation.
_PNG_USEFUL = (b"iCCP", b"sRGB", b"eXIf")

#: Tags of a TIFF that decide its pixels, and those of its orientation (274) and colour profile (34675).
_TIFF_TAGS = {254, 255, *range(256, 260), 262, 263, 266, 273, 274, 277, 278, 279, 284, 290, 291, 292, 293, 301, 317}
_TIFF_TAGS |= {318, 319, 320, *range(322, 326), 332, 334, 338, 339, 340, 341, 347, *range(512, 522), *range(529, 533)}
_TIFF_TAGS |= {34675, 50674}


def without_metadata(data: bytes) -> Iterator[tuple[bytes, str]]:
    """A file with less and less metadata, and what was dropped, in words; nothing for kinds other than those three."""
    if data.startswith(_PNG):
        yield _png(data, _PNG_USEFUL), "its other chunks"
        yield _png(data, ()), "its colour profile, its orientation and its other chunks"
    elif data.startswith(b"\xff\xd8"):
        yield _jpeg(data, useful=True), "its other segments"
        yield _jpeg(data, useful=False), "its colour profile, its orientation and its other segments"
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        reduced = _tiff(data)
        if reduced is not None:
            yield reduced, "its other tags"


def _png(data: bytes, useful: tuple[bytes, ...]) -> bytes:
    pieces, position = [_PNG], len(_PNG)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        name = data[position + 4 : position + 8]
        chunk = data[position:end]
        critical = not name[0] & 0x20 or name == b"tRNS"
        if critical or (name in useful and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")):
            pieces.append(chunk)
        position = end
    return b"".join(pieces)


def _jpeg(data: bytes, useful: bool) -> bytes:
    pieces, position = [data[:2]], 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a byte of padding
            position += 1
            continue
        if marker == 0xDA or marker < 0xC0 or 0xD0 <= marker <= 0xD9:
            break  # the pixels begin, or this is no header
        (length,) = struct.unpack_from(">H", data, position + 2)
        end = position + 2 + max(length, 2)
        segment, body = data[position:end], data[position + 4 : end]
        described = 0xE0 <= marker <= 0xEF or marker == 0xFE
        kept = (
            not described
            or (marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14)
            or (marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12)
            or (useful and marker == 0xE1 and body.startswith(b"Exif\0\0"))
            or (useful and marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"))
        )
        if kept:
            pieces.append(segment)
        position = end
    return b"".join([*pieces, data[position:]])


def _tiff(data: bytes) -> bytes | None:
    """The first picture's directory, shortened in its place, and no second one; None where it lies outside."""
    order = "<" if data[:1] == b"I" else ">"
    big = 43 in data[2:4]
    place, count_format, pointer, entry_size = (8, "Q", "Q", 20) if big else (4, "H", "I", 12)
    try:
        (start,) = struct.unpack_from(order + pointer, data, place)
        (count,) = struct.unpack_from(order + count_format, data, start)
    except struct.error:
        return None
    first = start + struct.calcsize(order + count_format)
    end = first + count * entry_size
    if end > len(data):
        return None
    entries = [data[at : at + entry_size] for at in range(first, end, entry_size)]
    kept = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in _TIFF_TAGS]
    directory = struct.pack(order + count_format, len(kept)) + b"".join(kept) + struct.pack(order + pointer, 0)
    return data[:start] + directory + data[start + len(directory) :]
