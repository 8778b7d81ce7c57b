"""What a run hands to Ray's metrics, without an endpoint to serve them."""

from __future__ import annotations

import pytest
from support.whole_jobs import SIX_PAIRS, run_job

import diffstyle.sampling
from pipeline.monitoring.prometheus import METRICS, Metrics
from pipeline.workers.unit import Timing


class Recorder:
    """In place of Ray's counters and histograms."""

    made: dict[str, Recorder] = {}  # noqa: RUF012 - one for all, emptied by the fixture

    def __init__(self, name: str, description: str, boundaries: list[float] | None = None) -> None:
        self.description, self.boundaries, self.values = description, boundaries, []
        self.made[name] = self

    def inc(self, value: float) -> None:
        self.values.append(value)

    observe = inc


@pytest.fixture
def recorded(monkeypatch) -> dict[str, Recorder]:
    Recorder.made.clear()
    for kind in ("Counter", "Histogram"):
        monkeypatch.setattr(f"ray.util.metrics.{kind}", Recorder)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    return Recorder.made


def values(recorded: dict[str, Recorder]) -> dict[str, list[float]]:
    return {name.removeprefix("diffstyle_"): one.values for name, one in recorded.items()}


def test_figures_of_a_tile(recorded):
    metrics = Metrics()
    assert recorded == {}  # nothing is asked of Ray before there is something to say
    metrics.pairs(6, 2, Timing(load=1, queued=0.25, compute=40, save=3), 400)
    metrics.pairs(0, 0, Timing(queued=0.5), 0)
    assert values(recorded) == {
        "pairs_done": [6],
        "pairs_failed": [2],
        "seconds_per_step": [0.1],
        "waiting_seconds": [0.25, 0.5],
    }
    assert {name: one.description for name, one in recorded.items()} == METRICS
    for one in recorded.values():
        assert one.boundaries is None or one.boundaries == sorted(one.boundaries)


def test_without_ray_nothing_is_asked_of_it(recorded, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    Metrics().pairs(6, 2, Timing(compute=40), 400)
    assert recorded == {}


def test_a_run_counts_its_pairs(recorded, monkeypatch, tmp_path):
    real, made = diffstyle.sampling.inject, [0]

    def one_fails(*arguments, **options):
        results = real(*arguments, **options).clone()
        if made[0] == 0:
            results[0] = float("nan")
        made[0] += len(results)
        return results

    monkeypatch.setattr(diffstyle.sampling, "inject", one_fails)
    run_job(tmp_path, **SIX_PAIRS)
    counted = values(recorded)
    assert (sum(counted["pairs_done"]), sum(counted["pairs_failed"])) == (5, 1)
