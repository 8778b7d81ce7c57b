"""Emoji that three teams drew, as held-out pictures for ``diffstyle quality``: a style is how a team draws.

Usage: ``python draw.py OUT.parquet`` after ``npm install`` in this folder, with resvg-py, pillow and pyarrow.
Writes the columns of ``demo/heldout.parquet``: Noto's drawing is the plain one, those of the other teams are its
"paintings", which no model of this project has seen.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from PIL import Image

SIZE = 64
DRAWN = 256  # pixels before scaling down
SETS = {"noto": "plain", "twemoji": "twemoji", "fluent-emoji-flat": "fluent-flat"}
# Of the emoji that all three have, by name in their order: 260, spread over all kinds.
EVERY = 6


def main(out: Path, packages: Path) -> None:
    """Draw every chosen emoji of each set.

    Args:
        out: The Parquet file to write.
        packages: The folder that holds the sets, ``node_modules/@iconify-json``.
    """
    icons = {name: json.loads((packages / name / "icons.json").read_text(encoding="utf-8")) for name in SETS}
    about = {name: json.loads((packages / name / "info.json").read_text(encoding="utf-8")) for name in SETS}
    shared = sorted(set.intersection(*(set(drawn["icons"]) for drawn in icons.values())))
    rows = [
        {
            "image": picture(icons[name], emoji),
            "drawing": emoji,
            "painting": painting,
            "unseen_painting": painting != "plain",
            "licence": about[name]["license"]["spdx"],
            "creator": about[name]["author"]["name"],
        }
        for emoji in shared[::EVERY]
        for name, painting in SETS.items()
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), out, compression="none")
    print(f"{out}: {len(rows)} pictures of {len(rows) // len(SETS)} emoji; {len(shared)} are in all sets")


def picture(icons: dict[str, Any], emoji: str) -> bytes:
    """An emoji on white, lossless WebP.

    Args:
        icons: A set, as Iconify publishes it.
        emoji: Its name in the set.
    """
    icon = icons["icons"][emoji]
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )
    drawn = resvg_py.svg_to_bytes(
        svg_string=svg, width=DRAWN, height=DRAWN, background="#ffffff", skip_system_fonts=True
    )
    stream = io.BytesIO()
    with Image.open(io.BytesIO(drawn)) as image:
        small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    small.save(stream, "WEBP", lossless=True, quality=100, method=6)
    return stream.getvalue()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(__file__).parent / "node_modules" / "@iconify-json")
