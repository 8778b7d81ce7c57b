"""What makes a thing the same thing: hashes of pictures, keys, pairs, and the seeds that follow from them.

Nothing here depends on file names alone, on order, or on when something was made: the same picture under two names
has one hash, and two pictures of the same name have two keys.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Raised when a change of the code changes the pictures it makes from the same inputs; part of every pair's identity.
ALGORITHM_VERSION = 1

# Of an image's hash in its key. A million pictures of one name collide with a chance of 1 in 500.
KEY_DIGITS = 12


def digest(*pieces: bytes | str) -> str:
    """32 hex digits (BLAKE2b-128) of the pieces, each prefixed by its length so that no two lists run together."""
    return hashlib.blake2b(b"".join(map(with_length, pieces)), digest_size=16).hexdigest()


def file_hash(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def with_length(piece: bytes | str) -> bytes:
    """A piece as :func:`digest` takes it in: its length in 8 bytes, then itself."""
    data = piece.encode() if isinstance(piece, str) else piece
    return len(data).to_bytes(8, "little") + data


def digest_of(value: Any) -> str:
    """32 hex digits of a JSON-able value; the order of a mapping's keys does not matter."""
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def image_hash(pixels: np.ndarray) -> str:
    """The identity of a prepared picture: 32 hex digits over the shape and the uint8 RGB values (H, W, 3)."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise ValueError(f"expected uint8 pixels of shape (H, W, 3), got {pixels.dtype} {pixels.shape}")
    return digest(str(pixels.shape), np.ascontiguousarray(pixels).tobytes())


def picture_key(name: str, image: str) -> str:
    """A readable key that never collides: the name's stem with only [A-Za-z0-9_-], then 12 digits of the image hash.

    No dots, since WebDataset splits a member's name at the first one.
    """
    stem = name.replace("\\", "/").rpartition("/")[2]
    stem = stem.rpartition(".")[0] or stem
    ascii_stem = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", ascii_stem).strip("_")[:80]
    return f"{slug or 'picture'}-{image[:KEY_DIGITS]}"


def source_text(file: str, member: str | None = None) -> str:
    """A picture's ``source`` as tables hold it: ``FILE``, or ``FILE#MEMBER`` for one inside a file.

    A ``#`` in the file's own name is written ``%23``, a ``%23`` or ``%25`` in it ``%2523`` or ``%2525``: so the first
    ``#`` always ends the file. :func:`source_parts` reads it back.
    """
    escaped = re.sub("%(?=23|25)|#", lambda sign: "%25" if sign[0] == "%" else "%23", file)
    return escaped if member is None else f"{escaped}#{member}"


def source_parts(source: str) -> tuple[str, str | None]:
    """(file, member) of a ``source``; the member is None for a picture that is a file of its own."""
    file, joint, member = source.partition("#")
    return re.sub("%(23|25)", lambda code: "#" if code[1] == "23" else "%", file), member if joint else None


def source_name(source: str) -> str:
    """A picture's name without its folders, or without its archive: ``a/b.png`` and ``a.tar#b.png`` are ``b.png``."""
    file, member = source_parts(source)
    return (file if member is None else member).rpartition("/")[2]


def source_stem(source: str) -> str:
    """The same without the suffix."""
    name = source_name(source)
    return name.rpartition(".")[0] or name


def pair_id(content_image: str, style_image: str, settings: str, mask: str = "") -> str:
    """The identity of a result: everything that determines its pixels. 32 hex digits.

    ``settings``: the digest of all that its pairs share (model, inversion, injection, precision, output format, seed
    where noise is drawn); ``mask``: the hash of this content's own mask, where each has one.
    """
    return digest(content_image, style_image, settings, mask, str(ALGORITHM_VERSION))


def pair_digests(content_image: str, styles: Iterable[bytes], settings: str, mask: str = "") -> Iterator[bytes]:
    """:func:`pair_id` of one content with many styles, as 16 bytes each: what they share is hashed once.

    ``styles``: the hashes of their images, each :func:`with_length`.
    """
    begun = hashlib.blake2b(with_length(content_image), digest_size=16)
    rest = with_length(settings) + with_length(mask) + with_length(str(ALGORITHM_VERSION))
    for style in styles:
        state = begun.copy()
        state.update(style + rest)
        yield state.digest()


def pair_seed(job_seed: int, content_image: str, style_image: str) -> int:
    """A 63-bit seed for one pair's noise, the same in any batch, order or worker."""
    return int(digest(str(job_seed), content_image, style_image)[:16], 16) >> 1
