"""``injection.edit`` of a job: a direction in h that is added during generation, and how strongly."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_serializer, model_validator

from pipeline.jobfile.fields import Number, Strict, Whole, as_list, plain_if_single
from pipeline.storage.address import InputAddress, Text


class EditPoint(Strict):
    """One strength of an edit: as :class:`EditSpec`, with a single number."""

    directions: str
    component: int | None = None
    label: str | None = None
    against: str | None = None
    strength: float

    def __str__(self) -> str:
        against = f" against {self.against}" if self.against is not None else ""
        name = f"component {self.component}" if self.label is None else f"label {self.label}{against}"
        return f"{name} x {self.strength:g} of {self.directions.rpartition('/')[2]}"


class EditSpec(Strict):
    """A direction of a file that ``diffstyle bank directions`` wrote. ``strength`` may be a list: a sweep."""

    directions: InputAddress
    """a file that `diffstyle bank directions` wrote"""
    component: Annotated[Whole, Field(ge=0)] | None = None
    """which principal direction, from 0; either this or `label`"""
    label: Text | None = None
    """towards the mean of this label's pictures"""
    against: Text | None = None
    """with `label`: from the mean of this label's pictures; without it from that of all others"""
    strength: Annotated[tuple[Number, ...], BeforeValidator(as_list), Field(min_length=1)] = (1.0,)
    """1 is one standard deviation of the component, or the whole way between the means. A list is a sweep"""

    @model_validator(mode="after")
    def _one_direction(self) -> EditSpec:
        if (self.component is None) == (self.label is None):
            raise ValueError("give exactly one of component, label")
        if self.against is not None and (self.label is None or self.against == self.label):
            raise ValueError("against goes with label, and is another one")
        return self

    @field_serializer("strength", mode="wrap")
    def _as_written(self, values: tuple[float, ...], handler: Any) -> Any:
        return plain_if_single(handler(values))

    def points(self) -> list[EditPoint | None]:
        """One for each strength; None for 0, which is no edit at all."""
        fields = {name: getattr(self, name) for name in ("directions", "component", "label", "against")}
        return [EditPoint(**fields, strength=strength) if strength else None for strength in self.strength]
