"""Plans: what happens at which timestep, without a model."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from math import log2

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffstyle.injection import Injection, aligned_plan, event_timesteps, grid_plan
from diffstyle.plan import inversion_plan, sampling_plan
from diffstyle.schedule import a_at, alphas_cumprod, nearest, sigma_at, timesteps

KEPT = inversion_plan(50).kept


def test_the_schedule_falls_from_almost_one_to_almost_zero():
    a = alphas_cumprod()
    assert a.shape == (1000,)
    assert (a[1:] < a[:-1]).all()
    assert a_at(-1) == 1
    assert a_at(0) == pytest.approx(1 - 1e-4, abs=1e-7)
    assert 0 < a_at(999) < 1e-4


@given(st.integers(2, 1000))
def test_timesteps_rise_from_0_to_t_0(n):
    grid = timesteps(n)
    assert len(set(grid)) == len(grid) == n
    assert (grid[0], grid[-1]) == (0, 999)
    assert list(grid) == sorted(grid)


@pytest.mark.parametrize("n", [0, 1, 1001])
def test_timesteps_refuse_what_is_no_grid(n):
    with pytest.raises(ValueError, match=r"2 \.\. 1000"):
        timesteps(n)


def test_a_tie_goes_to_the_larger_timestep():
    assert nearest(10, [0, 5, 15, 30]) == 15
    assert nearest(999, [0, 978]) == 978


def test_an_inversion_never_calls_the_network_at_t_0():
    plan = inversion_plan(50)
    assert plan.encodes == plan.decodes == 49
    assert plan.kept == timesteps(50)[:-1]
    assert plan.steps[-1].t_next == 999
    with pytest.raises(ValueError, match="does not visit"):
        inversion_plan(50, keep=[1])


def test_a_second_order_inversion_looks_closer_at_the_first_interval():
    plan = inversion_plan(50, order=2)
    assert plan.kept == inversion_plan(50).kept
    assert [step.t for step in plan.steps][:6] == [0, 2, 5, 9, 14, 20]
    assert plan.encodes == 53
    assert inversion_plan(1000, order=2).encodes == 999
    for one, other in zip(plan.steps, plan.steps[1:], strict=False):
        assert one.t_next == other.t > one.t


def test_sampling_begins_at_t_0_and_ends_at_the_picture():
    plan = sampling_plan(20, keep=[999, 0])
    assert plan.steps[0].t == 999
    assert plan.steps[-1].t_next == -1
    assert plan.kept == (999, 0)


def walk_is_whole(plan):
    """Every step begins where the one before ended; the last ends at the picture."""
    assert plan.steps[0].t == 999
    assert plan.steps[-1].t_next == -1
    for one, other in zip(plan.steps, plan.steps[1:], strict=False):
        assert one.t_next == other.t < one.t


injections = st.builds(
    Injection,
    st.integers(2, 120).map(event_timesteps),
    t_edit=st.integers(0, 999),
    t_start=st.just(999) | st.integers(0, 999),
    t_boost=st.integers(0, 999),
    dt_lambda=st.sampled_from([1.0, 0.9985]),
    calibrate=st.booleans(),
)


@given(injections, st.integers(2, 1000))
def test_every_event_fires_on_every_grid(injection, n):
    plan = grid_plan(injection, KEPT, n)
    walk_is_whole(plan)
    visited = {step.t for step in plan.steps}
    assert set(injection.events) <= visited
    assert set(plan.injections) == {t for t in injection.events if injection.t_edit <= t <= injection.t_start}
    assert set(plan.noise_timesteps) == {t for t in injection.events if 0 < t <= injection.t_boost}
    assert plan.decodes - plan.encodes == len(plan.injections)
    assert set(plan.content_timesteps) <= set(KEPT)


@given(injections, st.integers(1, 6), st.integers(1, 100))
def test_the_aligned_plan_keeps_what_acts_and_its_step_length(injection, between, tail):
    aligned = aligned_plan(injection, KEPT, between, tail)
    reference = grid_plan(injection, KEPT, 1000)
    walk_is_whole(aligned)
    assert {step for step in reference.steps if step.jumps} <= set(aligned.steps)
    # A calibrated event has already changed the picture when its plain step begins, which may then be a long one.
    longer = {replace(step, t_next=0, order=1) for step in aligned.steps}
    assert {replace(step, t_next=0) for step in reference.steps if step.calibrate} <= longer


@given(injections)
def test_only_plain_steps_are_of_second_order(injection):
    aligned = aligned_plan(injection, KEPT)
    assert all(step.order == (1 if step.jumps else 2) for step in aligned.steps)
    assert aligned_plan(injection, KEPT, order=1).order == grid_plan(injection, KEPT).order == 1


@given(injections, st.integers(1, 3), st.integers(1, 30), st.integers(2, 12))
def test_a_carried_jump_leaves_out_one_call_and_nothing_that_happens(injection, between, tail, measured):
    carrying = aligned_plan(injection, KEPT, between, tail, measured=measured)
    every = aligned_plan(injection, KEPT, between, tail)
    walk_is_whole(carrying)
    assert carrying.carries_what_it_measured
    assert (carrying.injections, carrying.noise_timesteps) == (every.injections, every.noise_timesteps)

    def what_happens(plan):
        return [replace(step, t_next=0, order=1, carry=False) for step in plan.steps if step.jumps or step.calibrate]

    assert what_happens(carrying) == what_happens(every)
    # At most the call at timestep 0 is left out besides.
    assert every.encodes - len(carrying.carried) - carrying.encodes in ((0, 1) if carrying.carried else (0,))
    by_t = {step.t: step for step in carrying.steps}
    carried = [by_t[t] for t in carrying.carried]
    assert not any(step.noise or step.direction != 1 for step in carried)
    assert all(step.order == 2 for step in carried)
    alike = [step.t for step in every.steps if step.content_t is not None and not step.noise and step.direction == 1]
    if alike:
        assert not {alike[0], alike[-1]} & set(carrying.carried)
    if not carrying.carried:
        assert carrying == every


@given(injections, st.integers(1, 2), st.integers(1, 30), st.integers(1, 6), st.integers(3, 12))
def test_doubled_gaps_change_nothing_that_happens(injection, between, tail, doubled, more):
    plan = aligned_plan(injection, KEPT, between, tail, measured=doubled + more, doubled=doubled)
    every = aligned_plan(injection, KEPT, between, tail)
    walk_is_whole(plan)
    assert plan.carries_what_it_measured

    def what_happens(plan):
        usual = {"t_next": 0, "order": 1, "carry": False, "mean_of": 1, "correct": False}
        return [replace(step, **usual) for step in plan.steps if step.jumps or step.calibrate]

    assert what_happens(plan) == what_happens(every)
    assert not any(step.jumps or step.carry or step.order < 2 for step in plan.steps if step.correct)
    alike = [step.t for step in every.steps if step.content_t is not None and not step.noise and step.direction == 1]
    corrected = {step.t for step in plan.steps if step.correct and alike and step.t <= alike[0]}
    dense = [t for t in alike if t > min(corrected, default=1000)]
    assert not {*dense, *alike[-2:]} & set(plan.carried)
    # From the first injection down all plain steps are corrected, until none is.
    plain = [step.t for step in plan.steps if not step.jumps and alike and step.t <= alike[0]]
    assert set(plain[: len(corrected)]) == corrected
    assert all(step.mean_of == (2 if step.carry else 1) for step in plan.steps)


def test_above_where_injection_starts_steps_are_short_at_first_and_then_even_in_noise():
    late = Injection(event_timesteps(50), t_edit=160, t_start=500)
    for between in (1, 2):
        plan = aligned_plan(late, KEPT, between)
        above = [step for step in plan.steps if step.t > plan.injections[0]]
        assert all(step.content_t is None and step.order == 2 for step in above)
        first, then = ([step for step in above if (step.t > 897) is noisy] for noisy in (True, False))
        assert len(first) == 5 * between
        assert all(abs((step.t - step.t_next) * between - 20.4) < 2 for step in first)
        halvings = [log2(sigma_at(step.t) / sigma_at(step.t_next)) for step in then]
        assert all(0.85 < 3 * between * fallen < 1.15 for fallen in halvings)
        assert [step.t for step in plan.steps if step.correct] == [999]
        assert not any(step.correct for step in aligned_plan(late, KEPT, between, order=1).steps)
    # The gaps between its injections are those of any other plan.
    below = [step.t for step in plan.steps if step.t <= plan.injections[0]]
    whole = aligned_plan(Injection(event_timesteps(50), t_edit=160), KEPT, 2)
    assert below == [step.t for step in whole.steps if step.t <= plan.injections[0]]


def test_a_plan_needs_no_torch():
    """Importing it takes a second, in which a command on a finished job has answered."""
    code = (
        "import sys; from diffstyle.injection import Injection, aligned_plan, event_timesteps as events;"
        "aligned_plan(Injection(events(50), 160, t_start=400), events(50)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_schedule_is_the_references_to_the_bit():
    betas = torch.from_numpy(np.linspace(1e-4, 0.02, 1000)).float()
    assert torch.equal(alphas_cumprod(), (1 - betas).cumprod(0))


def test_where_gaps_are_doubled():
    how = {"between": 1, "tail": 17, "measured": 14, "doubled": 5}
    plan = aligned_plan(Injection(event_timesteps(50)), KEPT, **how)
    number = {t: n for n, t in enumerate(plan.injections)}
    measured = {0, 1, 2, 3, 4, 5, 6, 9, 11, 15, 19, 23, 28, 29}
    assert set(range(30)) - {number[t] for t in plan.carried} == measured
    assert (plan.encodes, plan.decodes) == (65, 95)
    assert [step.t for step in plan.steps if step.correct] == [998, 988, 977, 967, 957, 947, 936, 926, 916, 906]
    for bad in ({"measured": 6, "doubled": 4}, {"doubled": 4}):
        with pytest.raises(ValueError, match="at least 7"):
            aligned_plan(Injection(event_timesteps(50)), KEPT, **bad)


@pytest.mark.parametrize(("events", "each"), [(25, 4), (50, 2), (100, 1), (200, 1)])
def test_doubled_gaps_reach_as_far_down_with_more_events(events, each):
    plan = aligned_plan(Injection(event_timesteps(events)), KEPT, between=1, tail=17, measured=14, doubled=5)
    steps = [step.t for step in plan.steps if step.correct]
    assert 880 < min(steps) < 910
    second_injection = plan.injections[1]
    assert sum(t >= second_injection for t in steps) == each
    if 50 <= events <= 100:
        # As many calls beside those at the injections.
        assert plan.encodes - len(plan.injections) == 35


def test_where_the_jump_is_measured():
    plan = aligned_plan(Injection(event_timesteps(50)), KEPT, between=1, tail=9, measured=8)
    number = {t: n for n, t in enumerate(plan.injections)}
    assert set(range(30)) - {number[t] for t in plan.carried} == {0, 1, 2, 5, 9, 15, 21, 29}
    assert (plan.encodes, plan.decodes) == (46, 76)
    # Where content is injected further down, all but the last lie where they were.
    lower = aligned_plan(Injection(event_timesteps(50), t_edit=160), KEPT, between=1, tail=9, measured=8)
    number = {t: n for n, t in enumerate(lower.injections)}
    assert set(range(42)) - {number[t] for t in lower.carried} == {0, 1, 2, 5, 9, 15, 21, 41}
    assert lower.encodes == 58
    with pytest.raises(ValueError, match="carried by order 2"):
        aligned_plan(Injection(event_timesteps(50)), KEPT, order=1, measured=8)
    with pytest.raises(ValueError, match="from 2 measured"):
        aligned_plan(Injection(event_timesteps(50)), KEPT, measured=1)


def test_plans_without_carried_jumps_are_written_as_before():
    """A plan is part of each pair's identity: results of before must keep theirs."""
    steps = aligned_plan(Injection(event_timesteps(50)), KEPT).to_dict()["steps"]
    assert list(steps[0]) == ["t", "t_next", "keep", "content_t", "noise", "calibrate", "direction", "order"]
    carrying = aligned_plan(Injection(event_timesteps(50)), KEPT, measured=8)
    assert sum("carry" in step for step in carrying.to_dict()["steps"]) == len(carrying.carried) == 22


def test_the_aligned_plan_takes_about_a_tenth_of_the_calls():
    plan = aligned_plan(Injection(event_timesteps(50)), KEPT, between=2, tail=20)
    assert 100 <= plan.encodes <= 112


def test_calibration_calls_the_network_once_more_at_each_injection_and_replaces_dt_lambda():
    events = event_timesteps(50)
    plain = grid_plan(Injection(events, dt_lambda=0.9985), KEPT, 50)
    calibrated = grid_plan(Injection(events, dt_lambda=0.9985, calibrate=True), KEPT, 50)
    assert calibrated.encodes == plain.encodes + len(plain.injections)
    assert {step.direction for step in plain.steps if step.t >= 950} == {0.9985}
    assert {step.direction for step in calibrated.steps} == {1.0}


def test_a_plan_needs_an_h_to_inject():
    with pytest.raises(ValueError, match="no h"):
        grid_plan(Injection(event_timesteps(50)), [], 50)
