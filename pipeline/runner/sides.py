"""The two sides of a job, contents and styles, and the folders and banks that belong to each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffstyle.errors import ConfigError
from pipeline.banks.description import BankDescription
from pipeline.banks.fit import in_words, misfits
from pipeline.banks.index import read_description
from pipeline.banks.tensors import BankError, role_tensors
from pipeline.jobfile.schema import BankSpec, Job, SampleSpec
from pipeline.models.session import ModelFacts
from pipeline.shards.decode import preparation
from pipeline.sources import SourceError
from pipeline.sources.addresses import resolve
from pipeline.stages.recipe import needed_h
from pipeline.stages.walk import Walk
from pipeline.storage.layout import OutputLayout
from pipeline.storage.parts import PartStore
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


def check_apart(sides: Sequence[Side]) -> None:
    """Refuse a data set that is the job's own output, or a folder in it: the job would feed on what it makes.

    An output below a folder of pictures is left out by the source itself.

    Raises:
        ConfigError: names the side and the folder.
    """
    for side in sides:
        if not side.needs_shards:
            continue
        layout = OutputLayout(side.output)
        output = _real(side.output)
        own = [_real(folder) for folder in (layout.pictures, layout.contact_sheets, side.output / "shards")]
        for address in side.spec.addresses:
            with contextlib.suppress(SourceError):  # what is wrong with an address the stage itself says
                for place in resolve(address, None):
                    real = _real(place)
                    if real == output or any(f"{real}/".startswith(f"{folder}/") for folder in own):
                        raise ConfigError(
                            f"{side.name}: {place} is the output of this job, which would read what it makes; "
                            "give the job another output folder"
                        )


def _real(place: Place) -> str:
    return os.path.realpath(place.path) if place.is_local else str(place)


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
        format=job.bank.format,
        inversion=walk.to_dict(),
        preprocessing=preparation(facts.image_size),
        tensors=role_tensors(
            side.role,
            facts.image_size,
            facts.h_shape,
            () if side.role == "style" else needed_h(job, walk),
            h_dtype=job.bank.h,
            x_t_dtype=job.bank.x_t,
        ),
    )


@dataclass(frozen=True)
class PlannedBank:
    """The bank of a side, as it is or as the run would make it."""

    place: Place
    description: BankDescription
    made: bool


def plan_bank(job: Job, side: Side, facts: ModelFacts) -> PlannedBank:
    """The bank that serves a side. Writes nothing.

    Raises:
        BankError: It can't be read, or does not serve this job; in a sentence that says what differs.
    """
    if isinstance(side.spec, BankSpec):
        return PlannedBank(side.bank, read_description(PartStore(side.bank))[0], True)
    asked = bank_description(job, side, facts)
    if not PartStore(side.bank).exists():
        return PlannedBank(side.bank, asked, False)
    stored = read_description(PartStore(side.bank))[0]
    if clauses := misfits(stored, asked):
        raise BankError(f"{side.bank} {in_words(clauses)}; give this job another output folder")
    return PlannedBank(side.bank, stored, True)
