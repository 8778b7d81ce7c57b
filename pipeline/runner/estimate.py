"""How long a run would take and how much it would write: arithmetic on counts, a measured speed and a few pictures."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from diffstyle.networks.architecture import architecture_to_dict
from pipeline.jobfile.schema import Job
from pipeline.models.accelerate import compiles
from pipeline.models.batch_size import batch_for, known_batch
from pipeline.models.config import load_model_config
from pipeline.models.network_speed import NetworkSpeed, Setting, measured_speed, remembered_speed
from pipeline.models.session import resolve_device
from pipeline.results.contact_sheets import ASIDE, CELL, GAP, MARGIN, MAX_SHEETS
from pipeline.results.pictures import encode
from pipeline.results.sheet_rows import MAX_COLUMNS, MAX_ROWS
from pipeline.runner.pools import kept_batches, kind_of_workers
from pipeline.runner.sides import Side
from pipeline.shards.decode import Undecodable, decode
from pipeline.sources import open_source
from pipeline.stages.tiles import Sizer
from pipeline.storage.counts import count
from pipeline.storage.png import png
from pipeline.workers.local import LocalWorkers, cores
from pipeline.workers.unit import Resources

# How many pictures of a side are encoded to judge the size of results.
_TRIED = 4
# Where there are none: what prepared photographs of 256 px took.
_BYTES_A_PIXEL = {"png": 1.45, "jpeg": 0.43, "webp": 0.27}
# A tar's two headers, the padding, and the JSON with the row of the manifest.
_AROUND = {"folder": 0, "webdataset": 3 * 1024}
# The same of a prepared picture, with its row of the index; and what each part of the shards adds.
_AROUND_PREPARED, _A_PART_OF_SHARDS, _PICTURES_A_PART = 2_000, 20_000, 256
# A row of a bank's index, with what each part adds; a table of the manifest, and a row of it.
_A_ROW_OF_A_BANK, _A_PART_OF_A_BANK = 250, 12_000
_A_PART_OF_THE_MANIFEST, _A_ROW_OF_THE_MANIFEST = 20_000, 260
# The title and the names on a contact sheet, which are drawn on white.
_A_SHEET = 12_000
# How the estimate's ends lie around it: other load on the machine, tiles that end at different times.
_LOW, _HIGH = 0.85, 1.25
#: Seconds until Ray runs and its workers have the model: on a quick machine, usually, and on a slow one.
STARTING = (4.0, 9.0, 20.0)


@dataclass(frozen=True)
class Work:
    """What a run would do now.

    Attributes:
        pictures: how many it would read and prepare.
        inversions: how many pictures it would invert, or samples draw.
        pairs: how many pairs it would make.
        encodes: of the network, on one picture each: what is called a network call.
        decodes: likewise; an injection decodes twice.
    """

    pictures: int = 0
    inversions: int = 0
    pairs: int = 0
    encodes: int = 0
    decodes: int = 0

    def __bool__(self) -> bool:
        return bool(self.pictures or self.inversions or self.pairs)


@dataclass(frozen=True)
class Portion:
    """Pictures or pairs that take the same steps.

    Attributes:
        n: how many.
        encodes: of each.
        decodes: of each.
    """

    n: int
    encodes: int
    decodes: int


@dataclass(frozen=True)
class Duration:
    """Seconds: what to expect, and the range that it should lie in."""

    low: float
    expected: float
    high: float


def duration_of(
    stages: Sequence[Sequence[Portion]],
    speed: NetworkSpeed,
    batch: int,
    workers: int,
    preparing: float = 0.0,
    starting: tuple[float, float, float] = STARTING,
) -> Duration:
    """How long a run takes.

    Args:
        stages: what is computed side by side, stage by stage: the inversions of each side, then all pairs.
        speed: of a picture in a batch, on a worker among others.
        batch: pictures that go through the network at once. A batch that is not full takes as long as one that is.
        workers: how many compute at the same time.
        preparing: seconds that reading and preparing takes.
        starting: seconds until the workers are ready: low, expected, high.
    """
    computing = 0.0
    for portions in stages:
        batches = [math.ceil(one.n / batch) for one in portions]
        each = [batch * (one.encodes * speed.encode + one.decodes * speed.decode) for one in portions]
        whole = sum(n * seconds for n, seconds in zip(batches, each, strict=True))
        # The last batch of a stage keeps one worker busy and the others wait.
        rounds = math.ceil(sum(batches) / workers) / (sum(batches) / workers) if sum(batches) else 0.0
        computing += whole / workers * rounds
    if not computing and not preparing:
        return Duration(0.0, 0.0, 0.0)
    work = computing + preparing
    return Duration(_LOW * work + starting[0], work + starting[1], _HIGH * work + starting[2])


# ---- the speed of this machine ----


def crew_here(job: Job) -> tuple[int, Resources]:
    """How many workers a run on this machine would have, as Ray would say of it, and what each asks for."""
    compute = job.compute
    actors, threads = (None if value == "auto" else value for value in (compute.actors, compute.threads))
    device = resolve_device(compute.device)
    if device != "cpu":
        gpus = 1
        if device == "cuda":
            import torch

            gpus = max(1, torch.cuda.device_count())
        return (actors or gpus) if device == "cuda" else 1, Resources(1.0, float(device == "cuda"), threads)
    threads = threads or max(1, cores() // 4)
    return actors or max(1, cores() // threads), Resources(threads=threads)


def speed_here(job: Job, workers: int, resources: Resources, measure: bool) -> tuple[int, NetworkSpeed | None, str]:
    """(batch, speed, what is said of it)."""
    compute, config = job.compute, load_model_config(job.model)
    device = resolve_device(compute.device)
    batch: int | None = None if compute.batch == "auto" else compute.batch
    if batch is None:
        batch = kept_batches(job).get(kind_of_workers(job, device))
    if batch is None:
        batch = known_batch(job.model, device, compute.precision, resources, LocalWorkers())
    if batch is None and measure:
        batch = batch_for(job.model, device, compute.precision, resources, LocalWorkers())
    compiled = compiles(compute.compile, device, config.size)
    architecture = architecture_to_dict(config.unet_architecture)
    setting = Setting(architecture, device, compute.precision, batch or 1, workers, resources.threads, compiled)
    speed = (measured_speed(setting) if measure else remembered_speed(setting)) if batch else None
    where = f"on {device} in {compute.precision}"
    if speed is None:
        return batch or 1, None, f"not known {where}; --measure finds out by a few network calls"
    threads = "" if resources.threads is None else f" of {count(resources.threads, 'thread')}"
    crew = f"{count(workers, 'worker')}{threads}, {count(batch or 1, 'picture')} at once"
    return batch or 1, speed, f"{where}, {crew}: measured {speed.measured}"


# ---- bytes ----


@dataclass(frozen=True)
class PictureCosts:
    """What a picture costs, by a few of the job's own, or as photographs usually do.

    Attributes:
        prepared: bytes in the shards, with its rows.
        result: bytes of a result as the job writes it.
        drawn: bytes of its share of a contact sheet.
        seconds: that reading and preparing one takes.
        basis: what this is judged by, for people.
    """

    prepared: float
    result: float
    drawn: float
    seconds: float
    basis: str


def picture_costs(job: Job, sides: Sequence[Side], size: int) -> PictureCosts:
    """Encode a few of the job's own pictures, as they would be written.

    Args:
        job: the job.
        sides: its sides.
        size: of the model's pictures, in px.
    """
    begun = time.perf_counter()
    prepared, results, drawn = [], [], []
    cell = size * -(-CELL // size)
    for side in sides:
        if not side.needs_shards:
            continue
        blocks = open_source(side.spec.model_copy(update={"limit": min(side.spec.limit or _TRIED, _TRIED)})).blocks({})
        for picture in (picture for block in blocks for picture in block.pictures()):
            try:
                pixels = decode(picture.data or b"", size).pixels
            except Undecodable:  # the run itself will say so
                continue
            prepared.append(len(png(pixels)) + _AROUND_PREPARED)
            results.append(len(encode(pixels, job.pictures)) + _AROUND[job.pictures.to])
            stream = io.BytesIO()
            Image.fromarray(pixels).resize((cell, cell), Image.Resampling.NEAREST).save(stream, "PNG")
            drawn.append(stream.tell())
    if results:
        n = len(results)
        seconds = (time.perf_counter() - begun) / n
        basis = f"sizes judged by {n} of the sources"
        return PictureCosts(sum(prepared) / n, sum(results) / n, sum(drawn) / n, seconds, basis)
    raw = size**2 * _BYTES_A_PIXEL["png"]
    each = size**2 * _BYTES_A_PIXEL[job.pictures.format] + _AROUND[job.pictures.to]
    return PictureCosts(raw + _AROUND_PREPARED, each, raw, 0.0, "sizes as photographs usually take")


def shards_bytes(n: int, costs: PictureCosts) -> float:
    """Bytes of the shards of ``n`` new pictures."""
    return n * costs.prepared + math.ceil(n / _PICTURES_A_PART) * _A_PART_OF_SHARDS


def bank_index_bytes(n: int, part_size: int) -> float:
    """Bytes of a bank's index for ``n`` new entries, beside their tensors."""
    return n * _A_ROW_OF_A_BANK + math.ceil(n / part_size) * _A_PART_OF_A_BANK


def manifest_bytes(job: Job, pairs: int, batch: int, workers: int, per_call: float | None) -> float:
    """Bytes of the manifest's new tables: as many as there will be tiles.

    Args:
        job: the job.
        pairs: how many would be made.
        batch: pairs that go through the network at once.
        workers: how many share them.
        per_call: seconds of a pair's network call; None: not known.
    """
    tiles, sizer = 0, Sizer(pairs, batch, workers, job.compute.tile_seconds, 4096, per_call or 1e-9)
    while sizer.left > 0 and tiles < 100_000:
        sizer.next(100, sizer.left)
        tiles += 1
    return tiles * _A_PART_OF_THE_MANIFEST + pairs * _A_ROW_OF_THE_MANIFEST


def sheets_bytes(points: int, contents: int, styles: int, costs: PictureCosts, size: int) -> float:
    """Bytes of the contact sheets, which are drawn again after each run.

    Args:
        points: of the sweep, one sheet each.
        contents: how many contents there are.
        styles: how many styles.
        costs: of a picture.
        size: of a picture, in px.
    """
    rows, columns = min(contents, MAX_ROWS), min(styles, MAX_COLUMNS)
    cells = rows * columns + rows + columns
    border = (ASIDE + MARGIN + GAP * columns) * 0.02
    return min(points, MAX_SHEETS) * (cells * costs.drawn + _A_SHEET + border * size)


def total_bytes(to_write: Mapping[str, float]) -> float:
    """All of it."""
    return float(sum(to_write.values()))
