"""What a job may say: the pydantic models of a job file, and the settings that a pair of pictures is made with.

``docs/job-file.md`` describes every field for users. Reading a file, with overrides and line numbers, is
``load.py``'s; a :class:`Job` built in Python is validated all the same, its relative paths from the working directory.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_serializer,
    field_validator,
    model_validator,
)

from diffstyle.gamma import GammaSchedule
from pipeline.jobfile.edit import EditPoint, EditSpec
from pipeline.jobfile.fields import (
    T_MAX,
    AutoCount,
    AutoSwitch,
    Count,
    Fraction,
    Number,
    OneOf,
    Strict,
    Timestep,
    Whole,
    as_list,
    is_mapping,
    is_word,
    length,
    only,
    plain_if_single,
)
from pipeline.models.config import RANDOM_WEIGHTS, WeightsChoice, is_config_name
from pipeline.sources import SourceSpec
from pipeline.storage.address import AS_WRITTEN, Address, InputAddress, local_or_word
from pipeline.storage.mistakes import shown, unknown
from pipeline.storage.yamlcore import dump

# ---- injection ----


class GammaSpec(OneOf):
    """Gamma that changes from the first injection (at the noisiest timestep) to the last."""

    linear: Annotated[tuple[Fraction, ...], length(2, "two numbers, [first, last]")] | None = None
    cosine: Annotated[tuple[Fraction, ...], length(2, "two numbers, [first, last]")] | None = None
    values: Annotated[tuple[Fraction, ...], Field(min_length=1)] | None = None


Gamma = Annotated[
    Annotated[GammaSpec, Tag("<GammaSpec>")] | Annotated[Fraction, Tag("<number>")],
    Discriminator(lambda value: "<GammaSpec>" if is_mapping(value) else "<number>"),
]


def gamma_schedule(gamma: float | GammaSpec) -> GammaSchedule:
    """The schedule that ``diffstyle`` executes."""
    if isinstance(gamma, GammaSpec):
        return GammaSchedule(gamma.kind, tuple(getattr(gamma, gamma.kind)))  # type: ignore[arg-type]
    return GammaSchedule("constant", (gamma,))


class MaskSpec(OneOf):
    """Where content is injected: a rectangle in fractions of the side, one picture, or one picture for each content."""

    rectangle: Annotated[tuple[Fraction, ...], length(4, "[top, left, bottom, right]")] | None = None
    picture: InputAddress | None = None
    folder: InputAddress | None = None

    @field_validator("rectangle")
    @classmethod
    def _has_area(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value and not (value[0] < value[2] and value[1] < value[3]):
            raise ValueError(
                f"must be [top, left, bottom, right] with top < bottom and left < right, not {list(value)}"
            )
        return value


_MASK_KINDS = "null, reference, or a mapping with rectangle, picture or folder"
Mask = (
    Annotated[
        Annotated[MaskSpec, Tag("<MaskSpec>")]
        | Annotated[Literal["reference"], only("reference", _MASK_KINDS), Tag("<word>")],
        Discriminator(lambda value: "<MaskSpec>" if is_mapping(value) else "<word>"),
    ]
    | None
)


class Aligned(Strict):
    """The event-aligned short grid: plain steps over each gap between injections, and below the last one."""

    between: Count = 2
    tail: Count = 20
    order: Annotated[Whole, Field(ge=1, le=2)] = 2


class PlanSpec(OneOf):
    """Which steps generation takes: the reference's grid of n steps, or the event-aligned short grid."""

    grid: Annotated[Whole, Field(ge=2, le=T_MAX + 1)] | None = None
    aligned: Aligned | None = None


#: Plans by name. What a name stands for is written into each pair's settings, so a changed preset is a changed pair.
#: What each loses against `reference`, measured, is in docs/speed.md.
PLAN_PRESETS = {
    "reference": PlanSpec(grid=1000),
    "balanced": PlanSpec(aligned=Aligned(between=2, tail=20)),
    "fast": PlanSpec(aligned=Aligned(between=1, tail=8)),
}


def _known_preset(name: str) -> str:
    if name not in PLAN_PRESETS:
        raise ValueError(unknown("plan", name, PLAN_PRESETS))
    return name


Plan = Annotated[
    Annotated[PlanSpec, Tag("<PlanSpec>")] | Annotated[str, AfterValidator(_known_preset), Tag("<word>")],
    Discriminator(lambda value: "<PlanSpec>" if is_mapping(value) else "<word>"),
]
Events = Annotated[
    Annotated[Literal["every"], only("every", "every or a whole number"), Tag("<word>")]
    | Annotated[Annotated[Whole, Field(ge=2, le=T_MAX + 1)], Tag("<number>")],
    Discriminator(lambda value: "<word>" if is_word(value) else "<number>"),
]
Omega = Annotated[Number, Field(ge=0)]


class Inversion(Strict):
    """How a picture becomes its x_T and h."""

    steps: Annotated[Whole, Field(ge=2, le=T_MAX + 1)] = 50
    t_0: Annotated[Whole, Field(ge=1, le=T_MAX)] = T_MAX
    plan: Literal["grid", "second-order"] = "grid"

    @model_validator(mode="after")
    def _distinct_steps(self) -> Inversion:
        if self.steps > self.t_0 + 1:
            raise ValueError(f"steps is {self.steps}, but there are only {self.t_0 + 1} timesteps up to t_0")
        return self


class InjectionSettings(Strict):
    """One point of a sweep: all that ``injection`` and ``seed`` say about a pair, each a single value.

    ``seed`` is None where no noise is drawn (``t_boost: 0``): seeds then don't tell pictures apart.
    """

    gamma: Gamma
    t_edit: Timestep
    t_boost: Timestep
    events: Events
    dt_lambda: Number
    dt_end: Timestep
    omega: Omega
    mask: Mask
    edit: EditPoint | None = None
    plan: PlanSpec
    seed: Whole | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able and canonical: equal settings give equal dicts however they were written.

        Masks and directions appear by their paths; an identity must put the hash of their content in its place. An edit
        is in it only where there is one, so that results of before edits keep their identity.
        """
        values = self.model_dump(mode="json", by_alias=True)
        edit = values.pop("edit")
        return values if edit is None else {**values, "edit": {k: v for k, v in edit.items() if v is not None}}


class Injection(Strict):
    """How content is injected. ``gamma``, ``omega``, ``mask`` and ``edit`` may be lists: a sweep over their values."""

    gamma: Annotated[tuple[Gamma, ...], BeforeValidator(as_list), Field(min_length=1)] = (0.3,)
    t_edit: Timestep = 400
    t_boost: Timestep = 0
    events: Events = 50
    dt_lambda: Annotated[Number, Field(gt=0)] = 1.0
    dt_end: Timestep = 950
    omega: Annotated[tuple[Omega, ...], BeforeValidator(as_list), Field(min_length=1)] = (0.0,)
    mask: Annotated[tuple[Mask, ...], BeforeValidator(as_list), Field(min_length=1)] = (None,)
    edit: Annotated[tuple[EditSpec | None, ...], BeforeValidator(as_list), Field(min_length=1)] = (None,)
    plan: Plan = "balanced"

    @model_validator(mode="after")
    def _goes_together(self) -> Injection:
        if self.events == "every" and self.plan_spec.grid is None:
            raise ValueError(
                "events: every needs a grid plan (plan: reference); the others are made around single events"
            )
        return self

    @field_serializer("gamma", "omega", "mask", "edit", mode="wrap")
    def _as_written(self, values: tuple[Any, ...], handler: Any) -> Any:
        return plain_if_single(handler(values))

    @property
    def edit_points(self) -> list[EditPoint | None]:
        """Each strength of each edit; None where nothing is added."""
        return [point for one in self.edit for point in ([None] if one is None else one.points())]

    @property
    def plan_spec(self) -> PlanSpec:
        """The plan, a preset's name resolved."""
        return PLAN_PRESETS[self.plan] if isinstance(self.plan, str) else self.plan


# ---- sources ----


class SampleSpec(Strict):
    """Pictures drawn from the model itself: plain sampling from seeded noise."""

    sample: Count
    seed: Whole = 0


class BankSpec(Strict):
    """An existing latent bank, used as it is."""

    bank: InputAddress


def _source_kind(value: Any) -> str:
    given = value if isinstance(value, dict) else {}
    if isinstance(value, SampleSpec) or "sample" in given:
        return "<SampleSpec>"
    return "<BankSpec>" if isinstance(value, BankSpec) or "bank" in given else "<SourceSpec>"


Source = Annotated[
    Annotated[SampleSpec, Tag("<SampleSpec>")]
    | Annotated[BankSpec, Tag("<BankSpec>")]
    | Annotated[SourceSpec, Tag("<SourceSpec>")],
    Discriminator(_source_kind),
]


# ---- pairs, storage, computing ----


class RandomPairs(Strict):
    """``random`` styles for each content, chosen by ``seed`` and the content, whatever else is in the job."""

    random: Count
    seed: Whole = 0


class ListedPairs(Strict):
    """A CSV or Parquet file with the columns ``content`` and ``style``."""

    file: InputAddress = Field(alias="list")


def _pairs_kind(value: Any) -> str:
    if not is_mapping(value):
        return "<word>"
    listed = isinstance(value, ListedPairs) or (isinstance(value, dict) and "random" not in value)
    return "<ListedPairs>" if listed else "<RandomPairs>"


def _pairs_word(value: Any) -> Any:
    if value not in ("all", "zip"):
        raise ValueError(f"must be all, zip, {{random: k}} or {{list: FILE}}, not {shown(value)}")
    return value


Pairs = Annotated[
    Annotated[Literal["all", "zip"], BeforeValidator(_pairs_word), Tag("<word>")]
    | Annotated[RandomPairs, Tag("<RandomPairs>")]
    | Annotated[ListedPairs, Tag("<ListedPairs>")],
    Discriminator(_pairs_kind),
]


class Bank(Strict):
    """How latent banks are stored."""

    format: Literal["parquet", "webdataset"] = "parquet"
    x_t: Literal["float32", "float16"] = "float32"
    h: Literal["float16", "float32"] = "float16"
    keep: Literal["events", "all"] = "events"
    part_size: Count = 64


class Pictures(Strict):
    """How results are stored."""

    to: Literal["folder", "webdataset"] = "folder"
    format: Literal["png", "jpeg", "webp"] = "png"
    quality: Annotated[Whole, Field(ge=1, le=100)] = 95


class Compute(Strict):
    """On what the job runs."""

    @field_validator("threads")
    @classmethod
    def _not_too_many(cls, value: int | str) -> int | str:
        # OpenMP ends the process without a word where it can't start them.
        if isinstance(value, int) and value > 512:
            raise ValueError(f"must be at most 512, not {value}")
        return value

    actors: AutoCount = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    batch: AutoCount = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: AutoSwitch = "auto"
    threads: AutoCount = "auto"
    max_failures: Annotated[Whole, Field(ge=0)] | None = None
    tile_seconds: Annotated[Number, Field(gt=0)] = 120.0


Weights = Annotated[
    Annotated[WeightsChoice, Tag("<WeightsChoice>")]
    | Annotated[str, *local_or_word(RANDOM_WEIGHTS.fullmatch, reads=True), Tag("<word>")],
    Discriminator(lambda value: "<WeightsChoice>" if is_mapping(value) else "<word>"),
]


class Job(Strict):
    """A job: one model, contents, styles, and what to make of them."""

    model: Annotated[str, *local_or_word(is_config_name)]
    weights: Weights | None = None
    output: Address
    content: Source
    style: Source
    seed: Annotated[tuple[Whole, ...], BeforeValidator(as_list), Field(min_length=1)] = (0,)
    inversion: Inversion = Inversion()
    injection: Injection = Injection()
    pairs: Pairs = "all"
    bank: Bank = Bank()
    pictures: Pictures = Pictures()
    score: bool = False
    compute: Compute = Compute()

    @field_serializer("seed")
    def _as_written(self, values: tuple[int, ...]) -> Any:
        return plain_if_single(values)

    def settings(self) -> list[InjectionSettings]:
        """The sweep: every combination of the listed values, each once, in the lists' order, seed varying fastest."""
        injection = self.injection
        seeds: tuple[int | None, ...] = self.seed if injection.t_boost > 0 else (None,)
        shared = {name: getattr(injection, name) for name in ("t_edit", "t_boost", "events", "dt_lambda", "dt_end")}
        points = {
            InjectionSettings(
                gamma=gamma, omega=omega, mask=mask, edit=edit, seed=seed, plan=injection.plan_spec, **shared
            ): None
            for gamma, omega, mask, edit, seed in itertools.product(
                injection.gamma, injection.omega, injection.mask, injection.edit_points, seeds
            )
        }
        return list(points)

    def to_yaml(self) -> str:
        """The resolved job as a job file: defaults written out, paths absolute, ``${NAME}`` where a path or another
        text was written so. Reading it gives an equal job."""
        values = self.model_dump(mode="json", by_alias=True, exclude_none=True, context={AS_WRITTEN: True})
        return dump(values)
