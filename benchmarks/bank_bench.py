"""How fast and how large latent banks are, beside plain files.

    python benchmarks/bank_bench.py [--quick] [--folder FOLDER] [--write docs/banks.md]

Prints the machine, the versions and two tables in Markdown; ``--write`` puts them between the markers of a page.
Entries have the shapes of a 256 px model: x_T of (3, 256, 256) in float32, h of (10, 512, 8, 8) in float16. "As the
original code does": one ``torch.save`` an image, of x_T and h at all 49 steps of a 50-step inversion, in float32.
Every writer syncs its files. Reads find the files in the page cache.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from pipeline.banks.description import BankDescription, Latents, entry_of, part_name
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import role_tensors
from pipeline.banks.writer import BankWriter
from pipeline.bench.pages import publish
from pipeline.bench.peak import peak_mib
from pipeline.models.batch_size import processor
from pipeline.storage.identity import digest

MARKERS = "<!-- bank_bench: begin -->", "<!-- bank_bench: end -->"
PART = 64


def description(format: str, tiny: bool = False) -> BankDescription:
    return BankDescription(
        model_fingerprint="0" * 32,
        model_name="bench",
        image_size=4 if tiny else 256,
        format=format,
        inversion={"steps": 50, "t_0": 999},
        preprocessing={},
        tensors=role_tensors("both", 4, (4, 1, 1), (999,))
        if tiny
        else role_tensors("both", 256, (512, 8, 8), range(400, 1000, 60)),
    )


def entries(what: BankDescription, count: int) -> Iterator[Latents]:
    random = np.random.default_rng(0)
    tensors = {one.name: random.standard_normal(one.stored_shape).astype(one.dtype) for one in what.tensors}
    for number in range(count):
        image = digest(str(number))
        row = {"key": f"picture_{number}-{image[:8]}", "image": image, "source": f"{number}.png"}
        yield entry_of(what, row, **tensors)


def write_bank(root: Path, what: BankDescription, count: int) -> None:
    writer = BankWriter.create_or_open(root, what)
    part: list[Latents] = []
    for number, entry in enumerate(entries(what, count), 1):
        part.append(entry)
        if len(part) == PART or number == count:
            name = part_name([one.image for one in part])
            writer.commit(name, BankWriter.write_payload(root, what, name, part))
            part = []
    writer.snapshot()


def sync(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


# ---- plain files ----
def write_numpy(root: Path, count: int) -> None:
    for entry in entries(description("parquet"), count):
        for name, tensor in entry.tensors.items():
            np.save(root / f"{entry.image}.{name}.npy", tensor)
            sync(root / f"{entry.image}.{name}.npy")


def read_numpy(root: Path, image: str) -> None:
    for name in ("x_t", "h"):
        np.load(root / f"{image}.{name}.npy")


def write_torch(root: Path, count: int) -> None:
    for entry in entries(description("parquet"), count):
        torch.save(
            {name: torch.from_numpy(tensor) for name, tensor in entry.tensors.items()}, root / f"{entry.image}.pt"
        )
        sync(root / f"{entry.image}.pt")


def write_everything(root: Path, count: int) -> None:
    steps = {t: torch.randn(512, 8, 8) for t in range(49)}
    for entry in entries(description("parquet"), count):
        torch.save({"x_t": torch.from_numpy(entry.tensors["x_t"]), "h": steps}, root / f"{entry.image}.pt")
        sync(root / f"{entry.image}.pt")


def read_torch(root: Path, image: str) -> None:
    torch.load(root / f"{image}.pt", weights_only=True)


@dataclass
class Way:
    """One way of keeping latents: how to write so many, and how to read all in order, and one by its image."""

    name: str
    write: Callable[[Path, int], None]
    reader: Callable[[Path, list[str]], tuple[Callable[[], None], Callable[[str], object]]]


def bank_reader(root: Path, images: list[str]) -> tuple[Callable[[], None], Callable[[str], object]]:
    bank = LatentBank.open(root)

    def one(image: str) -> None:
        _ = bank[image]

    return lambda: [one(image) for image in images] and None, one


def plain_reader(read: Callable[[Path, str], None]) -> Callable:
    def reader(root: Path, images: list[str]) -> tuple[Callable[[], None], Callable[[str], object]]:
        return lambda: [read(root, image) for image in images] and None, lambda image: read(root, image)

    return reader


WAYS = [
    Way("bank, Parquet", lambda root, n: write_bank(root, description("parquet"), n), bank_reader),
    Way("bank, WebDataset", lambda root, n: write_bank(root, description("webdataset"), n), bank_reader),
    Way("`numpy.save`, two files an image", write_numpy, plain_reader(read_numpy)),
    Way("`torch.save`, a file an image", write_torch, plain_reader(read_torch)),
    Way("as the original code does", write_everything, plain_reader(read_torch)),
]


def seconds(task: Callable[[], object], repeat: int = 1) -> float:
    """The shortest of some runs: the one that the rest of the machine disturbed least."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return min(times)


def throughput(folder: Path, count: int) -> list[str]:
    lines = [
        "| way | MB an image | write, images/s | write, MB/s | read, images/s | read, MB/s | ms a random image |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    images = [entry.image for entry in entries(description("parquet"), count)]
    asked = np.random.default_rng(1).permutation(images).tolist()
    for way in WAYS:
        root = folder / "throughput"
        root.mkdir()
        writing = seconds(lambda: way.write(root, count))  # noqa: B023 - called at once
        size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
        all_of_it, one = way.reader(root, images)
        reading = seconds(all_of_it, 3)
        each = seconds(lambda: [one(image) for image in asked], 3) / count  # noqa: B023
        lines.append(
            f"| {way.name} | {size / count / 1e6:.2f} | {count / writing:.0f} | {size / writing / 1e6:.0f} "
            f"| {count / reading:.0f} | {size / reading / 1e6:.0f} | {each * 1e3:.2f} |"
        )
        print(lines[-1], file=sys.stderr)
        shutil.rmtree(root)
    return lines


def look_up(folder: Path, counts: list[int]) -> list[str]:
    lines = [
        "| format | entries | open, s | memory of the index, MB | ms a random key | ms a key, 64 at once |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for format in ("parquet", "webdataset"):
        for count in counts:
            root = folder / f"{format}-{count}"
            # Making it is not what is measured here: no waiting for the disk.
            fsync, os.fsync = os.fsync, lambda handle: None
            write_bank(root, description(format, tiny=True), count)
            os.fsync = fsync
            # In a process of its own, for the memory to be the bank's alone.
            command = [sys.executable, __file__, "--measure-look-up", str(root)]
            figures = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            lines.append(f"| {format} | {count:,} | " + " | ".join(figures) + " |")
            print(lines[-1], file=sys.stderr)
            shutil.rmtree(root)
    return lines


def measure_look_up(root: str) -> None:
    import pyarrow.dataset  # noqa: F401 - its import is no part of opening

    before = peak_mib()
    start = time.perf_counter()
    bank = LatentBank.open(root)
    opening = time.perf_counter() - start
    grown = peak_mib() - before
    keys = np.random.default_rng(0).choice(bank.keys(), 2000).tolist()
    for key in keys[:200]:
        _ = bank[key]
    one = seconds(lambda: [bank[key] for key in keys], 3) / len(keys)
    many = seconds(lambda: [bank.get_many(keys[at : at + 64]) for at in range(0, 1984, 64)], 3) / 1984
    print(f"{opening:.2f} {grown:.0f} {one * 1e3:.3f} {many * 1e3:.3f}")


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, pyarrow {pa.__version__}"
    return f"{processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; {versions}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images; for trying out")
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary folder")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables between the page's markers")
    parser.add_argument("--measure-look-up", metavar="BANK", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure_look_up:
        measure_look_up(options.measure_look_up)
        return
    images = 128 if options.quick else 512
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        load = os.getloadavg()[0]
        lines = [
            f"{machine()}. Load average at the start: {load:.1f}.",
            "",
            f"{images} images with the tensors of a 256 px model (x_T in float32, h at 10 timesteps in float16), "
            f"parts of {PART}; every writer syncs its files; reads are one image after another, from the page cache:",
            "",
            *throughput(folder, images),
            "",
            f"Looking up random keys; tiny tensors, parts of {PART}, so that it is the index that counts:",
            "",
            *look_up(folder, [1_000, 100_000]),
            "",
            f"Made by `python benchmarks/bank_bench.py{' --quick' if options.quick else ''} --write docs/banks.md`.",
        ]
    publish(lines, options.write, MARKERS)


if __name__ == "__main__":
    main()
