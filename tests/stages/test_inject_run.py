"""Whole runs on real Ray workers: a pair that kills them, a full disk, any number of them."""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.waiting import wait_for
from support.whole_jobs import CONTENTS, STYLES, job_file, manifest

from pipeline.jobfile.load import load_job
from pipeline.monitoring.prometheus import METRICS
from pipeline.results.manifest import TIMING_COLUMNS
from pipeline.runner.api import carry_out
from pipeline.runner.run import Options, Run
from pipeline.storage.errors import Stopped
from pipeline.workers.ray_workers import RayWorkers

JOB = {
    "content": {"folder": str(CONTENTS), "limit": 3},
    "style": {"folder": str(STYLES), "limit": 3},
    "inversion": {"steps": 4},
    "injection": {"gamma": 0.6, "t_edit": 400, "events": 2, "plan": {"grid": 4}},
}


@pytest.fixture(autouse=True, scope="module")
def by_value(ray_session):
    """The stand-ins of this module travel as they are: workers can't import a test."""
    ray_session.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray_session.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def shards_and_banks(tmp_path_factory, by_value) -> Path:
    """What the runs of this module begin with."""
    folder = tmp_path_factory.mktemp("banks")
    go(folder, ["shard", "precompute"], actors=1)
    return folder / "out"


def go(folder: Path, stages: list[str], open_model: Any = None, banks: Path | None = None, **compute: Any) -> Run:
    changes = dict(JOB)
    if banks is not None:
        changes |= {side: {"bank": str(banks / "banks" / side)} for side in ("content", "style")}
    compute = {"device": "cpu", "batch": 2, "threads": 1, **compute}
    job = load_job(job_file(folder, compute=compute, **changes))
    with Run(job, Options(quiet=True), RayWorkers(open_model=open_model)) as run:
        for stage in stages:
            carry_out(run, stage)
    return run


@dataclass
class Poison:
    """Opens a worker's model; the injection of one pair, told by its x_T and h, ends the worker at once."""

    style: float
    content: float

    def __call__(self, load: Callable[[], Any]) -> Any:
        import diffstyle.sampling

        real = diffstyle.sampling.inject

        def inject(model: Any, x_T: Any, h: Any, *rest: Any, **options: Any) -> Any:
            for style, content in zip(x_T, h, strict=True):
                if float(style.sum()) == self.style and float(content.sum()) == self.content:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(model, x_T, h, *rest, **options)

        diffstyle.sampling.inject = inject
        return load()


def test_a_pair_that_kills_its_worker_is_named_and_all_else_is_made(tmp_path, shards_and_banks):
    import torch

    from pipeline.banks.reader import LatentBank

    content = LatentBank.open(str(shards_and_banks / "banks" / "content"))[1]
    style = LatentBank.open(str(shards_and_banks / "banks" / "style"))[2]
    sums = float(torch.from_numpy(style.x_t).float().sum()), float(torch.from_numpy(content.h).float().sum())
    run = go(tmp_path, ["inject"], Poison(*sums), shards_and_banks, actors=2)
    assert (run.counts.pairs_made, run.counts.pairs_failed) == (8, 1)
    rows = manifest(tmp_path / "out")
    (failed,) = rows[rows["status"] == "failed"].to_dict("records")
    assert (failed["content_key"], failed["style_key"]) == (content.key, style.key)
    assert failed["error"].startswith("the worker died")
    assert len(rows) == rows["pair"].nunique() == 9
    assert len(list((tmp_path / "out" / "pictures").rglob("*.png"))) == 8


def full_disk(load: Callable[[], Any]) -> Any:
    """Opens a worker's model; no picture can be written there after the first."""
    import errno

    from pipeline.storage.place import Place

    real = Place.write_bytes
    written = []

    def write_bytes(place: Place, data: bytes) -> None:
        if place.path.endswith(".png"):
            written.append(place)
            if len(written) > 3:
                raise OSError(errno.ENOSPC, "No space left on device", place.path)
        real(place, data)

    Place.write_bytes = write_bytes  # type: ignore[method-assign]
    return load()


def test_a_full_disk_stops_the_run_and_any_number_of_workers_goes_on_to_the_same(tmp_path, shards_and_banks):
    with pytest.raises(Stopped, match="No space left on device") as stopped:
        go(tmp_path / "a", ["inject"], full_disk, shards_and_banks, actors=1)
    assert stopped.value.exit_code == 4
    assert "run the job again" in str(stopped.value)
    there = len(manifest(tmp_path / "a" / "out"))
    assert there < 9
    run = go(tmp_path / "a", ["inject"], None, shards_and_banks, actors=1)
    assert (run.counts.pairs_there, run.counts.pairs_made) == (there, 9 - there)
    go(tmp_path / "b", ["inject"], None, shards_and_banks, actors=4, tile_seconds=0.01)
    one, four = (manifest(tmp_path / name / "out").drop(columns=list(TIMING_COLUMNS)) for name in "ab")
    pd.testing.assert_frame_equal(one, four)
    for picture in one["picture"]:
        assert (tmp_path / "a/out" / picture).read_bytes() == (tmp_path / "b/out" / picture).read_bytes()


def test_rays_endpoint_has_the_figures_of_a_run(ray_session, tmp_path, shards_and_banks):
    pytest.importorskip("prometheus_client", reason="Ray serves its metrics only with what ray[default] installs")
    go(tmp_path, ["inject"], None, shards_and_banks, actors=1)
    node = ray_session.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = METRICS.keys() - {"diffstyle_pairs_failed"}  # none did

    def all_are_there() -> bool:
        try:
            text = urllib.request.urlopen(address, timeout=60).read().decode()
        except OSError:  # its agent may be slow to start
            return False
        return all(name in text for name in wanted)

    wait_for(all_are_there, within=300)


def test_a_driver_whose_own_node_was_lost_stops_and_does_not_wait_for_ever(ray_session, monkeypatch):
    """Ray then counts this process as dead: its actors are gone, and new ones are never started."""
    from pipeline.workers.ray_pool import RayPool
    from pipeline.workers.unit import Resources

    class Nothing:
        name = "nothing"

    def lost(ref: Any, **options: Any) -> Any:
        raise ray_session.exceptions.RayActorError(
            error_msg="The actor is dead because its owner has died. Owner Id: 05"
        )

    with RayPool(1, None, Resources(num_cpus=0.1)) as pool:
        monkeypatch.setattr(ray_session, "get", lost)
        with pytest.raises(Stopped, match="Ray node was lost") as stopped:
            list(pool.run([Nothing()]))
    assert stopped.value.exit_code == 4
