"""Small data sets: encoded pictures, tars as any tool may write them, and all that a source says of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.sources import RawPicture, SourceSpec, open_source
from pipeline.sources.base import Source


def encoded(seed: int = 0, kind: str = "PNG") -> bytes:
    """A picture's bytes, which follow from the seed."""
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), seed % 256, np.uint8)).save(stream, kind)
    return stream.getvalue()


Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    """A member for :func:`tar_bytes`."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


def tar_bytes(*members: Member, form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of these members, with its end mark."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if data else None)
    return stream.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    """Files below a folder, by their paths."""
    for name, data in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return root


def opened(spec: object) -> tuple[Source, list[RawPicture]]:
    """A data set's source, and all of its pictures."""
    source = open_source(SourceSpec.model_validate(spec))
    return source, [picture for block in source.blocks({}) for picture in block.pictures()]


def names(pictures: Iterable[RawPicture]) -> list[str]:
    return [picture.name for picture in pictures]
