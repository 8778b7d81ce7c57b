"""Makes banks on every write path, each time from where it was left; test_bank_kill.py kills it.

Arguments: a folder, a format. first/ is written part by part, with other names and a failure; second/ is first/
exported to the other format and then pruned.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.dataset  # noqa: F401 - imported on first use otherwise, and kills are to hit the writing

from pipeline.banks.copy import export
from pipeline.banks.drop import prune
from pipeline.banks.reader import LatentBank
from support.bank_samples import FORMATS, describe, fill, latents

IMAGES = range(30)
KEPT = range(0, 30, 2)


def make(folder: Path, format: str) -> None:
    description = describe(format)
    writer = fill(folder / "first", description, IMAGES, part_size=3)
    aliases = [{"key": f"again-{number}", "image": latents(number, description).image} for number in (3, 4, 9)]
    for alias in aliases:
        writer.commit_aliases([alias])
    if not writer.failed_images():
        writer.commit_failures([{"key": "bad", "image": "0" * 32, "error": "too dark"}])
    export(folder / "first", folder / "second", format=FORMATS[1 - FORMATS.index(format)])
    prune(folder / "second", [latents(number, description).image for number in KEPT])
    assert len(LatentBank.open(folder / "second")) == len(KEPT) + 1


if __name__ == "__main__":
    print("ready", flush=True)
    make(Path(sys.argv[1]), sys.argv[2])
