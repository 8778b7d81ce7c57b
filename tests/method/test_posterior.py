"""Single steps and the marks of a plan against their closed forms: the DDPM posterior, and where thresholds begin."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffstyle.injection import Injection, aligned_plan, event_timesteps, grid_plan
from diffstyle.sampling import ancestral_step, ddim_step, predicted_picture, with_std_of
from diffstyle.schedule import a_at, nearest, sigma_at, timesteps

# alpha-bar in float64; -1 is the finished picture.
BETAS = np.linspace(1e-4, 0.02, 1000)
ALPHA_BAR = np.append(np.cumprod(1 - BETAS), 1.0)

steps = st.integers(0, 999).flatmap(lambda t: st.tuples(st.just(t), st.integers(-1, t - 1)))


def draw(seed: int) -> torch.Tensor:
    return torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_the_schedule_in_float64():
    for t in (-1, 0, 1, 10, 500, 999):
        assert a_at(t) == pytest.approx(ALPHA_BAR[t], rel=2e-5)
        assert sigma_at(t) == pytest.approx(math.sqrt((1 - ALPHA_BAR[t]) / ALPHA_BAR[t]), rel=2e-4)


def test_timesteps_are_cut_off_and_not_rounded():
    assert timesteps(6) == (0, 199, 399, 599, 799, 999)
    assert timesteps(4) == (0, 333, 666, 999)
    assert timesteps(3, 99) == (0, 49, 99)
    assert timesteps(1000) == tuple(range(1000))


def test_nearest_by_distance_then_by_noise():
    assert [nearest(t, (0, 10, 20)) for t in (-1, 4, 5, 6, 14, 15, 16, 99)] == [0, 0, 10, 10, 10, 20, 20, 20]


@given(steps, st.integers(0, 99))
def test_an_ancestral_step_draws_from_the_ddpm_posterior(step, seed):
    """q(x_s | x_t, x_0) of Ho et al. 2020, eq. 7, for steps of any length: its mean, and its standard deviation."""
    t, s = step
    a, b = ALPHA_BAR[t], ALPHA_BAR[s]
    picture, e, z = draw(seed), draw(seed + 1), draw(seed + 2)
    x = math.sqrt(a) * picture.double() + math.sqrt(1 - a) * e.double()
    mean = math.sqrt(b) * (1 - a / b) / (1 - a) * picture.double() + math.sqrt(a / b) * (1 - b) / (1 - a) * x
    deviation = math.sqrt((1 - b) / (1 - a) * (1 - a / b))
    quiet = ancestral_step(picture, e, t, s, torch.zeros_like(z))
    torch.testing.assert_close(quiet.double(), mean, rtol=0, atol=2e-4)
    loud = ancestral_step(picture, e, t, s, z)
    torch.testing.assert_close((loud - quiet).double(), deviation * z.double(), rtol=0, atol=2e-4)


@given(steps, st.integers(0, 99), st.floats(0.9, 1.1))
def test_a_ddim_step_keeps_picture_and_noise(step, seed, direction):
    t, s = step
    picture, e = draw(seed), draw(seed + 1)
    moved = ddim_step(picture, e, s, direction)
    expected = math.sqrt(ALPHA_BAR[s]) * picture + direction * math.sqrt(1 - ALPHA_BAR[s]) * e
    torch.testing.assert_close(moved, expected.float(), rtol=0, atol=1e-4)
    at_t = math.sqrt(ALPHA_BAR[t]) * picture + math.sqrt(1 - ALPHA_BAR[t]) * e
    torch.testing.assert_close(predicted_picture(at_t.float(), e, t), picture, rtol=0, atol=1e-2)


def test_the_spread_is_taken_over_and_the_mean_is_kept():
    x, reference = draw(1) * 3 + 1, draw(2) * 0.5 - 2
    both = torch.cat([x, draw(3)]), torch.cat([reference, draw(4) * 7])
    scaled = with_std_of(*both)
    for k in range(2):
        assert float(scaled[k].std()) == pytest.approx(float(both[1][k].std()), rel=1e-5)
        assert float(scaled[k].mean()) == pytest.approx(float(both[0][k].mean()), abs=1e-5)
    torch.testing.assert_close(scaled[:1], with_std_of(x, reference))


# ---- where thresholds begin ----

EVENTS = event_timesteps(50)
KEPT = EVENTS[:-1]


def marks(plan, t):
    (step,) = [step for step in plan.steps if step.t == t]
    return step


@pytest.mark.parametrize("make", [grid_plan, aligned_plan], ids=["grid", "aligned"])
def test_a_threshold_on_an_event_includes_it(make):
    above, at, below = 978, 958, 937
    assert {above, at, below} <= set(EVENTS)
    scaled = make(Injection(EVENTS, dt_lambda=0.9, dt_end=at), KEPT)
    assert [marks(scaled, t).direction for t in (above, at, below)] == [0.9, 0.9, 1.0]
    edited = make(Injection(EVENTS, t_edit=at), KEPT)
    assert edited.injections == (999, above, at)
    boosted = make(Injection(EVENTS, t_edit=999, t_boost=at), KEPT)
    assert [marks(boosted, t).noise for t in (at, below)] == [True, True]
    assert above not in boosted.noise_timesteps
    assert boosted.noise_timesteps == tuple(t for t in reversed(EVENTS) if 0 < t <= at)


def test_dt_lambda_alone_makes_an_event_of_the_aligned_plan():
    """Above t_edit nothing is injected, and yet the scaled events stay steps of length 1."""
    plan = aligned_plan(Injection(EVENTS, t_edit=999, dt_lambda=0.9, dt_end=937), KEPT)
    for t in (978, 958, 937):
        assert (marks(plan, t).direction, marks(plan, t).t_next) == (0.9, t - 1)
    assert all(step.direction == 1 for step in plan.steps if step.t < 937)
    assert aligned_plan(Injection(EVENTS, t_edit=999, dt_end=937), KEPT).encodes < plan.encodes


def test_an_event_at_zero_draws_no_noise():
    assert 0 not in grid_plan(Injection(EVENTS, t_boost=200), KEPT).noise_timesteps


def test_the_content_read_is_the_nearest_kept():
    plan = grid_plan(Injection(event_timesteps(6), t_edit=0), (100, 300, 700))
    # Events 999, 799, 599, 399, 199, 0: ties go to the larger.
    assert [step.content_t for step in plan.steps if step.content_t is not None] == [700, 700, 700, 300, 100, 100]
    assert plan.content_timesteps == (100, 300, 700)


@pytest.mark.parametrize(("between", "tail"), [(1, 8), (2, 20), (3, 40)])
def test_how_many_steps_the_aligned_plan_takes(between, tail):
    """Each gap between injections in ``between`` steps, the rest down in about ``tail``, its steps ever shorter."""
    plan = aligned_plan(Injection(EVENTS), KEPT, between, tail)
    injections = plan.injections
    for upper, lower in itertools.pairwise(injections):
        inside = [step.t for step in plan.steps if lower < step.t < upper]
        assert len(inside) == between
        assert inside[0] == upper - 1
        lengths = -np.diff([*inside, lower])
        assert lengths.max() - lengths.min() <= 1
    last = [step for step in plan.steps if step.t < injections[-1]]
    assert abs(len(last) - tail) <= 2
    lengths = [step.t - step.t_next for step in last]
    assert lengths[0] > 3 * lengths[-1]
    # Evenly spaced in sqrt(t + 1), as far as whole timesteps can be.
    roots = [math.sqrt(step.t + 1) for step in last if step.t > 60]
    assert np.ptp(np.diff(roots)) < 0.35 * abs(np.diff(roots).mean())


def test_a_boosted_tail_has_no_more_steps_than_a_quiet_one_and_its_events():
    quiet = aligned_plan(Injection(EVENTS), KEPT, 2, 20)
    boosted = aligned_plan(Injection(EVENTS, t_boost=200), KEPT, 2, 20)
    acting = [t for t in EVENTS if 0 < t <= 200]
    assert len(quiet.steps) + len(acting) - 2 <= len(boosted.steps) <= len(quiet.steps) + 2 * len(acting)
    for t in acting:
        assert marks(boosted, t).t_next == t - 1


def test_what_a_plan_counts():
    plan = grid_plan(Injection(event_timesteps(6), t_edit=399, t_boost=399, calibrate=True), KEPT, 12)
    assert plan.injections == (999, 799, 599, 399)
    assert plan.noise_timesteps == (399, 199)
    assert plan.encodes == len(plan.steps) + 4
    assert plan.decodes == plan.encodes + 4
    assert plan.to_dict() == grid_plan(Injection(event_timesteps(6), 399, 399, calibrate=True), KEPT, 12).to_dict()
    assert plan.to_dict() != grid_plan(Injection(event_timesteps(6), 399, 398, calibrate=True), KEPT, 12).to_dict()
