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
from pipeline.banks.payload import payload_bytes
from pipeline.banks.tensors import role_tensors
from pipeline.jobfile.schema import BankSpec, Job, SampleSpec
from pipeline.models.session import ModelFacts
from pipeline.shards.decode import preparation
from pipeline.sources import SourceError
from pipeline.sources.addresses import resolve
from pipeline.stages.recipe import needed_h, needed_tensors, require_injections
from pipeline.stages.walk import Walk
from pipeline.storage.counts import count
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
        """The bank that the job names; else the first of the side, see :func:`plan_bank` for the one that serves."""
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
    needed = needed_tensors(job.settings())
    # Contents that results start from keep their x_T too.
    both = job.bank.role == "both" or (side.role == "content" and "x_t" in needed["content"])
    role = "both" if both else side.role
    if role == "style":
        h_timesteps: tuple[int, ...] = ()
    elif not (h_timesteps := needed_h(job, walk)):
        require_injections(job.settings()[0], walk)
    return BankDescription(
        model_fingerprint=facts.fingerprint,
        model_name=facts.name,
        image_size=facts.image_size,
        format=job.bank.format,
        inversion=walk.to_dict(),
        preprocessing=preparation(facts.image_size),
        tensors=role_tensors(
            role,
            facts.image_size,
            facts.h_shape,
            h_timesteps,
            h_dtype=job.bank.h,
            x_t_dtype=job.bank.x_t,
            colours=side.role != "content" and "colours" in needed["style"],
        ),
    )


@dataclass(frozen=True)
class PlannedBank:
    """The bank of a side, as it is or as the run would make it.

    Attributes:
        place: Where it is, or will be.
        description: What it keeps; of one that is there it may be more than the job asks for.
        made: Whether it is there.
        instead_of: Of a further bank of the side, which is not there yet: the first one that does not serve, and why.
    """

    place: Place
    description: BankDescription
    made: bool
    instead_of: str = ""

    def cost(self, n: int, part_size: int) -> str:
        """What ``n`` entries cost, in words."""
        calls = Walk.of_bank(self.description).plan(keep=()).encodes
        size = payload_bytes(self.description, n, part_size) / 1e6
        return f"{count(n, 'inversion')} of {count(calls, 'network call')}, {size:,.1f} MB"


def plan_bank(job: Job, side: Side, facts: ModelFacts) -> PlannedBank:
    """The bank that serves a side. Writes nothing.

    That is the bank whose identity is just what the job asks for, or else the first that keeps all of it and more.
    Where none of the side's banks serves, another one is made beside them, named by its identity.

    Raises:
        BankError, DescriptionError: A bank can't be read.
    """
    if isinstance(side.spec, BankSpec):
        return PlannedBank(side.bank, read_description(PartStore(side.bank))[0], True)
    asked = bank_description(job, side, facts)
    layout = OutputLayout(side.output)
    stored = {place: read_description(PartStore(place))[0] for place in layout.banks(side.name)}
    reasons = {place: misfits(description, asked) for place, description in stored.items()}
    serving = [place for place, clauses in reasons.items() if not clauses]
    if serving:
        place = min(serving, key=lambda one: stored[one].identity != asked.identity)  # of equals the first
        return PlannedBank(place, stored[place], True)
    first = layout.bank(side.name)
    if first not in stored:
        return PlannedBank(first, asked, False)
    clauses = in_words(reasons[first])
    return PlannedBank(layout.bank(side.name, asked.identity), asked, False, f"{first} {clauses}")
