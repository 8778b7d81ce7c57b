"""The columns of the shards' tables, and the picture of a row: all that a reader of shards needs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.storage.identity import image_hash

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.string()),
        ("source", pa.string()),
        ("source_version", pa.string()),
        ("source_hash", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("label", pa.string()),
        ("caption", pa.string()),
        ("meta", pa.string()),
        ("notes", pa.string()),  # what was ignored in the file, as an ICC profile that can't be read
        ("data", pa.string()),  # the part whose tar holds the picture, so that a row says all by itself
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("reading", pa.int32()),  # of a source that was read before, since it changed: how often; its last one counts
    ]
)
REJECTS_SCHEMA = pa.schema([("source", pa.string()), ("source_version", pa.string()), ("reason", pa.string())])


def read_png(data: bytes, row: Mapping[str, Any]) -> np.ndarray:
    """The pixels of a row's PNG, uint8 (S, S, 3). ValueError or OSError where it is not what the row says."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        pixels = np.asarray(image)
    if "image" in row and image_hash(pixels) != row["image"]:
        raise ValueError(f"{row.get('key')} is not the picture that the index says")
    return pixels
