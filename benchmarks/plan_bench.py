"""How right `diffstyle plan --measure` is: a job's time and bytes as told beforehand, and as they then are.

python benchmarks/plan_bench.py --write docs/running.md          # on Ray, as `diffstyle run` does; minutes
python benchmarks/plan_bench.py --local --write docs/running.md  # a few of the pairs, in this process; a minute each
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from pathlib import Path

import pipeline
from pipeline.bench.pages import publish
from pipeline.monitoring.activity import MEASURING, STARTING
from pipeline.monitoring.progress import duration
from pipeline.runner import estimate
from pipeline.storage.counts import data_size

MARKERS = ("<!-- plan_bench: begin -->", "<!-- plan_bench: end -->")

#: name -> job and what is changed in it. The second is of the reference's size, with random weights and few steps.
JOBS = {
    "demo, 64 px": ("demo", ["compute.batch=4"]),
    "FFHQ, 256 px": (
        "demo",
        [
            *("model=ffhq", "weights=random", "compute.batch=1", "content.limit=2", "style.limit=2"),
            *("inversion.steps=3", "injection.plan={grid: 4}", "injection.mask=null"),
            *("injection.t_edit=400", "injection.t_start=999"),
        ],
    ),
}


#: With --local: these changes too.
FEW = {
    "demo, 64 px": ["content.limit=2", "style.limit=2", "compute.actors=1", "compute.threads=1"],
    "FFHQ, 256 px": ["content.limit=1", "style.limit=1", "compute.actors=1", "compute.threads=1"],
}


def row(name: str, job: str, changes: list[str], folder: Path, local: bool) -> str:
    """A line of the table: told beforehand, then run."""
    output = folder / name.partition(",")[0]
    loaded = pipeline.load_job(job, [*changes, f"output={output}"])
    told = pipeline.preview(loaded, measure=True)
    assert told.seconds is not None
    counts = pipeline.run(loaded, quiet=True, local=local).counts
    start = estimate.STARTING
    work = sum(seconds for kind, seconds in counts.seconds.items() if kind not in (STARTING, MEASURING))
    expected = told.seconds.expected - start[1]
    written = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    cells = [
        f"{told.work.encodes:,} and {told.work.decodes:,}",
        f"{expected:.1f} s ({told.seconds.low - start[0]:.1f} to {told.seconds.high - start[2]:.1f})",
        f"{work:.1f} s",
        f"{100 * (expected / work - 1):+.0f} %",
        duration(counts.seconds.get(STARTING, 0.0)),
        data_size(told.total_bytes),
        f"{data_size(written)}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--write", type=Path)
    arguments.add_argument("--only", choices=JOBS)
    arguments.add_argument("--local", action="store_true")
    given = arguments.parse_args()
    lines = [
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start. Times are of work, without the "
        "start of workers.",
        "",
        "| job | encodes and decodes | time told | it took | off by | start of workers | bytes told | written |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, (job, changes) in JOBS.items():
            if given.only in (None, name):
                few = FEW[name] if given.local else []
                lines.append(row(name, job, [*changes, *few], Path(folder), given.local))
    lines += [
        "",
        f"Made by `python benchmarks/plan_bench.py {shlex.join(sys.argv[1:])}`.",
    ]
    publish(lines, given.write, MARKERS)


if __name__ == "__main__":
    main()
