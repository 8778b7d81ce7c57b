"""``inversion`` and ``injection`` of a job: the settings that a pair of pictures is made with."""

from __future__ import annotations

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
from pipeline.storage.address import InputAddress
from pipeline.storage.mistakes import unknown


class GammaSpec(OneOf):
    """Gamma that changes from the first injection (at the noisiest timestep) to the last."""

    linear: Annotated[tuple[Fraction, ...], length(2, "two numbers, [first, last]")] | None = None
    """`[first, last]`: gamma changes in a straight line from the first injection, the noisiest, to the last"""
    cosine: Annotated[tuple[Fraction, ...], length(2, "two numbers, [first, last]")] | None = None
    """`[first, last]`: the same along half a cosine, slow at both ends"""
    values: Annotated[tuple[Fraction, ...], Field(min_length=1)] | None = None
    """a list, from the noisiest injection on; interpolated where it is not as long as there are injections"""


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
    """`[top, left, bottom, right]` in fractions of the side"""
    picture: InputAddress | None = None
    """a picture; white is injected"""
    folder: InputAddress | None = None
    """a mask for each content, of the same name: `FOLDER/dogs/001.png` is that of a content `dogs/001.jpg`, and a
    mask that fits two contents is a mistake"""

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
    """plain steps over each gap between two injections; where `t_start` leaves out events above, as close together
    over the first hundred timesteps, then three times as many for each halving of sigma"""
    tail: Count = 20
    """about so many plain steps below the last injection"""
    order: Annotated[Whole, Field(ge=1, le=2)] = 2
    """order of the solver of the plain steps, 1 or 2"""
    measured: Annotated[Whole, Field(ge=2, le=T_MAX + 1)] | None = None
    """after how many of the injections the network is called again, 2 or more; over the others the jump of its
    estimate is carried along ([how](notes/speed.md#how-so-few)). `null`: after each"""
    doubled: Annotated[Whole, Field(ge=0, le=T_MAX)] = 0
    """with `measured`, over how many of the first gaps, the noisiest, two steps are taken in place of `between`, and
    corrected; `measured` is then at least three more. It counts gaps as wide as those of 50 events: of 100, one step is
    taken over each of twice as many"""

    @model_validator(mode="after")
    def _carries_by_second_order(self) -> Aligned:
        if self.doubled and (self.measured is None or self.measured < self.doubled + 3):
            raise ValueError(f"doubled: {self.doubled} goes with measured: {self.doubled + 3} or more")
        if self.measured is not None and self.order == 1:
            raise ValueError("measured goes with order: 2, whose steps know what to carry; omit one of them")
        return self


class PlanSpec(OneOf):
    """Which steps generation takes: the reference's grid of n steps, or the event-aligned short grid."""

    grid: Annotated[Whole, Field(ge=2, le=T_MAX + 1)] | None = None
    """the paper's kind of plan: so many timesteps, evenly spaced, 2 to 1000"""
    aligned: Aligned | None = None
    """a short grid that meets every event: long steps of a second-order solver between them"""


#: Plans by name. What a name stands for is written into each pair's settings, so a changed preset is a changed pair.
#: What each loses against `reference`, measured, is in docs/speed.md.
PLAN_PRESETS = {
    "reference": PlanSpec(grid=1000),
    "balanced": PlanSpec(aligned=Aligned(between=2, tail=20)),
    "fast": PlanSpec(aligned=Aligned(between=1, tail=9, measured=8)),
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
MatchColours = Annotated[Literal["histogram"], only("histogram", "null or histogram")] | None


class Inversion(Strict):
    """How a picture becomes its x_T and h."""

    steps: Annotated[Whole, Field(ge=2, le=T_MAX + 1)] = 50
    """points of the timestep grid, 2 to 1000; one network call less"""
    t_0: Annotated[Whole, Field(ge=1, le=T_MAX)] = T_MAX
    """the noisiest timestep, 1 to 999"""
    plan: Literal["grid", "second-order"] = "grid"
    """`grid`: DDIM, as in the paper; `second-order`: four calls more, much nearer to an inversion of 1000 steps,
    see [speed](speed.md)"""

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
    t_start: Timestep = T_MAX
    t_boost: Timestep
    events: Events
    dt_lambda: Number
    dt_end: Timestep
    omega: Omega
    mask: Mask
    edit: EditPoint | None = None
    start_from_content: Fraction = 0.0
    match_colours: MatchColours = None
    plan: PlanSpec
    seed: Whole | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able and canonical: equal settings give equal dicts however they were written.

        Masks and directions appear by their paths; an identity must put the hash of their content in its place. What
        later releases added is in it only where it is used (an edit, a plan's ``measured``, the extensions beyond the
        paper): results of before these keep their identity.
        """
        values = self.model_dump(mode="json", by_alias=True)
        for name in ("start_from_content", "match_colours"):
            if not values[name]:
                del values[name]
        if values["t_start"] == T_MAX:
            del values["t_start"]
        aligned = values["plan"].get("aligned")
        if aligned and aligned["measured"] is None:
            del aligned["measured"]
        if aligned and not aligned["doubled"]:
            del aligned["doubled"]
        edit = values.pop("edit")
        return values if edit is None else {**values, "edit": {k: v for k, v in edit.items() if v is not None}}


class Injection(Strict):
    """How content is injected. Fields that are tuples here may be lists in a job: a sweep over their values."""

    gamma: Annotated[tuple[Gamma, ...], BeforeValidator(as_list), Field(min_length=1)] = (0.3,)
    """how strongly content is blended in, 0 to 1: a number, or one of the forms below, over the injections. A list
    of these is a sweep"""
    t_edit: Timestep = 400
    """content is injected at events from this timestep up, 0 to 999. 400 is for pictures of 256 px, 260 for 128 px, 160
    for 64 px, 80 for 32 px ([why](demo-training.md#what-it-says))"""
    t_start: Timestep = T_MAX
    """**beyond the paper**: content is injected at events from this timestep down to `t_edit`; 999, the paper's, is
    all of them. Where the noisiest events bring the content's colours and little of its layout, as with the demo's
    model, a lower one keeps more of the style, and costs fewer network calls
    ([measured](demo-training.md#the-curve))"""
    t_boost: Timestep = 0
    """events from this timestep down draw fresh noise (quality boosting); 0 switches it off. The paper takes 200
    inside the trained domain, 0 outside"""
    events: Events = 50
    """at how many timesteps the method acts, evenly spaced, 2 to 1000, or `every`"""
    dt_lambda: Annotated[Number, Field(gt=0)] = 1.0
    """scale of the noisy direction at events from `dt_end` up; the paper takes 0.9985 for masked mixing; 1
    switches it off. Other values go with `plan: reference` ([why](speed.md#plans-by-name))"""
    dt_end: Timestep = 950
    """the lowest timestep at which `dt_lambda` acts"""
    omega: Annotated[tuple[Omega, ...], BeforeValidator(as_list), Field(min_length=1)] = (0.0,)
    """strength of style calibration, 0 switches it off. A list is a sweep"""
    mask: Annotated[tuple[Mask, ...], BeforeValidator(as_list), Field(min_length=1)] = (None,)
    """where content is injected: `null` everywhere, `reference` the paper's built-in mask, or one of the forms
    below. A list is a sweep"""
    edit: Annotated[tuple[EditSpec | None, ...], BeforeValidator(as_list), Field(min_length=1)] = (None,)
    """a [direction in h](directions.md) that is added at each injection: `{directions: FILE, component: 0,
    strength: [-2, 0, 2]}`. A list of strengths is a sweep, and so is a list of edits; strength 0 is the same as
    no edit"""
    start_from_content: Annotated[tuple[Fraction, ...], BeforeValidator(as_list), Field(min_length=1)] = (0.0,)
    """**beyond the paper**: how far the style's x_T is moved toward the content's before the first step, along the
    sphere, 0 to 1; 0 switches it off. It brings more of the content's layout, and its colours with it, which
    `match_colours` takes back ([measured](notes/leads.md)). Contents then keep their x_T in their bank. With a mask
    only inside it: outside, x_T stays the style's. A list is a sweep"""
    match_colours: Annotated[tuple[MatchColours, ...], BeforeValidator(as_list), Field(min_length=1)] = (None,)
    """**beyond the paper**: `histogram` gives the finished picture the histogram of each channel of the style's
    picture; `null` switches it off. Styles then keep the histograms of their pictures in their bank. With a mask too
    it is the whole picture that is matched to the whole style. A list is a sweep"""
    plan: Plan = "balanced"
    """which steps generation takes. A name: `reference` is `{grid: 1000}`, the paper's; `balanced` and `fast` are
    short grids near it, see [speed](speed.md). Or one of the forms below"""

    @model_validator(mode="after")
    def _goes_together(self) -> Injection:
        if self.events == "every" and self.plan_spec.grid is None:
            raise ValueError(
                "events: every needs a grid plan (plan: reference); the others are made around single events"
            )
        if self.t_start < self.t_edit:
            raise ValueError(
                f"t_start is {self.t_start}, below t_edit {self.t_edit}: content is injected from t_start down to "
                "t_edit"
            )
        return self

    @field_serializer("gamma", "omega", "mask", "edit", "start_from_content", "match_colours", mode="wrap")
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
