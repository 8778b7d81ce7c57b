"""Pack what the project ships of the held-out drawings: the benchmark's pictures and the demo's.

Usage: ``python pack_heldout.py OUT DEMO`` after the recipe of this folder's README. Writes

- ``DEMO/heldout.parquet``: drawings that training never saw, each plain, in every painting that training saw, and in
  those that it did not; columns ``image`` (lossless WebP bytes), ``drawing`` (style and seed), ``painting`` ("plain"
  or its name), ``unseen_painting``, ``licence``, ``creator``;
- ``DEMO/contents``, ``DEMO/styles``, ``DEMO/unseen-styles``: a few of them as PNG files, none of whose drawings is in
  two folders.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

DRAWINGS_EACH = 6  # of each drawing style, into the benchmark


def main(out: Path, demo: Path) -> None:
    """Read the recipe's output in ``out``, write ``demo``."""
    packed = np.load(out / "test.npz")["images"]
    with (out / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    seeds: dict[str, list[str]] = {}
    for row in rows:
        if row["seed"] not in seeds.setdefault(row["drawing_style"], []):
            seeds[row["drawing_style"]].append(row["seed"])
    chosen = {(style, seed) for style, found in seeds.items() for seed in found[:DRAWINGS_EACH]}
    table = [
        {
            "image": _webp(packed[int(row["row"])]),
            "drawing": f"{row['drawing_style']}-{int(row['seed']):05d}",
            "painting": row["painting"],
            "unseen_painting": row["unseen_painting"] == "1",
            "licence": row["licence"],
            "creator": row["creator"],
        }
        for row in rows
        if (row["drawing_style"], row["seed"]) in chosen
    ]
    demo.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(table), demo / "heldout.parquet", compression="none")

    # The demo's pictures come from drawings that are not in the benchmark either.
    where = {(row["drawing_style"], row["seed"], row["painting"]): int(row["row"]) for row in rows}
    names = sorted(seeds)
    seen = sorted({row["painting"] for row in rows if row["painting"] != "plain" and row["unseen_painting"] == "0"})
    unseen = sorted({row["painting"] for row in rows if row["unseen_painting"] == "1"})

    def write(folder: str, style: str, seed: str, painting: str) -> None:
        name = f"{style}-{int(seed):05d}" + ("" if painting == "plain" else f"-{painting}")
        (demo / folder).mkdir(exist_ok=True)
        (demo / folder / f"{name}.png").write_bytes(_png(packed[where[style, seed, painting]]))

    for style in names[:12]:
        write("contents", style, seeds[style][DRAWINGS_EACH], "plain")
    for n, painting in enumerate(seen[:6]):
        style = names[(2 * n + 1) % len(names)]
        write("styles", style, seeds[style][DRAWINGS_EACH + 1], painting)
    for n, painting in enumerate(unseen):
        style = names[(3 * n + 2) % len(names)]
        write("unseen-styles", style, seeds[style][DRAWINGS_EACH + 2], painting)


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _webp(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", lossless=True, quality=100, method=6)  # a quarter less than PNG
    return stream.getvalue()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
