"""What the engine itself costs, without a network: pairs planned, run, resumed, shown and pruned, and without pictures;
then scored, verified, reported and selected, with pictures of 16 bytes in tars.

python benchmarks/engine_bench.py --write docs/running.md
python benchmarks/engine_bench.py --table after --write docs/running.md
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from diffstyle.errors import ConfigError
from diffstyle.injection import Injection, grid_plan
from pipeline.bench.pages import publish
from pipeline.bench.peak import peak_mib
from pipeline.jobfile.injection import InjectionSettings
from pipeline.jobfile.schema import Job, Pictures
from pipeline.monitoring.status import read_status, write_plan
from pipeline.results.manifest import Manifest, manifest_rows
from pipeline.results.pictures import Encoded, write_pictures
from pipeline.results.prune import drop_leavings, find_leavings
from pipeline.results.report.tables import MOST_PAIRS, read_tables
from pipeline.results.retention import Wanted
from pipeline.results.scores import SCORES, Scores
from pipeline.results.select.choose import Rules, choose
from pipeline.results.sheet_rows import sheet_rows
from pipeline.results.verify import check_results
from pipeline.stages import score
from pipeline.stages.inject import PairPlan, all_remaining, inject_stage, units
from pipeline.stages.inject_unit import InjectUnit
from pipeline.stages.masks import Masks
from pipeline.stages.pairs import Entries, wanted_pairs
from pipeline.stages.recipe import Recipe
from pipeline.stages.score import ScoreUnit, Unscored, score_stage
from pipeline.stages.walk import Walk
from pipeline.storage import merging
from pipeline.storage.pair_ids import PairIds
from pipeline.storage.place import Place
from pipeline.workers.local import LocalWorkers

MARKERS = {
    "engine": ("<!-- engine_bench: begin -->", "<!-- engine_bench: end -->"),
    "after": ("<!-- engine_bench after: begin -->", "<!-- engine_bench after: end -->"),
}
SIZES = {"10k": (100, 100), "100k": (1_000, 100), "1M": (10_000, 100), "10M": (100_000, 100)}  # contents, styles
PHASES = {
    "engine": ("plan", "run", "resume", "status", "sheets", "prune"),
    "after": ("make", "score", "score again", "verify", "report", "select"),
}
HIDDEN = "make"  # writes what the phases after it read
USUAL = {"engine": ("100k", "1M", "10M"), "after": ("100k", "1M")}  # pictures of ten million pairs are 25 GB
PER_TILE = 1000


class BareUnit(InjectUnit):
    """A tile whose pictures cost nothing: no reading, no network, no files; rows as a real one has them."""

    def load(self) -> Any:
        return None

    def compute(self, context: Any, loaded: Any) -> Any:
        return [(None, 0.001)] * len(self.pairs)

    def save(self, computed: Any) -> Any:
        rows = []
        for pair, (_, seconds) in zip(self.pairs, computed, strict=True):
            picture = {"picture": f"pictures/{self.recipe.slug}/{pair.name}.png", "picture_hash": pair.id}
            rows.append({**self.row(pair, seconds), **picture, "status": "ok", "picture_bytes": 100_000})
        return manifest_rows(rows), []


class BareScores(ScoreUnit):
    """A unit of scoring that reads no picture and asks no network."""

    def load(self) -> Any:
        return [], {}

    def compute(self, model: Any, loaded: Any) -> list[dict[str, Any]]:
        rows = self.rows([np.zeros(0)] * len(self.pairs))
        for row in rows:
            hashed = bytes.fromhex(row["pair"])
            row |= {**dict.fromkeys(SCORES, hashed[0] / 255), "phash": hashed[:8], "seconds": 0.001}
        return rows


def side(name: str, n: int) -> Entries:
    rows = []
    for i in range(n):
        image = hashlib.blake2b(f"{name}{i}".encode(), digest_size=16).hexdigest()
        about = {"key": f"{name}-{i:06d}-{image[:12]}", "image": image, "source": f"/data/{name}/{i:06d}.jpg"}
        rows.append({**about, "source_hash": image, "label": None, "caption": None, "meta": None})
    return Entries(rows)


def asked(contents: int, styles: int) -> PairPlan:
    """What a job of so many contents and styles wants."""
    job = Job.model_validate({"model": "tiny", "output": "out", "content": {"any": "c"}, "style": {"any": "s"}})
    (settings,) = job.settings()
    assert isinstance(settings, InjectionSettings)
    grid = Walk(50).grid
    plan = grid_plan(Injection(tuple(grid[-30:]), 400, 0, 1.0, 950), grid, 50, 999)
    recipe = Recipe(settings, plan, (0.3,), Masks(), digest="0" * 32, slug="gamma-0.3-00000000")
    sides = side("content", contents), side("style", styles)
    return PairPlan([recipe], *sides, wanted_pairs(job, *sides))


def phase(name: str, root: str, contents: int, styles: int) -> None:
    """One phase in a process of its own; prints its seconds and its memory at its peak."""
    output = Place.parse(root)
    manifest = Manifest(output)
    if name in PHASES["after"]:
        took = after(name, output, contents, styles)
        files = len(manifest.store.index_folder.list()) + len(Scores(output).store.index_folder.list())
        print(json.dumps({**took, "memory": peak_mib(), "files": files}))
        return
    if name == "run":
        from pipeline.workers.ray_cluster import start_ray
        from pipeline.workers.ray_pool import RayPool
        from pipeline.workers.unit import Resources

        start_ray()
        pool = RayPool(2, None, Resources(num_cpus=0.5))
        (output / "job.yaml").write_bytes(b"{}")
    begun, worked = time.perf_counter(), time.process_time()
    if name == "status":
        said = read_status(output)
        assert (said.done, said.left) == (contents * styles, 0)
    elif name == "sheets":
        assert sheet_rows(manifest).n_pairs == contents * styles
    elif name == "prune":
        left = asked(contents - contents // 10, styles)
        wanted = Wanted(PairIds(*(ids for recipe in left.recipes for ids in left.ids(recipe))))
        drop_leavings(manifest, find_leavings(manifest, wanted), wanted)
        assert manifest.counts() == (len(left), 0)
    else:
        plan = asked(contents, styles)
        manifest.open()
        (work,) = all_remaining(plan, manifest.known())
        tiles = _tiles(work, plan, output)
        if name == "resume":
            assert work.n_done == contents * styles
            assert not list(tiles)
        elif name == "plan":
            assert sum(len(unit.pairs) for unit in tiles) == contents * styles
        else:
            write_plan(output, lambda *_, **__: None, len(plan), (0, 0), (0, 0))
            with pool:
                inject_stage(pool, manifest, tiles, lambda *_: None)
    took = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - worked}
    print(json.dumps({**took, "memory": peak_mib(), "files": len(manifest.store.index_folder.list())}))


def after(name: str, output: Place, contents: int, styles: int) -> dict[str, float]:
    """A phase after the pictures; returns its seconds."""
    manifest, scores = Manifest(output), Scores(output)
    if name == "make":
        _make(manifest, asked(contents, styles))
    begun, worked = time.perf_counter(), time.process_time()
    if name in ("score", "score again"):
        scores.open({"model_fingerprint": "of a stand-in"})
        todo = Unscored(manifest, scores.scored())
        assert len(todo) == (contents * styles if name == "score" else 0)
        with mock.patch.object(score, "ScoreUnit", BareScores), LocalWorkers().decoders() as pool:
            score_stage(pool, scores, todo, [], {}, 256, lambda *_: None)
    elif name == "verify":
        report = check_results(manifest)
        assert (report.pairs, report.problems) == (contents * styles, [])
    elif name == "report":
        shown = min(contents * styles, MOST_PAIRS)  # of more it is refused
        with contextlib.nullcontext() if shown == contents * styles else contextlib.suppress(ConfigError):
            assert len(read_tables(output).pairs) == shown
    elif name == "select":
        chosen = choose(output, Rules(where="edges > 0.5", best="edges", per_style=5), whole=True)
        assert len(chosen.table) == 5 * styles
    return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - worked}


def _make(manifest: Manifest, plan: PairPlan) -> None:
    manifest.open()
    (work,) = all_remaining(plan, manifest.known())
    for n, unit in enumerate(_tiles(work, plan, manifest.output), 1):
        pictures = [Encoded(pair.name, bytes.fromhex(pair.id), {**unit.row(pair, 0.001), "status": "ok"})
                    for pair in unit.pairs]  # fmt: skip
        rows = write_pictures(manifest.output, Pictures(to="webdataset"), "", unit.name, pictures)
        manifest.commit(unit.name, rows)
        if n % merging.MANY == 0:
            manifest.merge_small()
    manifest.merge_small()


def _tiles(work: Any, wanted: PairPlan, output: Place) -> Iterator[BareUnit]:
    shared = {"settings": "0" * 32, "gamma": 0.3, "t_edit": 400, "model": "stand-in", "model_fingerprint": "0" * 32}
    shared |= {"plan": '{"grid":50}', "network_calls": 50, "precision": "float32", "algorithm": 1}
    for unit in units(
        work,
        wanted,
        shared,
        output=output,
        content_bank=output,
        style_bank=output,
        pictures=Pictures(),
        size=lambda left: PER_TILE,
    ):
        yield BareUnit(**vars(unit))


def measure(
    sizes: Sequence[str], phases: Sequence[str], folder: Path, at_most: int | None
) -> dict[str, dict[str, dict[str, float]]]:
    """Size -> phase -> what it took; ``at_most`` so many are added to those noted in ``folder``."""
    notes = folder / "measured.json"
    measured: dict[str, dict[str, dict[str, float]]] = json.loads(notes.read_text()) if notes.exists() else {}
    for size, name in itertools.product(sizes, phases):
        contents, styles = SIZES[size]
        if name in measured.setdefault(size, {}) or at_most == 0:
            continue
        (folder / size).mkdir(parents=True, exist_ok=True)
        words = [sys.executable, __file__, "--phase", name, str(folder / size), str(contents), str(styles)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        measured[size][name] = json.loads(done.stdout.splitlines()[-1])
        print(size, name, measured[size][name], flush=True)
        notes.write_text(json.dumps(measured))
        at_most = None if at_most is None else at_most - 1
    return measured


def table(measured: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """The lines of the page; the straight line goes through nothing and the size before."""
    yield "| pairs | images | | s | CPU s | CPU us a pair | to a straight line | memory, MB | files |"
    yield "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    before: dict[str, float] = {}
    for size, phases in measured.items():
        contents, styles = SIZES[size]
        n = contents * styles
        shown = {name: one for name, one in phases.items() if name != HIDDEN}
        for name, one in shown.items():
            each = one["cpu"] / n * 1e6
            ratio = f"{each / before[name]:.2f}" if name in before else ""
            before[name] = each
            first = f"{n:,} | {contents + styles:,}" if name == next(iter(shown)) else " | "
            took = f"{one['seconds']:.1f} | {one['cpu']:.1f} | {each:.1f}"
            yield f"| {first} | {name} | {took} | {ratio} | {one['memory']:.0f} | {one['files']:,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=PHASES, default="engine", help="which phases; default: engine")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="default: 100k to 10M, after the pictures to 1M")
    parser.add_argument("--folder", type=Path, help="where to work, and to go on later; by default a temporary folder")
    parser.add_argument("--at-most", type=int, metavar="N", help="measure N phases and stop; needs --folder")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the page's markers")
    parser.add_argument("--phase", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        name, root, contents, styles = options.phase
        phase(name, root, int(contents), int(styles))
        return
    phases = PHASES[options.table]
    sizes = options.sizes or USUAL[options.table]
    with tempfile.TemporaryDirectory() as temporary:
        measured = measure(sizes, phases, options.folder or Path(temporary), options.at_most)
    if any(set(phases) - set(measured[size]) for size in sizes):
        return
    rows = table({size: {name: measured[size][name] for name in phases} for size in sizes})
    given = f" --sizes {' '.join(options.sizes)}" if options.sizes else ""
    if options.table == "after":
        lines = [
            f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end; pictures of 16 bytes, "
            f"{PER_TILE} in a tar. `score` asks no network, computes its units of 256 pairs itself; `report` gathers "
            "its tables and draws nothing; `select` is `--where 'edges > 0.5' --best edges --per-style 5`. "
            "Files are those in `manifest/` and `scores/`.",
            "",
            *rows,
            "",
            f"Made by `python benchmarks/engine_bench.py --table after{given} --write docs/running.md`.",
        ]
        publish(lines, options.write, MARKERS["after"])
        return
    lines = [
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end; 2 workers, whose start is in "
        f"the seconds of the run, and {PER_TILE} pairs a tile. CPU seconds and memory are the driver's, all that "
        "its process ever held; a straight line goes through the size before; files are those in `manifest/`. "
        "Prune drops a tenth of the contents.",
        "",
        *rows,
        "",
        f"Made by `python benchmarks/engine_bench.py{given} --write docs/running.md`.",
    ]
    publish(lines, options.write, MARKERS["engine"])


if __name__ == "__main__":
    main()
