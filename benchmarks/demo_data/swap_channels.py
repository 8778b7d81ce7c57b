"""Adds paintings with their colour channels exchanged to the training split: palettes that no painting of it has.

Usage: ``python swap_channels.py OUT`` after ``paint.py OUT``. Writes ``OUT/train-swapped.npz``: the pictures of
``OUT/train.npz``, then half of its paintings, drawn at random (a fixed seed), each with red, green and blue in one of
the five other orders. Plain drawings are not touched.
"""

from __future__ import annotations

import argparse
import csv
from itertools import permutations
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    with (out / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train" and row["painting"] != "plain"]
    images = np.load(out / "train.npz")["images"]
    rng = np.random.default_rng(0)
    chosen = rng.permutation([int(row["row"]) for row in rows])[: len(rows) // 2]
    orders = list(permutations(range(3)))[1:]
    swapped = np.stack([images[row][:, :, list(orders[rng.integers(len(orders))])] for row in chosen])
    np.savez(out / "train-swapped.npz", images=np.concatenate([images, swapped]))
    print(f"{len(images):,} pictures and {len(swapped):,} with exchanged channels: {out / 'train-swapped.npz'}")


if __name__ == "__main__":
    main()
