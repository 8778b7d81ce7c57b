"""Kill workers, drivers and a node of a run at random, then compare what it made byte by byte with a quiet run.

    python benchmarks/chaos.py --write docs/running.md

The network is the small one of the tests, slowed down so that kills find it at work; a fast machine waits for them.
Ray is a cluster of nodes on this machine; each driver is a process of its own that joins it, as
`diffstyle run JOB --address ...` would.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from PIL import Image

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

MARKERS = ("<!-- chaos: begin -->", "<!-- chaos: end -->")
STAGES = ("shard", "precompute", "inject")


# ---- the job ----


def write_job(folder: Path, name: str, contents: int, styles: int, **compute: Any) -> Path:
    """A job of small random pictures on the tiny checkpoint."""
    for side, n in (("contents", contents), ("styles", styles)):
        (folder / side).mkdir(exist_ok=True)
        for i in range(n):
            pixels = np.random.default_rng([i, n, len(side)]).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(folder / side / f"{i:03d}.png")
    model = {
        "name": "tiny",
        "architecture": {
            "family": "ddpm",
            "image_size": 32,
            "ch": 32,
            "ch_mult": [1, 2, 2],
            "num_res_blocks": 1,
            "attn_resolutions": [8],
        },
        "weights": {"path": str(REPO / "demo" / "tiny" / "tiny-ddpm.safetensors")},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    job = {
        "model": "./model.yaml",
        "output": f"./{name}",
        "content": "./contents",
        "style": "./styles",
        "inversion": {"steps": 5},
        "injection": {"gamma": 0.5, "events": 3, "plan": {"grid": 5}},
        "bank": {"part_size": 4},
        "compute": {"device": "cpu", "threads": 1, "batch": 2, **compute},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


class Pace:
    """How many batches may begin before the next kill; without it a fast machine is done before the last one.

    The killer and the workers are processes of one machine: it is two files beside the job, with a byte for each batch.
    """

    def __init__(self, job: Path) -> None:
        self._begun, self._allowed = job.with_suffix(".begun"), job.with_suffix(".allowed")

    def allow(self, batches: int) -> None:
        """Let so many more begin."""
        for file, n in ((self._begun, 0), (self._allowed, batches)):
            with file.open("ab") as stream:
                stream.write(bytes(n))

    def end(self) -> None:
        """Let all begin."""
        self._allowed.unlink(missing_ok=True)

    def begin(self) -> None:
        """Wait until another batch may begin."""
        while self._is_held():
            time.sleep(0.05)
        with self._begun.open("ab") as stream:
            stream.write(bytes(1))

    def _is_held(self) -> bool:
        try:
            return self._begun.stat().st_size >= self._allowed.stat().st_size
        except FileNotFoundError:
            return False


class Slowly:
    """Opens a worker's model, each batch of which waits for ``pace`` and takes at least ``seconds``."""

    def __init__(self, seconds: float, pace: Pace) -> None:
        self.seconds = seconds
        self.pace = pace

    def __call__(self, load: Callable[[], Any]) -> Any:
        context, pause, pace = load(), self.seconds, self.pace
        in_batches = context.in_batches

        def slow(n: int, run: Callable[..., Any]) -> Any:
            def one(indices: Any) -> Any:
                pace.begin()
                time.sleep(pause)
                return run(indices)

            return in_batches(n, one)

        context.in_batches = slow
        return context


def drive(job: str, address: str, seconds: float, retry_failed: bool) -> int:
    """Run a job as the command line does, on the slowed model."""
    from ray import cloudpickle

    from pipeline.jobfile.load import load_job
    from pipeline.runner.api import carry_out
    from pipeline.runner.run import Options, Run
    from pipeline.workers.ray_workers import RayWorkers

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    run = Run(load_job(job), Options(retry_failed, True), RayWorkers(address, Slowly(seconds, Pace(Path(job)))))
    run.check(STAGES)
    with run:
        for stage in STAGES:
            carry_out(run, stage)
        return 3 if run.counts.failed else 0


# ---- the killing ----


def start_driver(job: Path, address: str, seconds: float, retry_failed: bool = False) -> subprocess.Popen[bytes]:
    options = ["--retry-failed"] if retry_failed else []
    words = [sys.executable, __file__, "--drive", str(job), address, "--pause", str(seconds), *options]
    with job.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, cwd=REPO)


def ray_workers(cluster: Any) -> list[int]:
    """Process ids of the cluster's Ray workers: children of its raylets, actors and idle ones."""
    raylets = set()
    for node in cluster.list_all_nodes():
        raylets |= {info.process.pid for info in node.all_processes.get("raylet", [])}
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            name = (status.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # A raylet ends with its agents: that is the loss of a node, which has its own turn.
        if parent in raylets and name.startswith(b"ray::") and b"Agent" not in name:
            found.append(int(status.parent.name))
    return found


def busy_workers(output: Path, cluster: Any) -> list[int]:
    """Of those, the actors of the run in ``output``, by its event logs."""
    pids = set()
    for log in (output / "events").glob("*.jsonl"):
        for line in log.read_text().splitlines():
            if '"worker_started"' in line and line.endswith("}"):
                pids.add(json.loads(line)["pid"])
    return [pid for pid in ray_workers(cluster) if pid in pids]


def disturb(
    job: Path, output: Path, cluster: Any, options: argparse.Namespace, rng: random.Random
) -> tuple[Counter[str], Counter[int]]:
    """Run the job until it is done, killing on the way; returns what was killed, and the drivers' exit codes."""
    killed: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    # Of the batches that the run needs at least, an equal share before each kill and after the last.
    batches = (options.contents * options.styles) // 2 + (options.contents + options.styles) // 2
    share = max(1, batches // (options.kills + 1))
    pace = Pace(job)
    pace.allow(share)
    driver = start_driver(job, cluster.address, options.pause)
    node_at = options.kills // 2 if options.nodes > 1 else -1
    while True:
        time.sleep(rng.uniform(0.2, options.gap))
        enough = killed.total() >= options.kills
        if driver.poll() is not None:
            code = driver.returncode
            codes[code] += 1
            if code == 0:
                return killed, codes
            if code == 3 and not enough:
                print("  pairs were named failed while killing; they are tried again", flush=True)
            if code not in (-signal.SIGKILL, 3, 4):
                raise SystemExit(f"a driver ended with {code}: {job.with_suffix('.log').read_text()[-3000:]}")
            driver = start_driver(job, cluster.address, options.pause, retry_failed=code == 3)
            continue
        if enough:
            pace.end()
            continue
        if killed.total() == node_at and not killed["node"]:
            nodes = cluster.list_all_nodes()
            cluster.remove_node(nodes[-1], allow_graceful=False)
            killed["node"] += 1
            pace.allow(share)
            continue
        actors = busy_workers(output, cluster)
        if not actors:
            continue
        what = rng.choices(["actor", "Ray worker", "driver"], [5, 2, 2])[0]
        if what == "driver":
            driver.kill()
            driver.wait()
        else:
            victims = actors if what == "actor" else ray_workers(cluster)
            try:
                os.kill(rng.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                continue
        killed[what] += 1
        pace.allow(share)
        print(f"  {killed.total()}: {what}", flush=True)


# ---- the comparison ----


def contents_of(output: Path) -> tuple[dict[str, bytes], list[dict[str, Any]], list[str]]:
    """(every picture's bytes by path, all rows of the manifest without timings, files that should not be there)."""
    from pipeline.results.manifest import TIMING_COLUMNS

    pictures = {str(p.relative_to(output)): p.read_bytes() for p in (output / "pictures").rglob("*") if p.is_file()}
    rows: list[dict[str, Any]] = []
    for part in sorted((output / "manifest").glob("*.parquet")):
        rows += pq.read_table(part).drop_columns(list(TIMING_COLUMNS)).to_pylist()
    left = [str(p.relative_to(output)) for p in output.rglob(".*") if p.is_file()]
    return pictures, sorted(rows, key=lambda row: row["pair"]), left


def differences(quiet: Path, disturbed: Path, pairs: int) -> list[str]:
    """What is not as it should be, in words."""
    (a, rows_a, left_a), (b, rows_b, left_b) = contents_of(quiet), contents_of(disturbed)
    found = [f"left over: {name}" for name in left_a + left_b]
    if len(rows_a) != pairs or any(row["status"] != "ok" for row in rows_a):
        found.append(f"the quiet run has {len(rows_a)} rows of {pairs} pairs")
    if len({row["pair"] for row in rows_b}) != len(rows_b):
        found.append("a pair has two rows")
    if rows_a != rows_b:
        found.append(f"the manifests differ: {len(rows_a)} and {len(rows_b)} rows")
    found += [f"only in one: {name}" for name in sorted(set(a) ^ set(b))]
    found += [f"other bytes: {name}" for name in sorted(set(a) & set(b)) if a[name] != b[name]]
    return found


def trial(options: argparse.Namespace, folder: Path) -> str:
    """One quiet and one disturbed run; returns a sentence, or ends the program where the outputs differ."""
    from ray.cluster_utils import Cluster

    pairs = options.contents * options.styles
    quiet_job = write_job(folder, "quiet", options.contents, options.styles)
    command = [sys.executable, "-m", "pipeline", "run", str(quiet_job), "--local", "--quiet"]
    quiet_log = quiet_job.with_suffix(".log")
    with quiet_log.open("wb") as log:
        quiet = subprocess.Popen(command, stdout=log, stderr=log, cwd=REPO)  # while the cluster starts
    cluster = Cluster()
    try:
        for number in range(options.nodes):
            cpus = -(-options.actors // options.nodes) + (number == 0)
            cluster.add_node(num_cpus=cpus, object_store_memory=100 << 20, include_dashboard=False)
        if code := quiet.wait():
            raise SystemExit(f"the quiet run ended with {code}: {quiet_log.read_text()[-3000:]}")
        settings = {"actors": options.actors, "tile_seconds": 4 * options.pause}
        job = write_job(folder, "disturbed", options.contents, options.styles, **settings)
        begun = time.monotonic()
        killed, codes = disturb(job, folder / "disturbed", cluster, options, random.Random(options.seed))
        seconds = time.monotonic() - begun
    finally:
        quiet.kill()
        cluster.shutdown()
    found = differences(folder / "quiet", folder / "disturbed", pairs)
    if found:
        raise SystemExit("\n".join(["the outputs differ:", *found[:20]]))
    retried = f", {codes[3]} of them with --retry-failed" if codes[3] else ""
    what = ", ".join(f"{n} {name}{'s' if n > 1 else ''}" for name, n in killed.most_common())
    return (
        f"{pairs} pairs on {options.actors} actors, {options.nodes} node{'s' if options.nodes > 1 else ''}: "
        f"{killed.total()} kills ({what}), {codes.total() - 1} restarts of the driver{retried}, {seconds:.0f} s; "
        f"all {pairs} pictures and all rows of the manifest equal those of a quiet run in one process, nothing left "
        "over."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contents", type=int, default=20)
    parser.add_argument("--styles", type=int, default=10)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--actors", type=int, default=3)
    parser.add_argument("--nodes", type=int, help="nodes of the Ray cluster; more than one: one is removed on the way")
    parser.add_argument("--pause", type=float, default=0.4, help="seconds that a batch of two pairs takes at least")
    parser.add_argument("--gap", type=float, default=4.0, help="seconds between two kills, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the result between the page's markers")
    parser.add_argument("--drive", nargs=2, metavar=("JOB", "ADDRESS"), help=argparse.SUPPRESS)
    parser.add_argument("--retry-failed", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        sys.exit(drive(*options.drive, options.pause, options.retry_failed))
    lines = []
    for nodes in [options.nodes] if options.nodes else [1, 3]:
        options.nodes = nodes
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            lines.append(f"- {trial(options, Path(name))}")
            print(lines[-1], flush=True)
    if options.write:
        from pipeline.bench.pages import write_between

        text = "\n".join(
            [*lines, "", f"Made by `python benchmarks/chaos.py --write docs/running.md`, {os.cpu_count()} cores."]
        )
        write_between(options.write, MARKERS, text)


if __name__ == "__main__":
    main()
