"""Sheets of thumbnails: many pictures in one WebP file, made a sheet at a time, so that memory holds few pictures."""

from __future__ import annotations

import multiprocessing
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.results.contact_sheets import decode_picture, read_picture
from pipeline.shards.store import ShardError, ShardStore
from pipeline.storage.identity import source_parts
from pipeline.storage.place import Place
from pipeline.storage.tables import DamagedError

#: Sheets of at most so many pixels a side. A browser decodes a sheet whole, and a list sorted by a score shows pictures
#: of nearly as many sheets as it has cells: small sheets are quick to show, large ones fewer files.
SHEET_SIDE = 1536
_QUALITY = 80
_SMALL = 48
#: From so many pictures on, cells are smaller, so that a report is not as large as its run.
MANY = 20_000
_POOL_FROM = 2000  # pictures; fewer are made sooner than processes start


@dataclass(frozen=True)
class Result:
    """A result to be shown: as the manifest names it."""

    picture: str
    picture_hash: str | None


@dataclass(frozen=True)
class Source:
    """A prepared picture to be shown: its shards and its row of their index."""

    shards: str
    row: dict[str, Any]


@dataclass(frozen=True)
class Sheets:
    """Where the pictures of one kind are: number n is in file n // per_sheet, cell n % per_sheet, row by row.

    Attributes:
        files: Below the report.
        cell: Pixels a side.
        across: Cells in a row of a sheet.
        count: How many pictures there are.
        failed: Number of a picture -> why it can't be shown; its cell is empty.
    """

    files: list[str]
    cell: int
    across: int
    count: int
    failed: dict[int, str]

    def described(self) -> dict[str, Any]:
        """For the page."""
        return {"files": self.files, "cell": self.cell, "across": self.across, "count": self.count}


@dataclass(frozen=True)
class Thumbnail:
    """A picture to be shown of which only a bank's thumbnail is left."""

    pixels: np.ndarray


Shown = Result | Source | Thumbnail


def cell_size(side: int, count: int, most: int, least: int) -> int:
    """Pixels a side of a cell: ``most``, ``least`` where there are MANY, and no more than the pictures have."""
    return max(1, min(side, most if count < MANY else least))


def make_sheets(folder: Path, name: str, cell: int, output: Place, pictures: Sequence[Shown]) -> Sheets:
    """Write ``folder/thumbnails/NAME-00000.webp`` and so on: the pictures in their order, each fitted into a cell.

    Args:
        folder: The report.
        name: Of the kind of pictures.
        cell: Pixels a side of a cell.
        output: The run.
        pictures: What to show. One that can't be read costs its own cell.
    """
    across = max(1, SHEET_SIDE // cell)
    # WebP keeps colours at half the resolution, which shows in pictures that are small themselves.
    lossless = cell <= _SMALL and len(pictures) < MANY
    per_sheet = across * across
    (folder / "thumbnails").mkdir(parents=True, exist_ok=True)
    jobs, files = [], []
    for number, start in enumerate(range(0, len(pictures), per_sheet)):
        files.append(f"thumbnails/{name}-{number:05d}.webp")
        jobs.append((folder / files[-1], cell, across, lossless, output, pictures[start : start + per_sheet]))
    failed: dict[int, str] = {}
    workers = min(os.cpu_count() or 1, 8, len(jobs))
    if workers > 1 and len(pictures) >= _POOL_FROM:
        # Started afresh: a fork would inherit Arrow's locks, held by threads that it does not have.
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            done = list(pool.map(_sheet, *zip(*jobs, strict=True)))
    else:
        done = [_sheet(*job) for job in jobs]
    for number, reasons in enumerate(done):
        failed.update({number * per_sheet + n: reason for n, reason in reasons.items()})
    return Sheets(files, cell, across, len(pictures), failed)


def _sheet(
    file: Path, cell: int, across: int, lossless: bool, output: Place, pictures: Sequence[Shown]
) -> dict[int, str]:
    """Write one sheet; returns what could not be read and why."""
    rows = -(-len(pictures) // across)
    sheet = Image.new("RGB", (min(across, len(pictures)) * cell, rows * cell), (128, 128, 128))
    failed = {}
    for n, pixels in _read(output, pictures):
        if isinstance(pixels, str):
            failed[n] = pixels
            continue
        image = Image.fromarray(pixels)
        image.thumbnail((cell, cell), Image.Resampling.BICUBIC, reducing_gap=2.0)
        y, x = divmod(n, across)
        sheet.paste(image, (x * cell + (cell - image.width) // 2, y * cell + (cell - image.height) // 2))
    if lossless:
        sheet.save(file, "WEBP", lossless=True, quality=40, method=2)
    else:
        sheet.save(file, "WEBP", quality=_QUALITY, method=2)
    return failed


def _read(output: Place, pictures: Sequence[Shown]) -> Iterator[tuple[int, np.ndarray | str]]:
    """The number of each picture with its pixels, or why it can't be read; each tar is opened once."""
    by_tar: dict[str, list[int]] = {}
    for n, picture in enumerate(pictures):
        if isinstance(picture, Source):
            try:
                yield n, ShardStore(picture.shards).read(picture.row)
            except ShardError as error:
                yield n, str(error)
        elif isinstance(picture, Thumbnail):
            yield n, picture.pixels
        elif source_parts(picture.picture)[1] is not None:
            by_tar.setdefault(source_parts(picture.picture)[0], []).append(n)
        else:
            try:
                yield n, read_picture(output, picture.picture, picture.picture_hash)
            except DamagedError as error:
                yield n, str(error).removeprefix(f"{output}/")
    for tar, numbers in by_tar.items():
        yield from _read_tar(output, tar, [(n, pictures[n]) for n in numbers])


def _read_tar(output: Place, tar: str, wanted: Sequence[tuple[int, Shown]]) -> Iterator[tuple[int, np.ndarray | str]]:
    place = output / tar
    try:
        with place.open() as stream, tarfile.open(fileobj=stream) as opened:
            for n, picture in wanted:
                assert isinstance(picture, Result)
                member = source_parts(picture.picture)[1] or ""
                try:
                    content = opened.extractfile(member)
                    if content is None:
                        raise KeyError(member)
                    yield n, decode_picture(place, content.read(), picture.picture_hash, output)
                except KeyError:
                    yield n, f"{tar}: lacks {member}"
                except DamagedError as error:
                    yield n, str(error).removeprefix(f"{output}/")
    except (FileNotFoundError, tarfile.TarError) as error:
        for n, _ in wanted:
            yield n, f"{tar}: {'missing' if isinstance(error, FileNotFoundError) else 'no tar any more'}"
