"""The walks on a tiny network: what they keep, what batching and seeds may not change. Parity is test_golden.py's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import by_the_book

from diffstyle.injection import Injection, aligned_plan, event_timesteps, grid_plan
from diffstyle.networks.architecture import DDPMArchitecture
from diffstyle.networks.build import build_unet
from diffstyle.networks.unet import Encoded
from diffstyle.noise import seeded_noise
from diffstyle.plan import Plan, inversion_plan, sampling_plan
from diffstyle.sampling import ddim_invert, ddim_sample, ddim_walk, inject
from diffstyle.schedule import a_at


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    unet = build_unet(DDPMArchitecture(16, 32, (1, 2), 1, (8,)))
    with torch.no_grad():
        for parameter in unet.parameters():  # a fresh network's output is zero
            parameter.add_(torch.randn_like(parameter) * 0.02)
        # An untrained network is no denoiser: a loud one would drive the state far out of its range.
        unet.conv_out.weight.mul_(0.02)
        unet.conv_out.bias.zero_()
    return unet.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def latents(unet):
    """x_T and h of three pictures, and the timesteps of h."""
    pictures = seeded_noise([1, 2, 3], 0, (3, 16, 16)).clamp(-1, 1)
    plan = inversion_plan(20)
    return *ddim_invert(unet, pictures, plan), plan.kept, pictures


def the_plan(kept, **knobs):
    return grid_plan(Injection(event_timesteps(10), **knobs), kept, 20)


def test_inversion_and_sampling_give_the_picture_back_the_better_the_more_steps(unet, latents):
    pictures = latents[3]
    psnr = []
    for n in (20, 100):
        x_T, _ = ddim_invert(unet, pictures, inversion_plan(n))
        back, _ = ddim_sample(unet, x_T, sampling_plan(n))
        psnr.append(float(10 * torch.log10(4 / (back - pictures).square().mean())))
    assert psnr[1] > psnr[0] + 6
    assert psnr[1] > 25


def test_sampling_keeps_h_where_told(unet, latents):
    plan = sampling_plan(20, keep=[999, 420, 0])
    _, h = ddim_sample(unet, latents[0], plan)
    assert h.shape == (3, 3, *unet.h_shape)
    assert plan.kept == (999, 420, 0)


def test_gamma_0_is_plain_sampling_on_the_same_steps(unet, latents):
    x_T, h, kept, _ = latents
    plan = the_plan(kept)
    plain, _ = ddim_sample(unet, x_T, plan)
    torch.testing.assert_close(inject(unet, x_T, h, kept, plan, 0.0), plain, rtol=0, atol=2e-5)
    assert (inject(unet, x_T, h.flip(0), kept, plan, 0.8) - plain).abs().max() > 1e-3


def test_contents_styles_and_gammas_may_differ_within_a_batch(unet, latents):
    x_T, h, kept, _ = latents
    plan = the_plan(kept)
    gammas = torch.tensor([0.1, 0.5, 0.9])
    together = inject(unet, x_T, h.flip(0), kept, plan, gammas)
    for k in range(3):
        alone = inject(unet, x_T[k : k + 1], h.flip(0)[k : k + 1], kept, plan, float(gammas[k]))
        torch.testing.assert_close(together[k : k + 1], alone, rtol=0, atol=2e-5)


def test_a_gamma_for_each_injection(unet, latents):
    x_T, h, kept, _ = latents
    plan = the_plan(kept)
    schedule = torch.full((1, len(plan.injections)), 0.3)
    flat = inject(unet, x_T, h.flip(0), kept, plan, 0.3)
    torch.testing.assert_close(inject(unet, x_T, h.flip(0), kept, plan, schedule), flat)
    schedule[0, 0] = 0
    assert (inject(unet, x_T, h.flip(0), kept, plan, schedule) - flat).abs().max() > 1e-5


def test_noise_belongs_to_the_pair(unet, latents):
    x_T, h, kept, _ = latents
    plan = the_plan(kept, t_boost=300)
    seeds = [11, 12, 13]

    def run(order):
        noise = lambda t: seeded_noise([seeds[k] for k in order], t, (3, 16, 16))  # noqa: E731
        return inject(unet, x_T[order], h[order], kept, plan, 0.3, noise=noise)

    torch.testing.assert_close(run([0, 1, 2])[[2, 0, 1]], run([2, 0, 1]), rtol=0, atol=2e-5)
    before = run([0, 1, 2])
    torch.testing.assert_close(run([1]), before[1:2], rtol=0, atol=2e-5)  # alone as in company
    seeds[1] = 99
    after = run([0, 1, 2])
    assert (after[1] - before[1]).abs().max() > 0.01  # another seed, another picture
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], rtol=0, atol=2e-5)  # of this pair alone
    with pytest.raises(ValueError, match="draws noise"):
        inject(unet, x_T, h, kept, plan)


def test_noise_is_normal_and_a_function_of_seed_and_timestep():
    one = seeded_noise([5], 100, (3, 64, 64))
    torch.testing.assert_close(one, seeded_noise([4, 5], 100, (3, 64, 64))[1:])
    assert not torch.equal(one, seeded_noise([5], 101, (3, 64, 64)))
    assert abs(float(one.mean())) < 0.05
    assert abs(float(one.std()) - 1) < 0.05


def test_a_mask_and_omega_change_the_result(unet, latents):
    x_T, h, kept, _ = latents
    mask = torch.zeros(1, 1, *unet.h_shape[1:])
    mask[..., 4:, :] = 1
    plain = inject(unet, x_T, h.flip(0), kept, the_plan(kept), 0.8)
    masked = inject(unet, x_T, h.flip(0), kept, the_plan(kept), 0.8, mask=mask)
    calibrated = inject(unet, x_T, h.flip(0), kept, the_plan(kept, calibrate=True), 0.8, omega=0.5)
    for other in (masked, calibrated):
        assert (other - plain).abs().max() > 1e-4
        assert torch.isfinite(other).all()


def test_steps_are_reported_and_may_stop_the_walk(unet, latents):
    x_T, h, kept, _ = latents
    seen = []
    plan = aligned_plan(Injection(event_timesteps(5)), kept, 1, 3)
    inject(unet, x_T[:1], h[:1], kept, plan, on_step=lambda n, total: seen.append((n, total)))
    assert seen == [(n, len(plan.steps)) for n in range(1, len(plan.steps) + 1)]


def test_the_order_in_which_h_is_given_does_not_matter(unet, latents):
    x_T, h, kept, _ = latents
    plan = the_plan(kept)
    given = inject(unet, x_T[:1], h[1:2], kept, plan, 0.6)
    turned = inject(unet, x_T[:1], h[1:2].flip(1), kept[::-1], plan, 0.6)
    assert torch.equal(given, turned)


def test_wrong_shapes_and_missing_h_are_named(unet, latents):
    x_T, h, kept, _ = latents
    plan = the_plan(kept)
    with pytest.raises(ValueError, match="B = 3"):
        inject(unet, x_T, h[:2], kept, plan)
    with pytest.raises(ValueError, match="timesteps"):
        inject(unet, x_T, h[:, :2], kept[:2], plan)
    with pytest.raises(ValueError, match="gamma of shape"):
        inject(unet, x_T, h, kept, plan, torch.zeros(2))
    with pytest.raises(ValueError, match="values for a batch"):
        inject(unet, x_T, h, kept, plan, omega=torch.zeros(2))


class Gaussian:
    """The exact network of pictures drawn from N(0, 1/4), whose trajectories are known; h shifts the mean it sees."""

    h_shape = (2, 1, 1)

    def encode(self, x, t):
        a = a_at(int(t[0]))
        h = torch.stack([1 + half.mean((1, 2, 3)) for half in x.split(4, dim=2)], 1)[..., None, None]
        return Encoded(h, (x, h), torch.tensor([a]))

    def decode(self, h, skips, emb):
        x, own = skips
        a = float(emb)
        shift = (own - h)[:, :1] + 0.5 * (own - h)[:, 1:]
        return (1 - a) ** 0.5 * (x + shift * 0.2 * a**0.5) / (a / 4 + 1 - a)


def spread_at(t):
    return (a_at(t) / 4 + 1 - a_at(t)) ** 0.5


@pytest.mark.parametrize("up", [True, False])
def test_second_order_walks_are_far_nearer_to_the_exact_trajectory(up):
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 2
    # Along a trajectory x divided by the spread of the noisy pictures stays what it is.
    start, end = (0, 999) if up else (999, -1)
    wanted = x * spread_at(end)
    make = inversion_plan if up else sampling_plan
    errors = []
    for order in (1, 2):
        reached, _ = ddim_walk(Gaussian(), x * spread_at(start), make(50, order=order))
        errors.append(float((reached - wanted).norm() / wanted.norm()))
    assert errors[1] < errors[0] / 4


class GaussianByTheBook:
    """The same network for one picture in float64, for ``by_the_book``."""

    def encode(self, x, t):
        h = np.array([[[1 + x[:, :4].mean()]], [[1 + x[:, 4:].mean()]]])
        return h, (x, h, by_the_book.ALPHA_BAR[t])

    def decode(self, h, rest):
        x, own, a = rest
        shift = (own - h)[0] + 0.5 * (own - h)[1]
        return (1 - a) ** 0.5 * (x + shift * 0.2 * a**0.5) / (a / 4 + 1 - a)


@pytest.mark.parametrize("knobs", [{}, {"calibrate": True}, {"t_boost": 200}, {"dt_lambda": 0.998}])
def test_a_short_second_order_plan_is_near_the_thousand_steps(knobs):
    """The 1000 steps are walked by the plain transcription, so that the code is not compared with itself."""
    generator = torch.Generator().manual_seed(1)
    x_T, h = torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, 49, 2, 1, 1, generator=generator)
    kept = inversion_plan(50).kept
    injection = Injection(event_timesteps(50), **knobs)
    noise = lambda t: seeded_noise([1, 2], t, (3, 8, 8))  # noqa: E731

    def result(plan):
        return inject(Gaussian(), x_T, h, kept, plan, 0.5, omega=0.3, noise=noise)

    said = {name: value for name, value in knobs.items() if name != "calibrate"}
    wanted = torch.from_numpy(
        np.stack(
            [
                by_the_book.inject(
                    GaussianByTheBook(),
                    x_T[k].double().numpy(),
                    {t: h[k, n].double().numpy() for n, t in enumerate(kept)},
                    grid=range(1000),
                    events=by_the_book.seq(50),
                    gamma=0.5,
                    omega=0.3 if knobs.get("calibrate") else 0.0,
                    noise=lambda t, k=k: noise(t)[k].double().numpy(),
                    **said,
                )
                for k in range(2)
            ]
        )
    )
    assert float((result(grid_plan(injection, kept, 1000)) - wanted).norm()) < 1e-5 * float(wanted.norm())
    first, second, carried, doubled = (
        float((result(aligned_plan(injection, kept, 1, tail, **how)) - wanted).norm())
        for tail, how in (
            (8, {"order": 1}),
            (8, {"order": 2}),
            (9, {"measured": 8}),
            (17, {"measured": 14, "doubled": 5}),
        )
    )
    assert second < first / 2.5
    assert carried < (1.6 if "dt_lambda" in knobs else 1.2) * second
    assert doubled < carried / 1.2


def test_a_carried_jump_is_the_one_that_was_measured():
    """Where every event makes e jump alike, the plan that carries jumps gives what the one that measures them gives."""

    class Jumps(Gaussian):
        """e is the number of events so far, which is all that an event changes; it has no slope."""

        def __init__(self):
            self.events = 0

        def encode(self, x, t):
            return Encoded(torch.ones(1, 2, 1, 1), (x, self.events), t)

        def decode(self, h, skips, emb):
            x, events = skips
            self.events = max(self.events, events + bool((h != 1).any()))
            return torch.full_like(x, float(events))

    x_T, kept = torch.ones(1, 3, 8, 8), inversion_plan(50).kept
    h = torch.tensor([1.0, -1.0])[:, None, None].expand(1, 49, 2, 1, 1)
    results = [
        inject(Jumps(), x_T, h, kept, aligned_plan(Injection(event_timesteps(50)), kept, 1, 9, **how), 1.0)
        for how in ({}, {"measured": 8}, {"measured": 14, "doubled": 5})
    ]
    assert float(results[0].abs().max()) > 1
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("calibrate", [False, True])
def test_a_doubled_gap_is_corrected_by_the_slope_over_it(calibrate):
    """Where e is a parabola in sigma, a corrected step is a trapezium, and an extrapolated one is further off."""

    class Parabola(Gaussian):
        def decode(self, h, skips, emb):
            a = float(emb)
            return torch.full_like(skips[0], (1 - a) / a / 10_000)

    generator = torch.Generator().manual_seed(3)
    x_T, h = torch.randn(1, 3, 8, 8, generator=generator), torch.randn(1, 49, 2, 1, 1, generator=generator)
    kept, injection = inversion_plan(50).kept, Injection(event_timesteps(50), calibrate=calibrate)
    doubled = aligned_plan(injection, kept, 1, 40, measured=14, doubled=5)
    plans = [
        aligned_plan(injection, kept, 20, 400),
        doubled,
        Plan(tuple(replace(step, correct=False) for step in doubled.steps)),
    ]
    exact, corrected, not_corrected = (inject(Parabola(), x_T, h, kept, plan, 0.5) for plan in plans)
    assert (corrected - exact).abs().max() < (not_corrected - exact).abs().max() / 1.2


@pytest.mark.parametrize("calibrate", [False, True])
def test_what_differs_from_call_to_call_averages_out_over_doubled_gaps(calibrate):
    """Trained networks are uneven from one timestep to the next. Corrected steps weight all their calls alike.

    Were only the first of two corrected, or the slope of the last step alone taken along, more of the unevenness would
    be left than without corrections.
    """

    class Uneven(Gaussian):
        def decode(self, h, skips, emb):
            level = int(1e6 * float(emb))
            return torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(level))

    x_T, kept = torch.zeros(1, 3, 8, 8), inversion_plan(50).kept
    h = torch.ones(1, 49, 2, 1, 1)
    injection = Injection(event_timesteps(50), calibrate=calibrate)
    doubled = aligned_plan(injection, kept, 1, 17, measured=14, doubled=5)
    plans = [
        grid_plan(injection, kept),
        doubled,
        Plan(tuple(replace(step, correct=False) for step in doubled.steps)),
    ]
    exact, corrected, not_corrected = (inject(Uneven(), x_T, h, kept, plan, 0.5) for plan in plans)
    assert (corrected - exact).norm() < (not_corrected - exact).norm()


def test_gammas_may_differ_within_a_batch_whose_jumps_are_carried(unet, latents):
    x_T, h, kept, _ = latents
    plan = aligned_plan(Injection(event_timesteps(20)), kept, 1, 4, measured=4)
    assert plan.carried
    gammas = torch.tensor([0.1, 0.5, 0.9])
    together = inject(unet, x_T, h.flip(0), kept, plan, gammas)
    for k in range(3):
        alone = inject(unet, x_T[k : k + 1], h.flip(0)[k : k + 1], kept, plan, float(gammas[k]))
        torch.testing.assert_close(together[k : k + 1], alone, rtol=0, atol=2e-5)


def test_a_plan_can_not_carry_what_it_has_not_measured(unet, latents):
    x_T, h, kept, _ = latents
    plan = aligned_plan(Injection(event_timesteps(10)), kept, 1, 4, measured=2)
    steps = [step for step in plan.steps if step.t not in (999, 998)]
    assert steps[0].carry
    with pytest.raises(ValueError, match="before it has measured one"):
        inject(unet, x_T, h, kept, Plan(tuple(steps)))


@pytest.mark.parametrize("knobs", [{}, {"calibrate": True}, {"t_boost": 500}])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_an_edit_is_added_to_the_blended_h(knobs, gamma):
    generator = torch.Generator().manual_seed(2)
    x_T, h = torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, 19, 2, 1, 1, generator=generator)
    edit = torch.randn(19, 2, 1, 1, generator=generator)
    kept = inversion_plan(20).kept
    plan = grid_plan(Injection(event_timesteps(10), **knobs), kept, 20)
    noise = lambda t: seeded_noise([1, 2], t, (3, 8, 8))  # noqa: E731
    said = {"t_boost": knobs.get("t_boost", 0), "omega": 0.3 if knobs.get("calibrate") else 0.0}

    def by_book(k, edit):
        return by_the_book.inject(
            GaussianByTheBook(),
            x_T[k].double().numpy(),
            {t: h[k, n].double().numpy() for n, t in enumerate(kept)},
            grid=by_the_book.seq(20),
            events=by_the_book.seq(10),
            gamma=gamma,
            edit=edit and {t: edit[n].double().numpy() for n, t in enumerate(kept)},
            noise=lambda t: noise(t)[k].double().numpy(),
            **said,
        )

    result = inject(Gaussian(), x_T, h, kept, plan, gamma, omega=0.3, edit=edit, noise=noise)
    for k in range(2):
        expected = by_book(k, list(edit))
        np.testing.assert_allclose(result[k], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert np.abs(expected - by_book(k, None)).max() > 1e-3 * np.abs(expected).max()


def test_an_edit_follows_the_timesteps_of_h_and_its_shape_is_checked(unet, latents):
    x_T, h, kept, _ = latents
    plan = the_plan(kept)
    edit = torch.randn(h.shape[1:], generator=torch.Generator().manual_seed(3))
    given = inject(unet, x_T, h, kept, plan, edit=edit)
    assert torch.equal(given, inject(unet, x_T, h.flip(1), kept[::-1], plan, edit=edit.flip(0)))
    assert not torch.equal(given, inject(unet, x_T, h, kept, plan, edit=edit.flip(0)))
    with pytest.raises(ValueError, match=r"edit must be \(K, C, h, w\)"):
        inject(unet, x_T, h, kept, plan, edit=edit[:2])
