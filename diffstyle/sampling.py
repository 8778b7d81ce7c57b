"""The algorithms: DDIM inversion, DDIM sampling, content injection. One function each; a plan says what to do when.

Notation as in the papers: x is the state, e the network's noise estimate, P the predicted picture, h the bottleneck,
i and j the timesteps a step leaves and reaches, a[t] the product of (1 - beta). A model is anything with ``encode`` and
``decode`` (``unet.py``). The state is float32 whatever precision the network computes in.

Sources: DDIM, Song et al. 2020 (arXiv 2010.02502), eq. 12 and 16; injection, Jeong et al. 2023 (arXiv 2303.15403).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import torch
from torch import Tensor

from diffstyle.blend import blend
from diffstyle.networks.unet import UNet
from diffstyle.plan import Plan
from diffstyle.schedule import a_at
from diffstyle.trend import CarryingTrend, Trend

# Called after each step with the number of steps done and their total; may raise to stop the walk.
OnStep = Callable[[int, int], None]


@torch.inference_mode()
def ddim_walk(model: UNet, x: Tensor, plan: Plan, on_step: OnStep | None = None) -> tuple[Tensor, Tensor]:
    """Deterministic DDIM along ``plan``, up (inversion) or down (sampling), keeping h where the plan says so.

    Args:
        model: The network; ``x`` must be on its device.
        x: (B, 3, H, W) float32: the picture in [-1, 1] for an inversion plan, x_T for a sampling plan.
        plan: The steps.
        on_step: Called after each step with the number of steps done and their total; may raise to stop the walk.

    Returns:
        The state at the end (B, 3, H, W), and h (B, K, C, h, w) float32 at the K timesteps of ``plan.kept``, in that
        order.
    """
    kept = []
    trend = Trend()
    for n, step in enumerate(plan.steps):
        encoded = model.encode(x, _t(x, step.t))
        e = model.decode(*encoded)
        if step.keep:
            kept.append(encoded.h.float())
        if plan.order > 1:
            x = trend.measure(x, step.t, e)
        x = ddim_step(predicted_picture(x, e, step.t), e, step.t_next)
        if step.order > 1:
            x = trend.followed(x, step.t, step.t_next)
        if on_step:
            on_step(n + 1, len(plan.steps))
    if kept:
        return x, torch.stack(kept, 1)
    return x, x.new_empty(len(x), 0, *model.h_shape)


def ddim_invert(model: UNet, x_0: Tensor, plan: Plan, on_step: OnStep | None = None) -> tuple[Tensor, Tensor]:
    """Invert pictures: their x_T, and the h that the plan keeps.

    Args:
        model: The network, on the device of ``x_0``.
        x_0: The pictures, (B, 3, H, W) float32 in [-1, 1].
        plan: Of :func:`inversion_plan`.
        on_step: Called after each step with the number of steps done and their total.

    Returns:
        x_T (B, 3, H, W) float32, and h (B, K, C, h, w) float32 at the K timesteps of ``plan.kept``.
    """
    return ddim_walk(model, x_0, plan, on_step)


def ddim_sample(model: UNet, x_T: Tensor, plan: Plan, on_step: OnStep | None = None) -> tuple[Tensor, Tensor]:
    """Sample pictures from their x_T, by plain DDIM.

    Args:
        model: The network, on the device of ``x_T``.
        x_T: (B, 3, H, W) float32: of an inversion, or standard normal noise.
        plan: Of :func:`sampling_plan`.
        on_step: Called after each step with the number of steps done and their total.

    Returns:
        Pictures (B, 3, H, W) float32 in about [-1, 1], not clipped, and h (B, K, C, h, w) at ``plan.kept``.
    """
    return ddim_walk(model, x_T, plan, on_step)


@torch.inference_mode()
def inject(
    model: UNet,
    x_T: Tensor,
    h_content: Tensor,
    h_timesteps: Sequence[int],
    plan: Plan,
    gamma: float | Tensor = 0.3,
    *,
    omega: float | Tensor = 0.0,
    mask: Tensor | None = None,
    edit: Tensor | None = None,
    noise: Callable[[int], Tensor] | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Generate from the style images' x_T with the content images' h injected.

    Args:
        model: The network, on the device of the tensors.
        x_T: The inverted style images, (B, 3, H, W).
        h_content: The content images' h at ``h_timesteps``, (B, K, C, h, w).
        h_timesteps: The K timesteps of ``h_content``, in any order.
        plan: An injection plan, of :func:`grid_plan` or :func:`aligned_plan`.
        gamma: How strongly content is blended in, 0 to 1: a number; (B,); or (B or 1, n) with a value for each of the
            n ``plan.injections``.
        omega: Strength of style calibration, a number or (B,); read only where the plan calibrates.
        mask: Where content goes, (B or 1, 1, h, w) in [0, 1] on the h grid (see :func:`to_h_grid`); None: everywhere.
        edit: What is added to h after the blend, (K, C, h, w): at an injection, the slice of the timestep whose h it
            reads. The same for all of the batch; a mask does not limit it. None: nothing.
        noise: t -> (B, 3, H, W) standard normal; needed if the plan draws noise (see :func:`seeded_noise`).
        on_step: Called after each step with the number of steps done and their total; may raise to stop.

    Returns:
        The results, (B, 3, H, W) float32 in about [-1, 1], not clipped.

    Raises:
        ValueError: Shapes do not fit, or the plan needs an h or noise that was not given.
    """
    _check(x_T, h_content, h_timesteps, plan, noise, edit)
    x = x_T.float()
    batch = len(x)
    slot = {t: k for k, t in enumerate(h_timesteps)}
    gammas = _per_injection(gamma, batch, len(plan.injections), x)
    omega = _per_image(omega, batch, x)
    n_injected = 0
    trend = CarryingTrend() if plan.looks_back else Trend()
    for n, step in enumerate(plan.steps):
        t = _t(x, step.t)
        h, skips, emb = model.encode(x, t)
        e = model.decode(h, skips, emb)
        if plan.order > 1:
            x = trend.measure(x, step.t, e)
        P = predicted_picture(x, e, step.t)
        start = step.t  # where the step down begins
        if step.content_t is not None:
            # Only the predicted picture sees the content; the direction keeps e. This asymmetry is the method.
            hc = h_content[:, slot[step.content_t]]
            h_new = blend(h, hc, gammas[:, n_injected], mask)
            if edit is not None:
                h_new = h_new + edit[slot[step.content_t]]
            e_tilde = model.decode(h_new, skips, emb)
            P_tilde = predicted_picture(x, e_tilde, step.t)
            n_injected += 1
            if step.calibrate:
                P_tilde = with_std_of(P_tilde, P)
                x = x + sqrt(a_at(step.t)) * (P_tilde - P) + omega * sqrt(1 - a_at(step.t)) * (e_tilde - e)
            elif step.carry:
                # The event's own step, one timestep long as ever; the state is then where a second call would see it.
                start = step.t - 1
                x = ddim_step(P_tilde, e, start)
            if step.carry:
                assert isinstance(trend, CarryingTrend)
                e = e + trend.jump(step.t, start, step.mean_of)
                P = predicted_picture(x, e, start)
            elif step.calibrate:
                trend.jumped()
                e = model.decode(*model.encode(x, t))
                if plan.order > 1:
                    x = trend.measure(x, step.t, e)
                P = predicted_picture(x, e, step.t)
            else:
                P = P_tilde
        if step.noise:
            assert noise is not None  # _check
            x = ancestral_step(P, e, step.t, step.t_next, noise(step.t).to(x))
        else:
            x = ddim_step(P, e, step.t_next, step.direction)
        if step.order > 1:
            x = trend.followed(x, start, step.t_next, step.correct)
        if step.jumps or step.carry:
            trend.jumped(alike=step.content_t is not None and not step.noise and step.direction == 1)
        if on_step:
            on_step(n + 1, len(plan.steps))
    return x


# ---- the formulas ----


def predicted_picture(x: Tensor, e: Tensor, t: int) -> Tensor:
    """P(x, e, t) = (x - sqrt(1 - a[t]) e) / sqrt(a[t]): the picture that x would be, were e its noise (DDIM eq. 9)."""
    a = a_at(t)
    return (x - sqrt(1 - a) * e) / sqrt(a)


def ddim_step(P: Tensor, e: Tensor, t_next: int, direction: float = 1.0) -> Tensor:
    """Move to ``t_next`` without noise; ``direction`` is the paper's dt_lambda."""
    a_next = a_at(t_next)
    return sqrt(a_next) * P + direction * sqrt(1 - a_next) * e


def ancestral_step(P: Tensor, e: Tensor, t: int, t_next: int, z: Tensor) -> Tensor:
    """Move to ``t_next`` with eta = 1: as much fresh noise z as the DDPM sampler draws (DDIM eq. 16)."""
    a, a_next = a_at(t), a_at(t_next)
    c1 = sqrt((1 - a / a_next) * (1 - a_next) / (1 - a))
    c2 = sqrt(max(0.0, 1 - a_next - c1**2))
    return sqrt(a_next) * P + c2 * e + c1 * z


def with_std_of(x: Tensor, reference: Tensor) -> Tensor:
    """x rescaled about its mean to the standard deviation of ``reference``, per image over C, H, W, unbiased."""
    dims = (1, 2, 3)
    mean = x.mean(dims, keepdim=True)
    return (x - mean) * (reference.std(dims, keepdim=True) / x.std(dims, keepdim=True)) + mean


# ---- arguments ----


def _t(x: Tensor, t: int) -> Tensor:
    return torch.full((len(x),), t, device=x.device)


def _per_image(value: float | Tensor, batch: int, x: Tensor) -> Tensor:
    """A number or (B,) as (B or 1, 1, 1, 1)."""
    value = torch.as_tensor(value, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)
    if len(value) not in (1, batch):
        raise ValueError(f"{len(value)} values for a batch of {batch}")
    return value


def _per_injection(gamma: float | Tensor, batch: int, n: int, x: Tensor) -> Tensor:
    """Gamma in any of its forms as (B, n)."""
    gamma = torch.as_tensor(gamma, dtype=torch.float32, device=x.device)
    if gamma.ndim < 2:
        gamma = gamma.reshape(-1, 1)
    if gamma.ndim != 2 or gamma.shape[0] not in (1, batch) or gamma.shape[1] not in (1, n):
        raise ValueError(f"gamma of shape {tuple(gamma.shape)} for a batch of {batch} and {n} injections")
    return gamma.expand(batch, max(n, 1))


def _check(
    x_T: Tensor,
    h: Tensor,
    h_timesteps: Sequence[int],
    plan: Plan,
    noise: Callable[[int], Tensor] | None,
    edit: Tensor | None,
) -> None:
    if h.ndim != 5 or h.shape[:2] != (len(x_T), len(h_timesteps)):
        raise ValueError(
            f"h_content must be (B, K, C, h, w) with B = {len(x_T)} and K = {len(h_timesteps)}, got {tuple(h.shape)}"
        )
    if edit is not None and edit.shape != h.shape[1:]:
        raise ValueError(f"edit must be (K, C, h, w) as h_content, {tuple(h.shape[1:])}, got {tuple(edit.shape)}")
    missing = sorted(set(plan.content_timesteps) - set(h_timesteps))
    if missing:
        raise ValueError(f"the plan injects the content's h of timesteps {missing}, which were not given")
    if plan.carried and not plan.carries_what_it_measured:
        raise ValueError("the plan carries the jump of an event before it has measured one")
    if plan.noise_timesteps and noise is None:
        raise ValueError("the plan draws noise (t_boost > 0): pass noise")
