"""One point of a sweep, made ready: the steps it takes, gamma at each, its masks, and what identifies its results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffstyle.errors import ConfigError
from diffstyle.plan import Injection, Plan, aligned_plan, event_timesteps, grid_plan
from diffstyle.schedule import timesteps
from pipeline.jobfile.schema import InjectionSettings, Job, gamma_schedule
from pipeline.results.pictures import recipe_slug
from pipeline.stages.masks import Masks
from pipeline.storage.identity import digest, digest_of


def kept_grid(inversion: Mapping[str, Any]) -> tuple[int, ...]:
    """All timesteps at which a walk of these settings (a bank description's ``inversion``) could keep h."""
    grid = timesteps(int(inversion["steps"]), int(inversion["t_0"]))
    # An inversion makes no network call at t_0; sampling begins there.
    return grid if inversion.get("sampled") else grid[:-1]


def inversion_order(inversion: Mapping[str, Any]) -> int:
    """Of which order the steps of an inversion are; banks made before there was a choice do not say."""
    return 2 if inversion.get("plan") == "second-order" else 1


def injection_plan(settings: InjectionSettings, grid: Sequence[int], t_0: int) -> Plan:
    """The steps of one pair. ``grid`` as :func:`kept_grid` of the content bank; each event reads the nearest of it.

    Raises ConfigError for combinations that make no sense.
    """
    spec = settings.plan
    if settings.events == "every":
        if spec.grid is None:
            raise ConfigError("injection.events: every needs a grid plan; the aligned plan is made from single events")
        events = timesteps(min(spec.grid, t_0 + 1), t_0)
    else:
        events = event_timesteps(settings.events, t_0)
    injection = Injection(
        events,
        settings.t_edit,
        settings.t_boost,
        settings.dt_lambda,
        settings.dt_end,
        calibrate=settings.omega != 0,
    )
    if spec.grid is not None:
        return grid_plan(injection, grid, min(spec.grid, t_0 + 1), t_0)
    assert spec.aligned is not None
    aligned = spec.aligned
    return aligned_plan(injection, grid, aligned.between, aligned.tail, t_0, order=aligned.order)


def needed_h(job: Job, inversion: Mapping[str, Any]) -> tuple[int, ...]:
    """The timesteps whose h a content bank must keep for this job, ascending."""
    grid = kept_grid(inversion)
    if job.bank.keep == "all":
        return grid
    plans = [injection_plan(settings, grid, int(inversion["t_0"])) for settings in job.settings()]
    return tuple(sorted({t for plan in plans for t in plan.content_timesteps}))


@dataclass(frozen=True)
class Recipe:
    """Everything about a result but its two pictures. ``digest`` identifies it, ``slug`` names its folder."""

    settings: InjectionSettings
    plan: Plan
    gammas: tuple[float, ...]
    masks: Masks
    identity: dict[str, Any]
    digest: str
    slug: str


def make_recipe(
    settings: InjectionSettings,
    inversion: Mapping[str, Any],
    h_timesteps: Sequence[int],
    shared_identity: Mapping[str, Any],
    masks: Masks,
) -> Recipe:
    """Resolve ``settings`` against a content bank.

    shared_identity  what else decides the pixels: model, banks' settings, precision, output format
    Raises ConfigError if the bank lacks an h that the settings need.
    """
    t_0 = int(inversion["t_0"])
    plan = injection_plan(settings, kept_grid(inversion), t_0)
    missing = sorted(set(plan.content_timesteps) - set(h_timesteps))
    if missing:
        raise ConfigError(
            f"the content bank lacks h at timesteps {missing[:5]}{' ...' if len(missing) > 5 else ''}, which "
            f"injection.t_edit {settings.t_edit} and events {settings.events} need; make a new bank with this job, "
            "or one with bank.keep: all"
        )
    said = settings.to_dict()
    if masks.shared is not None:
        said["mask"] = digest(masks.shared.tobytes())
    elif masks.own is not None:
        said["mask"] = "own"
    identity = {"injection": said, "plan": digest_of(plan.to_dict()), **shared_identity}
    identifier = digest_of(identity)
    gamma = settings.gamma if isinstance(settings.gamma, float | int) else settings.gamma.kind
    return Recipe(
        settings,
        plan,
        tuple(gamma_schedule(settings.gamma).at(plan.injections)),
        masks,
        identity,
        identifier,
        recipe_slug(gamma, identifier),
    )


def as_json(value: Any) -> str:
    """Compact JSON with sorted keys, for a manifest's column."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
