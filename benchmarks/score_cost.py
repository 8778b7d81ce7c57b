"""What scoring costs, as a share of the time in which the pictures were made, within one run.

    python benchmarks/score_cost.py [--write docs/scores.md] [--only 64]

A job with the default plan is run and scored in this process, on one thread: the demo model at 64 px, and the
architecture of CelebA-HQ at 256 px with random weights, of which one pair is enough. The seconds are the
run's own clock of its stages.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.bench.pages import publish
from pipeline.jobfile.schema import Job
from pipeline.runner.api import run

MARKERS = ("<!-- cost: begin -->", "<!-- cost: end -->")
#: Name -> the job. All else is the default, the plan too.
JOBS: Mapping[str, Mapping[str, Any]] = {
    "demo model, 64 px": {
        "model": "shipped:demo/model/demo-64.yaml",
        "content": {"folder": "shipped:demo/contents"},
        "style": {"folder": "shipped:demo/styles"},
    },
    "CelebA-HQ's architecture, 256 px": {
        "model": "celebahq",
        "weights": "random:0",
        "content": {"folder": "shipped:demo/contents", "limit": 1},
        "style": {"folder": "shipped:demo/styles", "limit": 1},
        "inversion": {"steps": 2},  # what is inverted does not matter here, and costs minutes
    },
}


def measured(name: str, folder: Path) -> str:
    """A row of the table."""
    values = {**JOBS[name], "output": str(folder), "compute": {"device": "cpu", "threads": 1}, "score": True}
    result = run(Job.model_validate(values), local=True, quiet=True)
    seconds = result.counts.seconds
    scoring = {stage: one for stage, one in seconds.items() if stage in ("score", "reconstruct styles")}
    n, made = result.counts.pairs_made, seconds["inject"]
    total = sum(scoring.values())
    each = f"{1000 * seconds['score'] / n:.1f} ms"
    return f"| {name} | {n} | {made:.1f} s | {total:.2f} s | {each} | **{100 * total / made:.2f} %** |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--only", choices=["64", "256"])
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    names = [name for name in JOBS if arguments.only is None or f"{arguments.only} px" in name]
    head = ("model", "pairs", "making them", "scoring them", "of it, a picture", "share")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(measured(name, Path(folder) / "out"))
        print(lines[-1], flush=True)
    publish(lines, arguments.write, MARKERS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
