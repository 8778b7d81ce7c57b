"""The requests of a job on S3, counted: of its run, of a run that has nothing to do, and of ``status``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.monitoring import events
from pipeline.monitoring.status import read_status
from pipeline.storage import lock, turns
from pipeline.storage.place import Place
from support.s3_faults import FaultyStore
from support.whole_jobs import CONTENTS, SIX_PAIRS, STYLES, run_job

WHAT = ("run", "nothing to do", "status")
#: As many contents as styles.
SIDE = 3


@contextmanager
def nothing_by_the_clock() -> Iterator[None]:
    """Of a run on a slow machine: that it asks now and then whether it still holds its output, says that it lives, and
    writes its events. Inside, it does so only once, and at its end.
    """
    clocks = ((turns._StoreFence, "LOOK_EVERY"), (lock, "BEAT_EVERY"), (events._Object, "WRITE_EVERY"))
    before = [getattr(holder, name) for holder, name in clocks]
    for holder, name in clocks:
        setattr(holder, name, 1e6)
    try:
        yield
    finally:
        for (holder, name), seconds in zip(clocks, before, strict=True):
            setattr(holder, name, seconds)


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
