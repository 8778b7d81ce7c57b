"""``--dry-run``: what a job would do and write, without a model and without Ray. It reads lists, and a few pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.banks.payload import payload_bytes
from pipeline.banks.reader import LatentBank
from pipeline.jobfile.schema import BankSpec, Job, ListedPairs, RandomPairs, SampleSpec
from pipeline.models.config import load_model_config
from pipeline.models.session import ModelFacts
from pipeline.results.pictures import encode
from pipeline.runner.sides import Side, bank_description, check_apart, sides
from pipeline.shards.decode import Undecodable, decode
from pipeline.sources import open_source
from pipeline.stages.inject import shortened_dt_lambda
from pipeline.stages.pairs import check_zip, read_list
from pipeline.stages.recipe import edit_of, injection_plan, open_directions
from pipeline.stages.walk import Walk

# How many pictures of a side are encoded to judge the size of results.
_TRIED = 4
# Where there are none: what prepared photographs of 256 px took.
_BYTES_A_PIXEL = {"png": 1.45, "jpeg": 0.43, "webp": 0.27}
# A tar's two headers, the padding, and the JSON with the row of the manifest.
_AROUND = {"folder": 0, "webdataset": 3 * 1024}


@dataclass(frozen=True)
class PreviewSide:
    """Contents or styles, or both at once.

    Attributes:
        name: ``content``, ``style`` or ``both``.
        pictures: How many there are.
        source: What they are, for people.
        network_calls: Calls that make an entry of the bank; 0 for a bank that is made already.
        h_timesteps: At how many timesteps the bank keeps h.
        bank_bytes: Size of the bank that would be made.
    """

    name: str
    pictures: int
    source: str
    network_calls: int = 0
    h_timesteps: int = 0
    bank_bytes: int = 0
    makes_bank: bool = False

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.name:<10} {self.pictures} {self.source}"]
        if self.makes_bank:
            kept = f", h at {self.h_timesteps} timesteps" if self.h_timesteps else ""
            each = f"{_size(self.bank_bytes / self.pictures)} each" if self.pictures else "nothing"
            calls = f"{self.pictures} x {self.network_calls} network calls"
            lines.append(f"  bank     {calls}{kept}; {_size(self.bank_bytes)} ({each})")
        return lines


@dataclass(frozen=True)
class PreviewSettings:
    """A point of the sweep: the steps of its walk, and what one pair takes of the network."""

    gamma: Any
    steps: int
    network_calls: int
    decodes: int
    injections: int
    edit: str | None = None  # the direction that is added to h, and its strength

    def __str__(self) -> str:
        edit = f", {self.edit}" if self.edit else ""
        return (
            f"gamma {self.gamma}{edit}: {self.steps} steps, {self.network_calls} network calls, "
            f"{self.decodes} decodes, {self.injections} injections a pair"
        )


@dataclass(frozen=True)
class Preview:
    """What a job would do and write; ``str()`` is what ``diffstyle plan`` prints.

    Counts are of listed pictures: copies and unreadable ones, which make the job smaller, are found only later. What an
    earlier run of the job has made already is counted too.

    Attributes:
        model: Its name; ``family`` its architecture, ``image_size`` in px, ``h_shape`` (C, h, w).
        sides: Contents and styles.
        pairs: How many pairs each point of the sweep has, ``pair_rule`` says which.
        settings: The points of the sweep.
        network_calls: Of the whole job, on one picture each.
        bank_bytes, picture_bytes: What would be written; ``basis`` says what the size of a picture is judged by.
        note: What to think about beforehand, or None.
    """

    model: str
    family: str
    image_size: int
    h_shape: tuple[int, ...]
    sides: tuple[PreviewSide, ...]
    pairs: int
    pair_rule: str
    settings: tuple[PreviewSettings, ...]
    network_calls: int
    bank_bytes: int
    picture_bytes: float
    picture_format: str
    basis: str
    output: str
    note: str | None = None

    @property
    def pictures(self) -> int:
        """How many pictures would be made in all."""
        return self.pairs * len(self.settings)

    def lines(self) -> list[str]:
        """For people."""
        h = "x".join(map(str, self.h_shape))
        lines = [f"model      {self.model}: {self.family}, {self.image_size} px, h {h}"]
        for side in self.sides:
            lines += side.lines()
        lines.append(f"pairs      {self.pairs} ({self.pair_rule}) x {len(self.settings)} settings")
        lines += [f"  {one}" for one in self.settings]
        if self.note is not None:
            lines.append(f"  note: {self.note}")
        lines.append(f"calls      {self.network_calls:,} network calls on one picture")
        lines.append(
            f"to write   banks {_size(self.bank_bytes)}; {self.pictures} pictures, about {_size(self.picture_bytes)} "
            f"as {self.picture_format} ({self.basis})"
        )
        lines.append(f"output     {self.output}")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())


def preview_job(job: Job) -> Preview:
    """See :func:`pipeline.preview`."""
    check_apart(sides(job))
    config = load_model_config(job.model)
    facts = ModelFacts(config.name, "0" * 32, config.size, config.unet_architecture.h_shape)
    previewed: list[PreviewSide] = []
    counts: dict[str, int] = {}
    walks: dict[str, Walk] = {}
    for side in sides(job):
        n, source = _count(side)
        counts[side.role] = n
        if isinstance(side.spec, BankSpec):
            walks[side.role] = Walk.of_bank(LatentBank.open(side.spec.bank).description)
            previewed.append(PreviewSide(side.name, n, source))
            continue
        description = bank_description(job, side, facts)
        walk = walks[side.role] = Walk.of_bank(description)
        previewed.append(
            PreviewSide(
                side.name,
                n,
                source,
                network_calls=walk.plan(keep=()).encodes,
                h_timesteps=len(description.h_timesteps) if description.keeps_h else 0,
                bank_bytes=payload_bytes(description, n, job.bank.part_size),
                makes_bank=True,
            )
        )
    n_pairs = _pairs(job, *(counts.get(role, counts.get("both", 0)) for role in ("content", "style")))
    walk = walks.get("content") or walks["both"]
    points: list[PreviewSettings] = []
    directions = open_directions(job, facts.h_shape, None)
    for settings in job.settings():
        plan = injection_plan(settings, walk)
        gamma = settings.to_dict()["gamma"]
        edit = settings.edit
        if edit is not None:
            edit_of(edit, directions[edit.directions], plan)  # or a ConfigError
        calls = len(plan.steps), plan.encodes, plan.decodes, len(plan.injections)
        points.append(PreviewSettings(gamma, *calls, None if edit is None else str(edit)))
    each_picture, basis = _picture_bytes(job, config.size)
    return Preview(
        model=config.name,
        family=config.family,
        image_size=config.size,
        h_shape=facts.h_shape,
        sides=tuple(previewed),
        pairs=n_pairs,
        pair_rule=_pairs_words(job),
        settings=tuple(points),
        network_calls=sum(side.pictures * side.network_calls for side in previewed)
        + n_pairs * sum(point.network_calls for point in points),
        bank_bytes=sum(side.bank_bytes for side in previewed),
        picture_bytes=n_pairs * len(points) * each_picture,
        picture_format=job.pictures.format,
        basis=basis,
        output=str(job.output),
        note=shortened_dt_lambda(job),
    )


def _count(side: Side) -> tuple[int, str]:
    if isinstance(side.spec, BankSpec):
        bank = LatentBank.open(side.spec.bank)
        return len(set(bank.index["image"].to_pylist())), f"pictures in the bank {bank.place}"
    if isinstance(side.spec, SampleSpec):
        return side.spec.sample, "samples of the model"
    source = open_source(side.spec)
    return source.count(), f"pictures in {source.text}"


def _picture_bytes(job: Job, image_size: int) -> tuple[float, str]:
    """(bytes of a result, what that is judged by): a few of the job's own pictures, as they would be written."""
    sizes: list[int] = []
    for side in sides(job):
        if not side.needs_shards:
            continue
        blocks = open_source(side.spec.model_copy(update={"limit": min(side.spec.limit or _TRIED, _TRIED)})).blocks({})
        for picture in (picture for block in blocks for picture in block.pictures()):
            try:
                pixels = decode(picture.data or b"", image_size).pixels
            except Undecodable:  # the run itself will say so
                continue
            sizes.append(len(encode(pixels, job.pictures)) + _AROUND[job.pictures.to])
    if sizes:
        return sum(sizes) / len(sizes), f"judged by {len(sizes)} of the sources"
    each = image_size**2 * _BYTES_A_PIXEL[job.pictures.format] + _AROUND[job.pictures.to]
    return each, "as photographs usually take"


def _pairs(job: Job, n_contents: int, n_styles: int) -> int:
    if job.pairs == "all":
        return n_contents * n_styles
    if job.pairs == "zip":
        check_zip(n_contents, n_styles)
        return n_contents
    if isinstance(job.pairs, RandomPairs):
        return n_contents * min(job.pairs.random, n_styles)
    return len({(row.content, row.style) for row in read_list(job.pairs.file)})


def _pairs_words(job: Job) -> str:
    if isinstance(job.pairs, RandomPairs):
        return f"{job.pairs.random} random styles for each content"
    return f"listed in {job.pairs.file}" if isinstance(job.pairs, ListedPairs) else job.pairs


def _size(n: float) -> str:
    """Bytes for people: 1 kB is 1000 B."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError
