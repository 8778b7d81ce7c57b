"""The kinds of values in a job file, with messages in a job file's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)

from pipeline.storage.mistakes import shown
from pipeline.storage.yamlfile import Document

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # it has no public name

T_MAX = 999  # the last of the 1000 timesteps that every model here was trained with


class Strict(BaseModel):
    """Base of all: unknown fields are mistakes, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _InOurWords(ModelMetaclass):
    """Building such a model in Python says its mistakes as a file's are said; validating one is pydantic's own."""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError:
            mistakes = Document(cls.__name__, values)
        return mistakes.validate(cast(type[BaseModel], cls))  # raises MistakesError


class FromPython(Strict, metaclass=_InOurWords):
    """Base of those that users build: ``Job(model=...)`` raises a MistakesError, one line that names the field."""


class OneOf(Strict):
    """A mapping with exactly one of its fields given; it is written back as that one field."""

    @model_validator(mode="after")
    def _exactly_one(self) -> OneOf:
        if len(self._given()) != 1:
            names = [field.alias or name for name, field in type(self).model_fields.items()]
            raise ValueError(f"give exactly one of {', '.join(names)}")
        return self

    @model_serializer(mode="wrap")
    def _only_given(self, handler: Any) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    def _given(self) -> list[str]:
        return [name for name in type(self).model_fields if getattr(self, name) is not None]

    @property
    def kind(self) -> str:
        """The name of the field that is given."""
        return self._given()[0]


def _not_bool(value: Any) -> Any:
    # pydantic would take true and false for 1 and 0.
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {shown(value)}")
    return value


def only(word: str, wanted: str) -> BeforeValidator:
    """A check for the word of a field that may also be something else, so that the message names both."""

    def check(value: Any) -> Any:
        if value != word:
            raise ValueError(f"must be {wanted}, not {shown(value)}")
        return value

    return BeforeValidator(check)


def length(count: int, wanted: str) -> AfterValidator:
    def check(value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) != count:
            raise ValueError(f"must be {wanted}, not {shown(list(value))}")
        return value

    return AfterValidator(check)


def _no_negative_zero(value: float) -> float:
    return value + 0.0  # -0.0 and 0.0 are one number and must have one identity


def is_mapping(value: Any) -> bool:
    return isinstance(value, dict | BaseModel)


def is_word(value: Any) -> bool:
    return isinstance(value, str) and not value.strip().lstrip("+-").isdigit()


Number = Annotated[float, BeforeValidator(_not_bool), AfterValidator(_no_negative_zero), Field(allow_inf_nan=False)]
# Within 64 bits, as tables and random generators take them.
Whole = Annotated[int, BeforeValidator(_not_bool), Field(ge=-(2**63), lt=2**63)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Timestep = Annotated[Whole, Field(ge=0, le=T_MAX)]
Count = Annotated[Whole, Field(ge=1)]
_SECONDS_IN = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(value: Any) -> Any:
    """``90``, ``90s``, ``30m``, ``6h`` and ``30d`` as seconds."""
    if isinstance(value, str):
        number, unit = value.strip()[:-1], value.strip()[-1:]
        try:
            return float(number) * _SECONDS_IN[unit]
        except (KeyError, ValueError):
            raise ValueError(f"must be seconds, or a text like 90s, 30m, 6h or 30d, not {shown(value)}") from None
    return value


Seconds = Annotated[Number, BeforeValidator(_seconds), Field(gt=0)]
AutoCount = Annotated[
    Annotated[Literal["auto"], only("auto", "auto or a whole number"), Tag("<word>")]
    | Annotated[Annotated[Whole, Field(ge=1, le=4096)], Tag("<number>")],
    Discriminator(lambda value: "<word>" if is_word(value) else "<number>"),
]
AutoSwitch = Annotated[
    Annotated[Literal["auto"], only("auto", "auto, true or false"), Tag("<word>")] | Annotated[bool, Tag("<switch>")],
    Discriminator(lambda value: "<switch>" if isinstance(value, bool) else "<word>"),
]


def as_list(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else [value]


def plain_if_single(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else list(values)
