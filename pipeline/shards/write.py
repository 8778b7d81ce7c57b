"""A part of the shards: its tables' columns, and writing it in a worker."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.shards.decode import PIXEL_LIMIT, Decoded, Undecodable, decode
from pipeline.shards.rows import INDEX_SCHEMA, REJECTS_SCHEMA
from pipeline.storage.identity import KEY_DIGITS, digest, image_hash, picture_key
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.png import png
from pipeline.storage.tar import TarWriter

if TYPE_CHECKING:
    from pipeline.sources import Block, RawPicture


def write_block(
    block: Block, root: Place, prepared: Mapping[str, Any], pixel_limit: int = PIXEL_LIMIT
) -> tuple[pa.Table, pa.Table]:
    """Read and prepare the pictures of a block and write them as ``data/PART.tar``, PART being the block's name.

    Returns the part's index and rejects, uncommitted. The tar's bytes depend on the pictures alone; a block of which
    nothing can be decoded has none. Safe to repeat. Raises SourceError and OSError where a store can't be reached.
    """
    place = PartStore(root).data(block.name, "tar")
    rows: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    written: dict[str, dict[str, Any]] = {}
    colour = prepared["background"].lstrip("#")
    background = (int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:], 16))
    with contextlib.ExitStack() as stack:
        tar: TarWriter | None = None
        for picture in block.pictures():
            try:
                if picture.data is None:
                    raise Undecodable(picture.error or "no data")
                decoded = decode(picture.data, prepared["size"], background=background, pixel_limit=pixel_limit)
            except Undecodable as reason:
                rejects.append(
                    {"source": picture.source, "source_version": picture.source_version, "reason": str(reason)}
                )
                continue
            row = _row(picture, decoded)
            same_name = written.get(row["key"])
            if same_name is not None and same_name["image"] != row["image"]:
                row["key"] = f"{row['key']}{row['image'][KEY_DIGITS:]}"  # the key's digits were not enough
                same_name = written.get(row["key"])
            if same_name is None:
                tar = tar or TarWriter(stack.enter_context(place.writer()))
                offset, size = tar.add(f"{row['key']}.png", png(decoded.pixels))
                tar.add(f"{row['key']}.json", described(row))
                row |= {"data": block.name, "offset": offset, "size": size}
                written[row["key"]] = row
            else:  # a copy of a picture of the same name: WebDataset takes a member's name once only
                row |= {name: same_name[name] for name in ("data", "offset", "size")}
            rows.append(row)
        if tar:
            tar.end()
    return pa.Table.from_pylist(rows, INDEX_SCHEMA), pa.Table.from_pylist(rejects, REJECTS_SCHEMA)


def _row(picture: RawPicture, decoded: Decoded) -> dict[str, Any]:
    image = image_hash(decoded.pixels)
    return {
        "key": picture_key(picture.name, image),
        "image": image,
        "source": picture.source,
        "source_version": picture.source_version,
        "source_hash": digest(picture.data or b""),
        "width": decoded.width,
        "height": decoded.height,
        "label": picture.label,
        "caption": picture.caption,
        "meta": json.dumps(picture.meta, sort_keys=True, ensure_ascii=False) if picture.meta else None,
        "notes": "; ".join(decoded.notes) or None,
    }


def described(row: Mapping[str, Any]) -> bytes:
    """The JSON beside a picture in its tar: its row, but for where the picture is."""
    fields = {name: value for name, value in row.items() if name not in ("data", "offset", "size", "reading")}
    fields["meta"] = json.loads(row["meta"]) if row["meta"] else None
    return json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()
