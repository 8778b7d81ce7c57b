"""PNG's compression levels and strategies, in milliseconds and bytes a picture: which one should pictures.py take?

    python benchmarks/png_level.py --folder PHOTOGRAPHS

On the drawings that come with the project, and on your own pictures: those at least as large as the size are cropped
and scaled as a job does it, smaller ones joined to mosaics, so that no pixel is invented.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import time
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, features

from diffstyle.images import prepare

TREE = Path(__file__).resolve().parents[1]
DRAWINGS = ("demo/contents", "demo/styles", "demo/unseen-styles", "demo/tiny/pictures")
# zlib's own numbers. Pillow takes "filtered" where none is given.
STRATEGIES = {"filtered": 1, "default": 0, "Huffman only": 2, "run lengths": 3, "fixed codes": 4}
# A float32 call on a CPU, from docs/notes/speed.md: at 256 px on two threads, at 64 px on one.
CALL_MS = {64: 280, 256: 1600}
CALLS = 46  # of a pair with the plan `fast`


def pictures(folders: list[Path], size: int) -> list[np.ndarray]:
    """The pictures below ``folders`` as uint8 (size, size, 3)."""
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in (".png", ".jpg", ".jpeg"))
    whole: list[Image.Image] = []
    small: list[Image.Image] = []
    for path in paths:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        (whole if min(rgb.size) >= size else small).append(rgb)
    found = [np.asarray(prepare(image, size)) for image in whole]
    if small:
        found += mosaics(small, size)
    return found


def mosaics(small: list[Image.Image], size: int) -> list[np.ndarray]:
    """As many pictures of ``size`` as it takes to show each small one, in turn, at its own size."""
    side = min(min(image.size) for image in small)
    a_row = size // side
    n = math.ceil(len(small) / a_row**2)
    made = []
    for first in range(0, n * a_row**2, a_row**2):
        canvas = Image.new("RGB", (a_row * side, a_row * side))
        for place in range(a_row**2):
            image = small[(first + place) % len(small)]
            canvas.paste(prepare(image, side), (place % a_row * side, place // a_row * side))
        made.append(np.asarray(canvas))
    return made


def encode(pixels: np.ndarray, level: int, strategy: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=level, compress_type=strategy)
    return stream.getvalue()


def measure(found: list[np.ndarray], level: int, strategy: int, repeats: int) -> tuple[float, float]:
    """Milliseconds and bytes a picture; of each picture's times the shortest, since others can only add to them."""
    seconds, size = 0.0, 0
    for pixels in found:
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            data = encode(pixels, level, strategy)
            times.append(time.perf_counter() - begun)
        seconds, size = seconds + min(times), size + len(data)
    return 1e3 * seconds / len(found), size / len(found)


def table(sets: dict[str, list[np.ndarray]], size: int, repeats: int) -> list[str]:
    """A row for each level and strategy: ms and bytes of each set, and the slower one's share of a network call."""
    counts = ", ".join(f"{len(found)} {label}" for label, found in sets.items())
    cells = " | ".join(f"{label}, ms | bytes | of raw" for label in sets)
    lines = [
        f"{size} px: {counts}; a network call takes {CALL_MS[size]} ms on a CPU, a pair with `fast` {CALLS} of them.",
        "",
        f"| level | strategy | {cells} | of a call | of a pair |",
        f"| --- | --- | {'---: | ' * (3 * len(sets) + 2)}".rstrip(),
    ]
    asked = [(level, "filtered") for level in range(10)]
    asked += [(level, strategy) for strategy in ("default", "fixed codes") for level in (1, 4, 6, 9)]
    asked += [(1, strategy) for strategy in ("Huffman only", "run lengths")]  # which search nothing: levels are alike
    for level, strategy in asked:
        values = [measure(found, level, STRATEGIES[strategy], repeats) for found in sets.values()]
        row = " | ".join(f"{ms:.2f} | {n:,.0f} | {n / (3 * size**2):.1%}" for ms, n in values)
        slowest = max(ms for ms, _ in values) / CALL_MS[size]
        lines.append(f"| {level} | {strategy} | {row} | {slowest:.2%} | {slowest / CALLS:.4%} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="your own pictures, e.g. photographs of 256 px or more")
    parser.add_argument("--label", default="photographs", help="what to call them in the table")
    parser.add_argument("--sizes", type=int, nargs="+", choices=CALL_MS, default=list(CALL_MS))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    zlib = "zlib-ng" if features.check_feature("zlib_ng") else f"zlib {features.version('zlib')}"
    print(f"Pillow {PIL.__version__}, {zlib}, {os.cpu_count()} cores, one thread, load {os.getloadavg()[0]:.1f}.")
    for size in options.sizes:
        sets = {"drawings": pictures([TREE / folder for folder in DRAWINGS], size)}
        if options.folder:
            sets[options.label] = pictures([options.folder], size)
        if empty := [label for label, found in sets.items() if not found]:
            parser.error(f"no pictures for {', '.join(empty)}")
        print()
        print("\n".join(table(sets, size, options.repeats)), flush=True)


if __name__ == "__main__":
    main()
