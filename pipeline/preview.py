"""``--dry-run``: what a job would do and write, without a model, without Ray and without decoding a picture."""

from __future__ import annotations

from typing import Any

from pipeline.bank import LatentBank
from pipeline.bank_format import payload_bytes
from pipeline.context import ModelFacts
from pipeline.job import BankSpec, Job, ListedPairs, RandomPairs, SampleSpec
from pipeline.models import load_model_config
from pipeline.pairs import read_table
from pipeline.recipe import injection_plan, kept_grid
from pipeline.run import Side, bank_description, sides
from pipeline.sources import open_source


def preview(job: Job) -> list[str]:
    """The plan as lines of text. Counts are of listed pictures: copies and unreadable ones are found only later."""
    config = load_model_config(job.model)
    architecture = config.unet_architecture
    facts = ModelFacts(config.name, "0" * 32, config.size, architecture.h_shape)
    lines = [f"model      {config.name}: {config.family}, {config.size} px, h {'x'.join(map(str, facts.h_shape))}"]
    counts: dict[str, int] = {}
    inversions: dict[str, dict[str, Any]] = {}
    bank_bytes = calls = 0
    for side in sides(job):
        n, what = _count(side)
        counts[side.role] = n
        lines.append(f"{side.name:<10} {n} {what}")
        if isinstance(side.spec, BankSpec):
            inversions[side.role] = LatentBank.open(side.spec.bank).description.inversion
            continue
        description = bank_description(job, side, facts)
        inversions[side.role] = description.inversion
        steps = job.inversion.steps - (0 if isinstance(side.spec, SampleSpec) else 1)
        size = payload_bytes(description, n, job.bank.part_size)
        calls, bank_bytes = calls + n * steps, bank_bytes + size
        kept = f", h at {len(description.h_timesteps)} timesteps" if description.keeps_h else ""
        each = f"{_size(size / n)} each" if n else "nothing"
        lines.append(f"  bank     {n} x {steps} network calls{kept}; {_size(size)} ({each})")
    n_contents, n_styles = (counts.get(role, counts.get("both", 0)) for role in ("content", "style"))
    n_pairs = _pairs(job, n_contents, n_styles)
    inversion = inversions.get("content") or inversions["both"]
    lines.append(f"pairs      {n_pairs} ({_pairs_words(job)}) x {len(job.settings())} settings")
    for settings in job.settings():
        plan = injection_plan(settings, kept_grid(inversion), int(inversion["t_0"]))
        calls += n_pairs * plan.encodes
        lines.append(
            f"  gamma {settings.to_dict()['gamma']}: {len(plan.steps)} steps, {plan.encodes} network calls, "
            f"{plan.decodes} decodes, {len(plan.injections)} injections a pair"
        )
    total = n_pairs * len(job.settings())
    raw = total * config.size**2 * 3
    lines.append(f"calls      {calls:,} network calls on one picture")
    lines.append(
        f"to write   banks {_size(bank_bytes)}; {total} pictures, at most {_size(raw)} as {job.pictures.format}"
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


def _pairs(job: Job, n_contents: int, n_styles: int) -> int:
    if job.pairs == "all":
        return n_contents * n_styles
    if job.pairs == "zip":
        return min(n_contents, n_styles)
    if isinstance(job.pairs, RandomPairs):
        return n_contents * min(job.pairs.random, n_styles)
    return len(read_table(job.pairs.file))


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
