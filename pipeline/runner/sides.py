"""The two sides of a job, contents and styles, and the folders and banks that belong to each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.banks.description import BankDescription
from pipeline.jobfile.schema import BankSpec, Job, SampleSpec
from pipeline.models.session import ModelFacts
from pipeline.shards.decode import preparation
from pipeline.stages.recipe import needed_h
from pipeline.stages.walk import Walk
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place


@dataclass(frozen=True)
class Side:
    """Contents, styles, or both at once where the job names the same source twice."""

    name: str  # folder below shards/ and banks/
    role: str  # "content", "style" or "both"
    spec: Any  # SourceSpec, SampleSpec or BankSpec
    output: Place

    @property
    def shards(self) -> Place:
        return OutputLayout(self.output).shards(self.name)

    @property
    def bank(self) -> Place:
        if isinstance(self.spec, BankSpec):
            return Place.parse(self.spec.bank)
        return OutputLayout(self.output).bank(self.name)

    @property
    def needs_shards(self) -> bool:
        return not isinstance(self.spec, BankSpec | SampleSpec)


def sides(job: Job) -> list[Side]:
    """The job's sides. The same source as content and style is prepared and inverted once."""
    output = Place.parse(job.output)
    if job.content == job.style:
        return [Side("both", "both", job.content, output)]
    return [Side("content", "content", job.content, output), Side("style", "style", job.style, output)]


def bank_description(job: Job, side: Side, facts: ModelFacts) -> BankDescription:
    """The bank that a job makes for a side."""
    walk = Walk.of_job(job, side.spec)
    return BankDescription(
        model_fingerprint=facts.fingerprint,
        model_name=facts.name,
        image_size=facts.image_size,
        role=side.role,
        format=job.bank.format,
        inversion=walk.to_dict(),
        preprocessing=preparation(facts.image_size),
        h_timesteps=() if side.role == "style" else needed_h(job, walk),
        h_shape=facts.h_shape,
        h_dtype=job.bank.h,
        x_t_dtype=job.bank.x_t,
    )
