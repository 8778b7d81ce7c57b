"""``--dry-run``: what a job would do and write, without a model and without Ray. It reads lists, and a few pictures."""

from __future__ import annotations

from pipeline.banks.description import payload_bytes
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
from pipeline.stages.recipe import injection_plan
from pipeline.stages.walk import Walk

# How many pictures of a side are encoded to judge the size of results.
_TRIED = 4
# Where there are none: what prepared photographs of 256 px took.
_BYTES_A_PIXEL = {"png": 1.45, "jpeg": 0.43, "webp": 0.27}
# A tar's two headers, the padding, and the JSON with the row of the manifest.
_AROUND = {"folder": 0, "webdataset": 3 * 1024}


def preview(job: Job) -> list[str]:
    """The plan as lines of text.

    Counts are of listed pictures: copies and unreadable ones, which make the job smaller, are found only later. What an
    earlier run of the job has made already is counted too.
    """
    check_apart(sides(job))
    config = load_model_config(job.model)
    architecture = config.unet_architecture
    facts = ModelFacts(config.name, "0" * 32, config.size, architecture.h_shape)
    lines = [f"model      {config.name}: {config.family}, {config.size} px, h {'x'.join(map(str, facts.h_shape))}"]
    counts: dict[str, int] = {}
    walks: dict[str, Walk] = {}
    bank_bytes = calls = 0
    for side in sides(job):
        n, what = _count(side)
        counts[side.role] = n
        lines.append(f"{side.name:<10} {n} {what}")
        if isinstance(side.spec, BankSpec):
            walks[side.role] = Walk.of_bank(LatentBank.open(side.spec.bank).description)
            continue
        description = bank_description(job, side, facts)
        walk = walks[side.role] = Walk.of_bank(description)
        steps = walk.plan(keep=()).encodes
        size = payload_bytes(description, n, job.bank.part_size)
        calls, bank_bytes = calls + n * steps, bank_bytes + size
        kept = f", h at {len(description.h_timesteps)} timesteps" if description.keeps_h else ""
        each = f"{_size(size / n)} each" if n else "nothing"
        lines.append(f"  bank     {n} x {steps} network calls{kept}; {_size(size)} ({each})")
    n_contents, n_styles = (counts.get(role, counts.get("both", 0)) for role in ("content", "style"))
    n_pairs = _pairs(job, n_contents, n_styles)
    walk = walks.get("content") or walks["both"]
    lines.append(f"pairs      {n_pairs} ({_pairs_words(job)}) x {len(job.settings())} settings")
    for settings in job.settings():
        plan = injection_plan(settings, walk)
        calls += n_pairs * plan.encodes
        lines.append(
            f"  gamma {settings.to_dict()['gamma']}: {len(plan.steps)} steps, {plan.encodes} network calls, "
            f"{plan.decodes} decodes, {len(plan.injections)} injections a pair"
        )
    if (said := shortened_dt_lambda(job)) is not None:
        lines.append(f"  note: {said}")
    total = n_pairs * len(job.settings())
    each_picture, basis = _picture_bytes(job, config.size)
    lines.append(f"calls      {calls:,} network calls on one picture")
    lines.append(
        f"to write   banks {_size(bank_bytes)}; {total} pictures, about {_size(total * each_picture)} "
        f"as {job.pictures.format} ({basis})"
    )
    lines.append(f"output     {job.output}")
    return lines


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
    rows = read_list(job.pairs.file)
    return len(rows.group_by(rows.column_names).aggregate([]))


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
