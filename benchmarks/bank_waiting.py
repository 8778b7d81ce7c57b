"""How long workers' devices wait for the bank, from the event log of a run.

    python benchmarks/bank_waiting.py [--run OUT ...] [--write docs/banks.md]

``--run`` reads the logs of runs that you have made. Without it, a small run is made first: the tiny checkpoint on the
CPU, pictures of noise, one worker; and entries of a 256 px model are read for a stand-in of a device, which takes half
a second for a tile of 32, far less than a GPU takes, so that loading counts. A device waits for the bank
while it computes nothing and a part is being loaded for it; that is put against the time that it computes. ``--write``
puts the table between the markers of a page.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipeline.banks.description import Latents
from pipeline.banks.reader import LatentBank, cached_bank
from pipeline.bench.pages import publish
from pipeline.monitoring.events import read_events
from pipeline.storage.place import Place
from pipeline.workers.ray_cluster import start_ray
from pipeline.workers.ray_pool import RayPool
from pipeline.workers.unit import Resources

MARKERS = "<!-- bank_waiting: begin -->", "<!-- bank_waiting: end -->"
DATA = Path(__file__).resolve().parents[1] / "demo" / "tiny"


def small_run(folder: Path, contents: int, styles: int) -> Path:
    """Make a run's output below ``folder``."""
    from pipeline.jobfile.schema import Job
    from pipeline.runner.api import carry_out
    from pipeline.runner.run import Options, Run

    random = np.random.default_rng(0)
    for side, n in (("content", contents), ("style", styles)):
        (folder / side).mkdir()
        for number in range(n):
            small = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            small.resize((32, 32), Image.Resampling.BICUBIC).save(folder / side / f"{number}.png")
    architecture = yaml.safe_load((DATA / "tiny-ddpm.yaml").read_text())["model"]
    weights = {"path": str(DATA / "tiny-ddpm.safetensors")}
    (folder / "model.yaml").write_text(
        yaml.safe_dump({"name": "tiny", "architecture": architecture, "weights": weights})
    )
    job = Job.model_validate(
        {
            "model": str(folder / "model.yaml"),
            "output": str(folder / "out"),
            "content": str(folder / "content"),
            "style": str(folder / "style"),
            "injection": {"plan": {"grid": 50}},
            "compute": {"actors": 1, "device": "cpu", "batch": 4, "threads": 1},
            "bank": {"part_size": 8},
        }
    )
    with Run(job, Options(quiet=True)) as run:
        for stage in ("shard", "precompute", "inject"):
            carry_out(run, stage)
    return folder / "out"


@dataclass(frozen=True)
class StandIn:
    """A tile that is read from a bank as a real one is, and computed by sleeping."""

    bank: str
    rows: tuple[dict[str, Any], ...]
    seconds: float
    name: str

    def load(self) -> list[Latents]:
        return cached_bank(self.bank).read_rows(self.rows)

    def compute(self, context: Any, loaded: list[Latents]) -> int:
        time.sleep(self.seconds)
        return len(loaded)

    def save(self, computed: int) -> int:
        return computed

    def split(self) -> list[StandIn]:
        return []


def stand_in(folder: Path, images: int = 128, tiles: int = 16, size: int = 32) -> list[dict[str, Any]]:
    """The events of tiles of random entries of a bank with the tensors of a 256 px model, on one worker."""
    from bank_bench import description, write_bank

    start_ray()
    write_bank(folder / "bank", description("parquet"), images)
    rows = LatentBank.open(folder / "bank").index.to_pylist()
    random = np.random.default_rng(0)
    units = [
        StandIn(str(folder / "bank"), tuple(rows[i] for i in random.integers(0, images, size)), 0.5, f"tile {n}")
        for n in range(tiles)
    ]
    with RayPool(1, None, Resources(num_cpus=1.0, threads=1)) as pool:
        return [
            {"event": "part_done", "run": "", "stage": "stand-in, 256 px", "worker": one.worker, **vars(one.timing)}
            for one in pool.run(units)
        ]


def overlap(spans: Iterable[tuple[float, float]], gaps: Iterable[tuple[float, float]]) -> float:
    """Seconds of the gaps in which at least one of the spans lies."""
    joined: list[list[float]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return sum(max(0.0, min(end, b) - max(start, a)) for start, end in joined for a, b in gaps)


def measure(events: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Stage -> seconds of each phase, and of waiting, summed over parts and workers; the parts of one run."""
    parts: dict[tuple[str, str, Any], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event["event"] == "part_done" and event.get("began"):
            parts[event["stage"], event["run"], event["worker"]].append(event)
    found: dict[str, dict[str, float]] = {}
    for (stage, _, _), done in parts.items():
        done.sort(key=lambda part: part["began"])
        gaps = [(one["began"] + one["compute"], other["began"]) for one, other in itertools.pairwise(done)]
        loading = [(part["began"] - part["queued"] - part["load"], part["began"] - part["queued"]) for part in done]
        figures = found.setdefault(stage, defaultdict(float))
        figures["parts"] += len(done)
        for phase in ("load", "queued", "compute", "save"):
            figures[phase] += sum(part[phase] for part in done)
        figures["waiting"] += overlap(loading, gaps)
        figures["idle"] += sum(max(0.0, end - start) for start, end in gaps)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="append", metavar="OUT", help="a run's output folder; may be repeated")
    parser.add_argument("--contents", type=int, default=16, help="of the run that is made")
    parser.add_argument("--styles", type=int, default=12)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the page's markers")
    options = parser.parse_args()
    from bank_bench import machine

    lines = [
        f"{machine()}. Load average at the start: {os.getloadavg()[0]:.1f}.",
        "",
        "Seconds, summed over the parts of a stage. *Idle*: between two computings of a worker, whatever the reason. "
        "*Waiting*: idle while a part was being loaded for it, and its share of the computing. *Without overlap*: the "
        "share that loading one after the other would have.",
        "",
        "| stage | parts | load | compute | save | idle | waiting for the bank | share | without overlap |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as name:
        runs = options.run or [str(small_run(Path(name), options.contents, options.styles))]
        logs: list[Iterable[dict[str, Any]]] = [read_events(Place.parse(run)) for run in runs]
        if not options.run:
            logs.append(stand_in(Path(name)))
        for log in logs:
            for stage, figures in measure(log).items():
                if stage.startswith("shard"):
                    continue  # no bank and no device there
                compute = figures["compute"]
                lines.append(
                    f"| {stage} | {figures['parts']:.0f} | {figures['load']:.3f} | {compute:.2f} "
                    f"| {figures['save']:.3f} | {figures['idle']:.3f} | {figures['waiting']:.4f} "
                    f"| {figures['waiting'] / compute:.2%} | {figures['load'] / compute:.2%} |"
                )
    lines += ["", f"Made by `python {' '.join(['benchmarks/bank_waiting.py', *sys.argv[1:]])}`."]
    publish(lines, options.write, MARKERS)


if __name__ == "__main__":
    main()
