"""The requests of a job on S3, counted: of its run, of a run that has nothing to do, and of ``status``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.monitoring.status import read_status
from pipeline.storage import turns
from pipeline.storage.place import Place
from support.s3_faults import FaultyStore
from support.whole_jobs import CONTENTS, SIX_PAIRS, STYLES, run_job

WHAT = ("run", "nothing to do", "status")
#: As many contents as styles.
SIDE = 3


@contextmanager
def nothing_by_the_clock() -> Iterator[None]:
    """A run asks every five seconds whether it still holds its output, by two HEADs; inside, only once."""
    before, turns._StoreFence.LOOK_EVERY = turns._StoreFence.LOOK_EVERY, 1e9
    try:
        yield
    finally:
        turns._StoreFence.LOOK_EVERY = before


def upload(bucket: Place) -> None:
    """The data set."""
    for side, folder in (("content", CONTENTS), ("style", STYLES)):
        for file in sorted(folder.iterdir())[:SIDE]:
            (bucket / side / file.name).write_bytes(file.read_bytes())


def requests(store: FaultyStore, bucket: Place, folder: Path, pairs_a_tile: int) -> dict[str, Counter[str]]:
    """One of WHAT -> requests by kind, of nine pairs of six pictures in tiles of so many pairs."""
    output = bucket / f"out-{pairs_a_tile}"
    changes = SIX_PAIRS | {
        "output": str(output),
        "content": {"folder": str(bucket / "content")},
        "style": {"folder": str(bucket / "style")},
        "bank": {"h": "float32", "part_size": 1},
        "compute": {"batch": pairs_a_tile, "tile_seconds": 0.001},
    }
    made = {}
    with nothing_by_the_clock():
        for what in WHAT:
            with store.counting() as counts:
                if what == "status":
                    read_status(output)
                else:
                    run_job(folder / output.name, **changes)
            made[what] = counts
    return made
