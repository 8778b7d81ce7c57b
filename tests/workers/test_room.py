"""What a job asks for against what a cluster has: said, run with fewer, waited for or refused; and nodes that join."""

from __future__ import annotations

import itertools
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support import small_jobs, units
from support.units import Events, Work, check_each_once

from diffstyle.errors import ConfigError
from pipeline.runner import api
from pipeline.runner.run import Run
from pipeline.workers import ray_room
from pipeline.workers.ray_pool import RayPool
from pipeline.workers.ray_room import plan_decoders, plan_workers, room
from pipeline.workers.ray_workers import RayWorkers
from pipeline.workers.unit import Resources


@pytest.fixture
def cluster(monkeypatch):
    """Pretend that the cluster has these nodes, each given by its resources."""
    import ray

    def pretend(*nodes: dict[str, float]) -> None:
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])

    return pretend


FOUR = {"CPU": 16.0, "GPU": 4.0}


def test_eight_gpus_asked_for_and_four_there(cluster, caplog):
    cluster(FOUR)
    assert plan_workers("cuda", 8, None)[1].num_gpus == 0.5
    assert "compute.actors is 8 with a whole GPU each, but the cluster has 4 GPUs: they share them" in caplog.text
    caplog.clear()
    n, each = plan_workers("cuda", 8, None, gpu_share=1.0)
    assert (n, each.num_gpus, room(each)) == (8, 1.0, 4)
    assert "4 of them start now, the others as nodes join" in caplog.text
    with pytest.raises(ConfigError, match=r"8 with a whole GPU each, but the cluster has 4 GPUs \(compute\.if_fewer: "):
        plan_workers("cuda", 8, None, if_fewer="refuse")
    assert plan_workers("cuda", 4, None, if_fewer="refuse")[0] == 4


def test_shares_of_a_gpu(cluster, caplog):
    cluster({"CPU": 4.0, "GPU": 1.0}, FOUR, {"CPU": 64.0})
    n, each = plan_workers("cuda", None, None, gpu_share=0.3)
    assert (n, each.num_gpus, room(each)) == (15, 0.3, 15)
    assert plan_workers("cuda", 15, None, gpu_share=0.3, if_fewer="refuse")[0] == 15
    with pytest.raises(ConfigError, match=r"compute\.actors is 16 with 0\.3 of a GPU each"):
        plan_workers("cuda", 16, None, gpu_share=0.3, if_fewer="refuse")
    assert not caplog.records


def test_a_cluster_that_grows_on_demand_may_have_no_gpu_yet(cluster, caplog):
    cluster({"CPU": 2.0})
    with pytest.raises(ConfigError, match="wait where nodes are yet to come"):
        plan_workers("cuda", 2, None)
    n, each = plan_workers("cuda", 2, None, if_fewer="wait")
    assert (n, each.num_gpus, room(each)) == (2, 1.0, 0)
    assert "0 of them start now" in caplog.text


def test_more_threads_than_cores(cluster, caplog):
    cluster({"CPU": 4.0})
    plan_workers("cpu", 3, 2)
    assert "compute.actors is 3 with 2 threads each, but the cluster has 4 cores: they share them" in caplog.text
    with pytest.raises(ConfigError, match="if_fewer: refuse"):
        plan_workers("cpu", 3, 2, if_fewer="refuse")
    assert plan_workers("cpu", 2, 2, if_fewer="refuse")[0] == 2


def test_decoders_on_nodes_that_declare_it(cluster):
    cluster({"CPU": 8.0, "GPU": 8.0}, {"CPU": 3.0, "decode": 1.0}, {"CPU": 2.0, "decode": 1.0})
    assert plan_decoders(None)[0] == 13
    n, each = plan_decoders("decode")
    assert (n, each.on, room(each)) == (5, "decode", 5)
    with pytest.raises(ConfigError, match=re.escape("""`ray start --resources='{"decoding": 1}'`""")):
        plan_decoders("decoding")


def test_a_job_is_refused_before_anything_is_written(cluster, tmp_path, monkeypatch):
    for side in ("content", "style"):
        small_jobs.picture(tmp_path / side / "1.png", 1)
    workers = RayWorkers("a-cluster:1")
    monkeypatch.setattr(workers, "_start", lambda: None)
    cluster({"CPU": 2.0})
    job = small_jobs.job(tmp_path, compute={"actors": 4, "threads": 1, "if_fewer": "refuse"})
    with pytest.raises(ConfigError, match=r"compute\.actors is 4"):
        Run(job, workers=workers).check(("shard", "precompute", "inject"))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def alone(monkeypatch):
    """This machine has four cores and no GPU, and no Ray runs or may be started."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_room, "cores", lambda: 4)
    monkeypatch.setattr(RayWorkers, "_start", lambda self: pytest.fail("a Ray was started"))


def refused_untouched(folder, stages=("shard", "precompute", "inject"), **compute) -> str:
    """The line of a refusal that changed nothing."""
    for side in ("content", "style"):
        small_jobs.picture(folder / side / "1.png", 1)
    job = small_jobs.job(folder, compute=compute)
    with pytest.raises(ConfigError) as caught:
        api.run(job, stages=stages, quiet=True)
    assert not (folder / "out").exists()
    return str(caught.value)


def test_a_run_without_a_cluster_is_refused_before_its_ray_starts(alone, tmp_path):
    line = refused_untouched(tmp_path, actors=5, threads=1, if_fewer="refuse")
    assert line == (
        "compute.actors is 5 with 1 thread each, but this machine has 4 cores (compute.if_fewer: refuse); ask for "
        "fewer, or run it on a cluster with --address"
    )


@pytest.mark.parametrize("stages", [("shard",), ("shard", "precompute")])
def test_decoders_on_a_machine_without_nodes(alone, tmp_path, stages):
    line = refused_untouched(tmp_path, stages, decode_on="decode")
    assert line.startswith("compute.decode_on is decode, which nodes of a cluster declare")


def test_no_node_joins_a_ray_of_ones_own(alone, caplog, monkeypatch):
    workers = RayWorkers()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"this machine has no GPU; use device: cpu, or --address of a cluster"):
        workers.plan("cuda", 2, None, if_fewer="wait")  # there is nothing to wait for
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert workers.plan("cuda", 3, None, if_fewer="wait")[1].num_gpus == 0.5
    assert workers.plan("cuda", 3, None, gpu_share=1.0, if_fewer="wait")[0] == 2
    assert "this machine has 2 GPUs: 2 of them start" in caplog.text
    assert workers.plan("cpu", 4, 1, if_fewer="refuse") == (4, Resources(num_cpus=1.0, threads=1))


def test_places_that_come_later_are_used(ray_session, monkeypatch, caplog):
    """As when a node joins: the room is looked at again, and more workers start."""
    monkeypatch.setattr(RayPool, "LOOK_EVERY", 0.2)
    places = iter([1, 1])
    events = Events()
    ray_session.cloudpickle.register_pickle_by_value(units)
    small = Resources(num_cpus=0.25, threads=None)
    outcomes: list[Any] = []

    def work() -> Iterator[Work]:
        """There is some to do until all have done some of it, however long they take to start."""
        numbers = itertools.count()
        while {outcome.worker for outcome in outcomes} != {0, 1, 2}:
            yield Work([next(numbers)], seconds=(0, 0.05, 0))

    try:
        with RayPool(1, None, small, on_event=events, room=lambda: next(places, 3)) as pool:
            for outcome in pool.run(work()):
                outcomes.append(outcome)
            check_each_once(outcomes, len(outcomes))
            assert pool.size == 3
    finally:
        ray_session.cloudpickle.unregister_pickle_by_value(units)
    assert events.named("more_workers") == [{"n": 3}]
    assert sys.modules[units.__name__] is units


def test_waiting_is_said(ray_session, monkeypatch, caplog):
    import ray

    monkeypatch.setattr(RayPool, "WARN_EVERY", 0.5)
    wait: Any = ray.wait
    calls = []

    def impatient(refs, num_returns, timeout):
        calls.append(timeout)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return wait(refs, num_returns=num_returns, timeout=1.0)

    monkeypatch.setattr(ray, "wait", impatient)
    with (
        caplog.at_level(logging.WARNING),
        RayPool(1, None, Resources(num_cpus=100, threads=None)) as pool,
        pytest.raises(KeyboardInterrupt),
    ):
        list(pool.run([Work([1])]))
    assert re.search(r"no worker has started for \d+ s: each asks for 100 CPU and 0 GPU", caplog.text)
