"""Every word of a job about its steps reaches the plan."""

from __future__ import annotations

import pytest

from diffstyle.injection import Injection, aligned_plan, event_timesteps, grid_plan
from diffstyle.schedule import timesteps
from pipeline.jobfile.schema import Job
from pipeline.stages.recipe import injection_plan, needed_h
from pipeline.stages.walk import Walk

WALK = Walk(60, t_0=900)
KNOBS = {"t_edit": 500, "t_start": 800, "t_boost": 150, "dt_lambda": 0.99, "dt_end": 700}


def job(plan, walk=WALK, **changes) -> Job:
    return Job(model="m", output="o", content="c", style="s", injection={"plan": plan, **KNOBS, **changes})


def planned(plan, **changes):
    (settings,) = job(plan, **changes).settings()
    return injection_plan(settings, WALK)


def injection(events, calibrate=False) -> Injection:
    return Injection(events, 500, 150, 0.99, 700, calibrate=calibrate, t_start=800)


EVENTS = event_timesteps(20, 900)


@pytest.mark.parametrize("omega", [0, 0.01, 2])
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"between": 1, "tail": 9, "order": 1}, {"between": 1, "tail": 9, "order": 1}),
        ({"between": 3, "tail": 5}, {"between": 3, "tail": 5, "order": 2}),
        ({}, {"between": 2, "tail": 20, "order": 2}),
        ({"measured": 4}, {"between": 2, "tail": 20, "order": 2, "measured": 4}),
        (
            {"measured": 7, "doubled": 3, "between": 1},
            {"between": 1, "tail": 20, "order": 2, "measured": 7, "doubled": 3},
        ),
    ],
)
def test_an_aligned_plan(written, expected, omega):
    plan = planned({"aligned": written}, events=20, omega=omega)
    assert plan == aligned_plan(injection(EVENTS, omega > 0), WALK.grid, t_0=900, **expected)


@pytest.mark.parametrize("n", [20, 77, 901, 1000])
def test_a_grid(n):
    expected = grid_plan(injection(EVENTS), WALK.grid, min(n, 901), 900)
    assert planned({"grid": n}, events=20) == expected
    every = grid_plan(injection(timesteps(min(n, 901), 900)), WALK.grid, min(n, 901), 900)
    assert planned({"grid": n}, events="every") == every


def test_plans_by_name():
    assert planned("reference", events=20) == planned({"grid": 1000}, events=20)
    assert planned("balanced", events=20) == planned({"aligned": {"between": 2, "tail": 20}}, events=20)
    assert planned("fast", events=20) == planned({"aligned": {"between": 1, "tail": 9, "measured": 8}}, events=20)


def test_measured_is_part_of_the_settings_only_where_it_is_said():
    """Pairs of before there was such a word keep their identity; those of ``fast`` have another plan now."""
    (balanced,), (fast,) = job("balanced").settings(), job("fast").settings()
    assert balanced.to_dict()["plan"] == {"aligned": {"between": 2, "tail": 20, "order": 2}}
    assert fast.to_dict()["plan"] == {"aligned": {"between": 1, "tail": 9, "order": 2, "measured": 8}}


def test_a_bank_keeps_what_any_point_of_the_sweep_reads():
    (settings,) = job("fast", events=20).settings()
    assert needed_h(job("fast", events=20), WALK) == injection_plan(settings, WALK).content_timesteps
    assert needed_h(Job(model="m", output="o", content="c", style="s", bank={"keep": "all"}), WALK) == WALK.grid
