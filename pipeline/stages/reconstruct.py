"""Sample the pictures of a bank back from their x_T by plain DDIM, and keep with the bank how near they come.

What is found goes into columns beside the bank's index: ``psnr`` (dB, against the prepared picture), ``thumbnail`` (a
PNG of the reconstruction) and ``reconstruction_steps``, since a figure means little without them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from pipeline.banks.columns import read_columns, write_column
from pipeline.banks.reader import LatentBank, cached_bank
from pipeline.banks.tensors import BankError
from pipeline.models.session import LoadedModel
from pipeline.shards.store import open_shards
from pipeline.stages.commit import OnDone, commit_outcomes
from pipeline.stages.walk import Walk
from pipeline.storage.place import Place
from pipeline.storage.png import png
from pipeline.workers.base import Pool
from pipeline.workers.unit import Outcome, halves

THUMBNAIL_SIZE = 64
COLUMNS = ("psnr", "thumbnail", "reconstruction_steps")

Reconstruction = dict[
    str, Any
]  # image, psnr (None: no picture to compare with), thumbnail; error where it is not finite


@dataclass(frozen=True)
class ReconstructUnit:
    """Entries of a bank to be sampled back."""

    bank: str
    steps: int
    rows: tuple[dict[str, Any], ...]  # of the bank's index
    shards: Place | None  # where the prepared pictures are
    pictures: Mapping[str, Mapping[str, Any]]  # image -> its row of the shards; those that are there
    output: Place | None  # a folder for the reconstructions

    @property
    def name(self) -> str:
        return f"{self.rows[0]['key']} and {len(self.rows) - 1} more"

    def load(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        entries = cached_bank(self.bank).read_rows(self.rows, ("x_t",))
        x_T = np.stack([entry.tensors["x_t"] for entry in entries]).astype(np.float32)
        if self.shards is None or not self.pictures:
            return x_T, {}
        pixels = open_shards(self.shards).read_many(list(self.pictures.values()))
        return x_T, dict(zip(self.pictures, pixels, strict=True))

    def compute(
        self, context: LoadedModel, loaded: tuple[np.ndarray, dict[str, np.ndarray]]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        import torch

        x_T, pixels = loaded
        plan = Walk.of_bank(cached_bank(self.bank).description).back(self.steps)
        return context.walk(torch.from_numpy(x_T), plan)[0], pixels

    def save(self, computed: tuple[np.ndarray, dict[str, np.ndarray]]) -> list[Reconstruction]:
        import torch

        from diffstyle.images import to_tensor, to_uint8
        from pipeline.measures.pixels import psnr

        reconstructions: list[Reconstruction] = []
        results, originals = computed
        for row, x_0 in zip(self.rows, results, strict=True):
            if not np.isfinite(x_0).all():
                reconstructions.append(
                    {"image": row["image"], "key": row["key"], "error": "the reconstruction is not finite"}
                )
                continue
            pixels = to_uint8(torch.from_numpy(x_0))
            original = originals.get(row["image"])
            if self.output is not None:
                (self.output / f"{row['key']}.png").write_bytes(png(pixels))
            reconstructions.append(
                {
                    "image": row["image"],
                    "key": row["key"],
                    "psnr": None
                    if original is None
                    else float(psnr(to_tensor(pixels)[None], to_tensor(original)[None])),
                    "thumbnail": thumbnail(pixels),
                }
            )
        return reconstructions

    def split(self) -> Sequence[ReconstructUnit]:
        return [self._part(half) for half in halves(self.rows)]

    def _part(self, rows: tuple[dict[str, Any], ...]) -> ReconstructUnit:
        images = {row["image"] for row in rows}
        return replace(self, rows=rows, pictures={k: v for k, v in self.pictures.items() if k in images})


def thumbnail(pixels: np.ndarray) -> bytes:
    """A PNG of at most THUMBNAIL_SIZE pixels a side."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return png(np.asarray(image))


# ---- the driver's side ----
def missing_rows(
    bank: LatentBank,
    steps: int,
    pictures: Mapping[str, Any],
    *,
    output: Place | None = None,
    limit: int | None = None,
    again: bool = False,
) -> list[dict[str, Any]]:
    """The rows of the bank (one for each image, the first ``limit`` in the order of keys) that are to be sampled.

    Those that lack a column, that have it for another number of steps, or whose picture ``output`` lacks. Raises
    BankError for a bank without x_T.
    """
    if not bank.description.keeps_x_t:
        raise BankError(f"{bank.place}: keeps no x_t to sample from; reconstruct the style bank, or one that keeps it")
    first: dict[str, dict[str, Any]] = {}
    for row in bank.index.to_pylist():
        first.setdefault(row["image"], row)
    rows = list(first.values())[:limit]
    if not again:
        columns = read_columns(bank.place)
        values, thumbnails, made_in = (columns.get(name, {}) for name in COLUMNS)
        written = {entry.place.name for entry in output.list(".png")} if output is not None else set()
        rows = [
            row
            for row in rows
            if row["image"] not in thumbnails
            or made_in.get(row["image"]) != steps
            or (row["image"] in pictures and row["image"] not in values)
            or (output is not None and f"{row['key']}.png" not in written)
        ]
    # Entries of one payload after each other: it is opened once.
    return sorted(rows, key=lambda row: (row["data"], row["row"]))


def reconstruct(
    pool: Pool,
    bank: LatentBank,
    rows: Sequence[dict[str, Any]],
    steps: int,
    *,
    per_unit: int,
    shards: Place | None = None,
    pictures: Mapping[str, Mapping[str, Any]] | None = None,
    output: Place | None = None,
    on_done: OnDone = lambda done, failed, outcome: None,
) -> list[Reconstruction]:
    """Sample ``rows`` back in ``steps`` steps and write what is found into the bank's columns; returns it.

    ``pictures``: image -> row of the shards, for the PSNR. What is found is written while the work goes on; a kill
    loses at most what came since the last writing. Not while another job changes the bank.
    """
    shard_rows = pictures or {}

    def units() -> Iterator[ReconstructUnit]:
        for start in range(0, len(rows), per_unit):
            some = tuple(rows[start : start + per_unit])
            theirs = {row["image"]: shard_rows[row["image"]] for row in some if row["image"] in shard_rows}
            yield ReconstructUnit(str(bank.place), steps, some, shards, theirs, output)

    everything: list[Reconstruction] = []
    unwritten: list[Reconstruction] = []
    # A column is one file, so writing costs as much as there is of it: never more than a fiftieth of the time.
    due = time.monotonic() + 10.0

    def commit(outcome: Outcome) -> tuple[int, int]:
        nonlocal due
        if outcome.error is not None:
            some = [{"image": r["image"], "key": r["key"], "error": outcome.error} for r in outcome.unit.rows]
        else:
            some = outcome.result
        everything.extend(some)
        unwritten.extend(some)
        if (begun := time.monotonic()) >= due:
            _write(bank.place, steps, unwritten)
            unwritten.clear()
            due = time.monotonic() + max(10.0, 50 * (time.monotonic() - begun))
        failed = sum("error" in one for one in some)
        return len(some) - failed, failed

    try:
        commit_outcomes(pool, units(), commit, on_done)
    finally:
        _write(bank.place, steps, unwritten)
    return everything


def _write(place: Place, steps: int, reconstructions: Sequence[Reconstruction]) -> None:
    good = [one for one in reconstructions if "error" not in one]
    write_column(place, "psnr", {one["image"]: one["psnr"] for one in good if one["psnr"] is not None})
    write_column(place, "thumbnail", {one["image"]: one["thumbnail"] for one in good})
    # Last: an image has its number of steps once it has the rest.
    write_column(place, "reconstruction_steps", {one["image"]: steps for one in good})
