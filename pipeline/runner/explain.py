"""A job in words: the steps that it takes, and what each of its parameters does to them. No model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffstyle.gamma import GammaSchedule
from diffstyle.plan import Plan, Step
from pipeline.banks.reader import LatentBank
from pipeline.jobfile.fields import T_MAX
from pipeline.jobfile.injection import InjectionSettings, gamma_schedule
from pipeline.jobfile.schema import BankSpec, Job, SampleSpec
from pipeline.models.config import load_model_config
from pipeline.results.plan_picture import KINDS, kind_of_step, plan_picture
from pipeline.stages.masks import load_masks
from pipeline.stages.recipe import injection_plan, needed_h, needed_tensors
from pipeline.stages.walk import Walk
from pipeline.storage.counts import count

if TYPE_CHECKING:
    from PIL import Image

#: A picture of more plans is too high to look at.
_LANES = 6


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain_job` says: ``lines`` for people, and ``picture``, the steps over t."""

    lines: tuple[str, ...]
    picture: Image.Image

    def __str__(self) -> str:
        return "\n".join(self.lines)


def explain_job(job: Job) -> Explanation:
    """The steps of a job in words and as a picture, and what each parameter does.

    Args:
        job: As ``load_job`` returns it.

    Raises:
        ConfigError: A combination that makes no sense, or a mask that can't be read.
    """
    walk = _walk(job)
    points = job.settings()
    plans: dict[Plan, list[InjectionSettings]] = {}
    for settings in points:
        plans.setdefault(injection_plan(settings, walk), []).append(settings)
    lines = ["inversion", *_indented(_inversion(job, walk))]
    for number, (plan, some) in enumerate(plans.items(), 1):
        which = "" if len(plans) == 1 else f" {number}, with {_telling(some[0])}"
        lines += [f"generation{which}", *_indented(_generation(plan, some[0]))]
    lines += ["parameters", *_indented(_parameters(job, points, next(iter(plans))))]
    lanes = [(_title(plan, some[0], len(plans) > 1), plan) for plan, some in plans.items()][:_LANES]
    marks = [("t_edit", job.injection.t_edit)]
    if job.injection.t_start < T_MAX:
        marks.insert(0, ("t_start", job.injection.t_start))
    if job.injection.t_boost:
        marks.append(("t_boost", job.injection.t_boost))
    return Explanation(tuple(lines), plan_picture(lanes, marks))


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _walk(job: Job) -> Walk:
    if isinstance(job.content, BankSpec):
        return Walk.of_bank(LatentBank.open(job.content.bank).description)
    return Walk.of_job(job, job.content)


def _telling(settings: InjectionSettings) -> str:
    return f"omega {settings.omega:g}"


def _title(plan: Plan, settings: InjectionSettings, several: bool) -> str:
    calls = f"{count(plan.encodes, 'network call')} a pair, {count(len(plan.injections), 'injection')}"
    return f"{_telling(settings)}: {calls}" if several else calls


def _inversion(job: Job, walk: Walk) -> list[str]:
    kept = needed_h(job, walk)
    lines = []
    if isinstance(job.content, BankSpec):
        lines.append(f"contents come from a bank: {count(walk.steps, 'timestep')} up to {walk.t_0}")
    elif isinstance(job.content, SampleSpec):
        lines.append(f"contents are drawn from the model, each in {count(walk.plan(keep=()).encodes, 'network call')}")
    else:
        calls = count(walk.plan(keep=()).encodes, "network call")
        lines.append(f"each picture becomes noise at t = {walk.t_0} in {calls}, once, however many pairs it is in")
    needed = needed_tensors(job.settings())
    lines.append(f"of a content, h is kept at {count(len(kept), 'timestep')}: {_some(kept[::-1])}")
    if "x_t" in needed["content"]:
        lines.append("and its x_T, for start_from_content")
    lines.append(f"of a style, x_T is kept: the noise at t = {walk.t_0}")
    if "colours" in needed["style"]:
        lines.append("and the histograms of its picture, for match_colours")
    return lines


def _generation(plan: Plan, settings: InjectionSettings) -> list[str]:
    steps: dict[str, list[Step]] = {name: [] for name in KINDS}
    for step in plan.steps:
        steps[kind_of_step(step)].append(step)
    lines = [
        f"from the style's x_T in {count(len(plan.steps), 'step')} down to the picture: "
        f"{count(plan.encodes, 'network call')}, {count(plan.decodes - plan.encodes, 'decode')} more for the content"
    ]
    for name, some in steps.items():
        if some:
            lines.append(f"{count(len(some), 'step')}: {name}, t = {_some([step.t for step in some])}")
    both = sum(step.noise for step in steps["injects content"])
    if both:
        lines.append(
            f"{count(both, 'injection')} of these draw noise as well: t_boost {settings.t_boost} is at or above t_edit"
        )
    if any(step.calibrate for step in plan.steps):
        lines.append("each injection corrects the style and calls the network once more (omega)")
    return lines


def _parameters(job: Job, points: Sequence[InjectionSettings], plan: Plan) -> list[str]:
    injection = job.injection
    events = "every step" if injection.events == "every" else count(int(injection.events), "timestep")
    n = len(plan.injections)
    limited = injection.t_start < T_MAX
    noise = len(plan.noise_timesteps)
    scaled = sum(step.direction != 1 for step in plan.steps)
    values = [
        ("model", load_model_config(job.model).name, f"pictures of {load_model_config(job.model).size} px"),
        (
            "inversion.steps",
            job.inversion.steps,
            "more come nearer to the picture when sampled back, and cost as many calls",
        ),
        *(("injection.gamma", _words(gamma), _gamma(gamma_schedule(gamma), plan)) for gamma in injection.gamma),
        ("injection.events", injection.events, f"the method may act at {events}"),
        (
            "injection.t_edit",
            injection.t_edit,
            f"of these, {n} {f'from {injection.t_start} down to it' if limited else 'at or above it'} inject; "
            "lower brings more of the content",
        ),
        *([("injection.t_start", injection.t_start, "beyond the paper: no event above it injects")] if limited else ()),
        (
            "injection.t_boost",
            injection.t_boost,
            f"fresh noise at {count(noise, 'event')} at or below it"
            if noise
            else "no noise: every seed gives the same",
        ),
        (
            "injection.dt_lambda",
            f"{injection.dt_lambda:g}",
            f"scales the direction at {count(scaled, 'event')} at or above dt_end {injection.dt_end}"
            if scaled
            else "off",
        ),
        *(
            ("injection.omega", f"{omega:g}", "strength of style calibration" if omega else "off")
            for omega in injection.omega
        ),
        *(("injection.mask", _words(one.mask), _mask(job, one)) for one in {str(p.mask): p for p in points}.values()),
        *(("injection.edit", str(edit), "is added to h at each injection") for edit in injection.edit_points if edit),
        *(
            (
                "injection.start_from_content",
                f"{fraction:g}",
                "beyond the paper: x_T begins so far toward the content's" if fraction else "off",
            )
            for fraction in injection.start_from_content
            if any(injection.start_from_content)
        ),
        *(
            (
                "injection.match_colours",
                _words(kind),
                "beyond the paper: the result gets the style's histograms at the end" if kind else "off",
            )
            for kind in injection.match_colours
            if any(injection.match_colours)
        ),
        (
            "injection.plan",
            _words(injection.plan),
            f"{count(plan.encodes, 'network call')} a pair; the paper's walk has 1000 steps",
        ),
        (
            "seed",
            ", ".join(map(str, job.seed)),
            "of the noise that t_boost draws" if noise else "not read: no noise is drawn",
        ),
    ]
    widths = [max(len(str(row[column])) for row in values) for column in (0, 1)]
    lines = [f"{name:<{widths[0]}}  {value!s:<{widths[1]}}  {text}" for name, value, text in values]
    each = f"{count(len(points), 'setting')} in all: each pair is made once for each"
    lines.append(each if len(points) > 1 else "each pair is made once")
    return lines


def _words(value: object) -> str:
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json", exclude_none=True)
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value).replace("'", "")


def _gamma(schedule: GammaSchedule, plan: Plan) -> str:
    if not plan.injections:
        return "nothing is injected: no event lies between t_edit and t_start"
    at = schedule.at(plan.injections)
    if len(set(at)) == 1:
        return f"h goes {at[0]:.0%} of the way from the style's to the content's, at each injection"
    return f"h goes {at[0]:.0%} of the way at t = {plan.injections[0]}, {at[-1]:.0%} at t = {plan.injections[-1]}"


def _mask(job: Job, settings: InjectionSettings) -> str:
    if settings.mask is None:
        return "content goes everywhere"
    if settings.mask != "reference" and settings.mask.folder is not None:
        return "each content has its own, found by its name"
    config = load_model_config(job.model)
    shape = config.unet_architecture.h_shape
    mask = load_masks(settings, {}, config.size, (shape[1], shape[2])).shared
    assert mask is not None
    return f"content goes into {mask.mean():.0%} of h's {shape[1]} x {shape[2]} cells"


def _some(timesteps: Sequence[int], most: int = 7) -> str:
    """A few of many numbers: 999, 979, ..., 81."""
    if len(timesteps) <= most:
        return ", ".join(map(str, timesteps)) or "none"
    return f"{', '.join(map(str, timesteps[: most - 2]))}, ..., {timesteps[-1]}"
