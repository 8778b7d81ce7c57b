"""What the engine itself costs: pairs planned, run, resumed, shown and pruned, without a network and without pictures.

python benchmarks/engine_bench.py --write docs/running.md
"""

from __future__ import annotations

import argparse
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

from diffstyle.plan import Injection, grid_plan
from pipeline.bench.pages import publish
from pipeline.bench.peak import peak_mib
from pipeline.jobfile.injection import InjectionSettings
from pipeline.jobfile.schema import Job, Pictures
from pipeline.monitoring.status import read_status, write_plan
from pipeline.results.manifest import Manifest, manifest_rows
from pipeline.results.prune import drop_leavings, find_leavings
from pipeline.results.retention import Wanted
from pipeline.results.sheet_rows import sheet_rows
from pipeline.stages.inject import PairPlan, all_remaining, inject_stage, units
from pipeline.stages.inject_unit import InjectUnit
from pipeline.stages.masks import Masks
from pipeline.stages.pairs import Entries, wanted_pairs
from pipeline.stages.recipe import Recipe
from pipeline.stages.walk import Walk
from pipeline.storage.pair_ids import PairIds
from pipeline.storage.place import Place

MARKERS = ("<!-- engine_bench: begin -->", "<!-- engine_bench: end -->")
SIZES = {"100k": (1_000, 100), "1M": (10_000, 100), "10M": (100_000, 100)}  # contents, styles
PHASES = ("plan", "run", "resume", "status", "sheets", "prune")
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


def measure(sizes: Sequence[str], folder: Path, at_most: int | None) -> dict[str, dict[str, dict[str, float]]]:
    """Size -> phase -> what it took; ``at_most`` so many are added to those noted in ``folder``."""
    notes = folder / "measured.json"
    measured: dict[str, dict[str, dict[str, float]]] = json.loads(notes.read_text()) if notes.exists() else {}
    for size, name in itertools.product(sizes, PHASES):
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
        for name, one in phases.items():
            each = one["cpu"] / n * 1e6
            ratio = f"{each / before[name]:.2f}" if name in before else ""
            before[name] = each
            first = f"{n:,} | {contents + styles:,}" if name == PHASES[0] else " | "
            took = f"{one['seconds']:.1f} | {one['cpu']:.1f} | {each:.1f}"
            yield f"| {first} | {name} | {took} | {ratio} | {one['memory']:.0f} | {one['files']:,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--folder", type=Path, help="where to work, and to go on later; by default a temporary folder")
    parser.add_argument("--at-most", type=int, metavar="N", help="measure N phases and stop; needs --folder")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the page's markers")
    parser.add_argument("--phase", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        name, root, contents, styles = options.phase
        phase(name, root, int(contents), int(styles))
        return
    with tempfile.TemporaryDirectory() as temporary:
        measured = measure(options.sizes, options.folder or Path(temporary), options.at_most)
    if any(set(PHASES) - set(measured[size]) for size in options.sizes):
        return
    lines = [
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end; 2 workers, whose start is in "
        f"the seconds of the run, and {PER_TILE} pairs a tile. CPU seconds and memory are the driver's, all that "
        "its process ever held; a straight line goes through the size before; files are those in `manifest/`. "
        "Prune drops a tenth of the contents.",
        "",
        *table({size: measured[size] for size in options.sizes}),
        "",
        "Made by `python benchmarks/engine_bench.py --write docs/running.md`.",
    ]
    publish(lines, options.write, MARKERS)


if __name__ == "__main__":
    main()
