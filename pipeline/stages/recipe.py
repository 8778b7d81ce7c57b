"""One point of a sweep, made ready: the steps it takes, gamma at each, its masks, and what identifies its results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffstyle.errors import ConfigError
from diffstyle.injection import Injection, aligned_plan, event_timesteps, grid_plan
from diffstyle.plan import T_0, Plan
from diffstyle.schedule import timesteps
from pipeline.banks.directions import Directions
from pipeline.banks.fit import missing_timesteps
from pipeline.banks.tensors import BankError
from pipeline.jobfile.edit import EditPoint
from pipeline.jobfile.injection import InjectionSettings, PlanSpec, gamma_schedule
from pipeline.jobfile.schema import Job
from pipeline.results.pictures import recipe_slug
from pipeline.results.words import name_words
from pipeline.stages.masks import Masks
from pipeline.stages.walk import Walk
from pipeline.storage.identity import digest, digest_of


def injection_plan(settings: InjectionSettings, walk: Walk) -> Plan:
    """The steps of one pair.

    Args:
        settings: one point of a sweep.
        walk: what made the content bank; each event reads the h at the timestep of its grid that is nearest.

    Raises:
        ConfigError: a combination that makes no sense.
    """
    spec, t_0 = settings.plan, walk.t_0
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
        t_start=settings.t_start,
    )
    return steps_of(spec, injection, walk.grid, t_0)


def steps_of(spec: PlanSpec, injection: Injection, kept: Sequence[int], t_0: int = T_0) -> Plan:
    """The steps of a plan as a job file says it.

    Args:
        spec: the plan, a preset's name resolved.
        injection: what happens at which timestep.
        kept: the timesteps whose h the content bank keeps; each event reads the nearest.
        t_0: the timestep of x_T.
    """
    if spec.aligned is None:
        assert spec.grid is not None
        return grid_plan(injection, kept, min(spec.grid, t_0 + 1), t_0)
    # The fields of a job file are the arguments.
    return aligned_plan(injection, kept, t_0=t_0, **spec.aligned.model_dump())


def needed_h(job: Job, walk: Walk) -> tuple[int, ...]:
    """The timesteps whose h a content bank must keep for this job, ascending."""
    if job.bank.keep == "all":
        return walk.grid
    plans = [injection_plan(settings, walk) for settings in job.settings()]
    return tuple(sorted({t for plan in plans for t in plan.content_timesteps}))


def require_injections(settings: InjectionSettings, walk: Walk) -> None:
    """ConfigError where no event injects content: results would be the styles as they are."""
    if injection_plan(settings, walk).injections:
        return
    n = settings.plan.grid if settings.events == "every" else settings.events
    events = event_timesteps(min(int(n or 0), walk.t_0 + 1), walk.t_0)
    below = max((t for t in events if t < settings.t_edit), default=None)
    above = min((t for t in events if t > settings.t_start), default=None)
    nearest = " and ".join(str(t) for t in (below, above) if t is not None)
    raise ConfigError(
        f"injection: no content would be injected, since no event lies from t_edit {settings.t_edit} to t_start "
        f"{settings.t_start}; the nearest are at {nearest}, and injection.events says how many there are"
    )


def needed_tensors(points: Iterable[InjectionSettings]) -> dict[str, tuple[str, ...]]:
    """Side (``content``, ``style``) -> the tensors that injection reads of its bank, at any point of a sweep."""
    points = list(points)
    content, style = ["h"], ["x_t"]
    if any(settings.start_from_content for settings in points):
        content.append("x_t")
    if any(settings.match_colours for settings in points):
        style.append("colours")
    return {"content": tuple(content), "style": tuple(style)}


def check_timesteps(plan: Plan, kept: Sequence[int], bank: object = "the content bank") -> None:
    """ConfigError where a bank that keeps h at the timesteps ``kept`` lacks some that a plan reads."""
    if missing := missing_timesteps(plan.content_timesteps, kept):
        raise ConfigError(
            f"this job needs h at {missing}, which {bank} doesn't have: invert into another bank (give the job the "
            "pictures in place of the bank), or use one made with `bank.keep: all`"
        )


@dataclass(frozen=True)
class Recipe:
    """Everything about a result but its two pictures. ``digest`` identifies it, ``slug`` names its folder."""

    settings: InjectionSettings
    plan: Plan
    gammas: tuple[float, ...]
    masks: Masks
    digest: str
    slug: str
    edit: np.ndarray | None = None  # (K, C, h, w), what is added to h at each of plan.content_timesteps
    identity: str = ""  # JSON: what ``digest`` is the digest of


def make_recipe(
    settings: InjectionSettings,
    walk: Walk,
    h_timesteps: Sequence[int],
    shared_identity: Mapping[str, Any],
    masks: Masks,
    directions: Mapping[str, Directions] | None = None,
) -> Recipe:
    """Resolve ``settings`` against a content bank.

    Args:
        settings: one point of a sweep.
        walk: what made the content bank.
        h_timesteps: the timesteps whose h the bank keeps.
        shared_identity: what else decides the pixels: model, banks' settings, precision, output format.
        masks: the masks that the settings ask for, loaded.
        directions: path -> the files of directions that the settings name, see :func:`open_directions`.

    Raises:
        ConfigError: the bank lacks an h that the settings need, or a file of directions what is asked of it.
    """
    plan = injection_plan(settings, walk)
    check_timesteps(plan, h_timesteps)
    values = settings.to_dict()
    if masks.shared is not None:
        values["mask"] = digest(masks.shared.tobytes())
    elif masks.own is not None:
        values["mask"] = "own"
    edit = None
    if settings.edit is not None:
        edit = edit_of(settings.edit, (directions or {})[settings.edit.directions], plan)
        values["edit"] = digest(str(edit.shape), edit.tobytes())
    identity = {"injection": values, "plan": digest_of(plan.to_dict()), **shared_identity}
    identifier = digest_of(identity)
    gamma = settings.gamma if isinstance(settings.gamma, float | int) else settings.gamma.kind
    named = {name: as_json(value) for name, value in settings.to_dict().items() if name in ("mask", "edit") and value}
    plain = {name: getattr(settings, name) for name in ("omega", "start_from_content", "match_colours", "seed")}
    more = name_words({**named, **plain})
    return Recipe(
        settings,
        plan,
        tuple(gamma_schedule(settings.gamma).at(plan.injections)),
        masks,
        identifier,
        recipe_slug(gamma, identifier, more),
        edit,
        as_json(identity),
    )


def open_directions(job: Job, h_shape: Sequence[int], fingerprint: str | None) -> dict[str, Directions]:
    """The files of directions that a job names; as :func:`directions_of`."""
    return directions_of(job.injection.edit_points, h_shape, fingerprint)


def directions_of(
    points: Iterable[EditPoint | None], h_shape: Sequence[int], fingerprint: str | None
) -> dict[str, Directions]:
    """The files of directions that edits name, by their paths.

    Args:
        points: the edits, such as ``job.injection.edit_points``.
        h_shape: (C, h, w) of its model.
        fingerprint: of its model; None: not known, and not compared.

    Raises:
        ConfigError: a file is missing, damaged, or of another model.
    """
    opened: dict[str, Directions] = {}
    for point in points:
        if point is None or point.directions in opened:
            continue
        try:
            directions = Directions.open(point.directions)
        except BankError as error:
            raise ConfigError(f"injection.edit.directions: {error}") from None
        name, made_with = directions.about["model_name"], directions.about["model_fingerprint"]
        if directions.components.shape[2:] != tuple(h_shape) or made_with != (fingerprint or made_with):
            raise ConfigError(
                f"injection.edit.directions: {point.directions} was made with another model: {name} with fingerprint "
                f"{made_with[:8]} and h {directions.about['h_shape']}, this job's has "
                f"{'' if fingerprint is None else fingerprint[:8] + ' and '}{list(h_shape)}; "
                "make one from a bank of this model"
            )
        opened[point.directions] = directions
    return opened


def edit_of(point: EditPoint, directions: Directions, plan: Plan) -> np.ndarray:
    """What an edit adds to h at each of the plan's content timesteps, (K, C, h, w) float32.

    Raises:
        ConfigError: the file has no such direction, or not at those timesteps.
    """
    missing = sorted(set(plan.content_timesteps) - set(directions.h_timesteps))
    if missing:
        raise ConfigError(
            f"injection.edit.directions: {point.directions} has no directions at timesteps {missing[:5]}"
            f"{' ...' if len(missing) > 5 else ''}, where this job injects; make one from a bank of this job's "
            "inversion.steps, with bank.keep: all"
        )
    field = "component" if point.label is None else "label"
    try:
        if point.label is None:
            added = directions.component(point.component or 0)
        else:
            added = directions.label(point.label, point.against)
    except BankError as error:
        raise ConfigError(f"injection.edit.{field}: in {point.directions} {error}") from None
    slots = [directions.h_timesteps.index(t) for t in plan.content_timesteps]
    return np.ascontiguousarray(added[slots] * np.float32(point.strength))


def as_json(value: Any) -> str:
    """Compact JSON with sorted keys, for a manifest's column."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
