"""What a job can be refused for, looked at before its run writes anything: a refused run changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffstyle.errors import ConfigError
from pipeline.jobfile.schema import Job, ListedPairs
from pipeline.models.config import load_model_config
from pipeline.models.session import ModelFacts
from pipeline.results.manifest import Manifest
from pipeline.results.scores import Scores
from pipeline.runner.pools import kept_batches
from pipeline.runner.sides import PlannedBank, Side, check_apart, plan_bank
from pipeline.shards.decode import preparation
from pipeline.shards.store import ShardStore
from pipeline.sources import open_source
from pipeline.stages.inject import check_banks
from pipeline.stages.masks import load_masks
from pipeline.stages.pairs import check_zip, read_list
from pipeline.stages.recipe import (
    check_timesteps,
    edit_of,
    injection_plan,
    open_directions,
    require_injections,
)
from pipeline.stages.score import scores_identity
from pipeline.stages.walk import Walk
from pipeline.storage.layout import OutputLayout
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place


def check_job(job: Job, sides: Sequence[Side], stages: Sequence[str], facts: ModelFacts | None) -> None:
    """Refuse a job before any of its stages begins. Reads descriptions, lists and the model's facts; writes nothing.

    What only shows in the pictures themselves (none can be read, a content without a mask) is told by the stages.

    Args:
        job: The job.
        sides: Its sides.
        stages: Those that are to run.
        facts: The model; None where only ``shard`` is to run.

    Raises:
        DiffStyleError: As the stages do.
    """
    output = Place.parse(job.output)
    if (why := file_in_the_way(output)) is not None:
        raise ConfigError(why)
    if (own := OutputLayout.own_job(output)) is not None:
        raise ConfigError(
            f"output: {own} is a job file of yours, and a run keeps its own job.yaml there; give another folder, as "
            f"{output}/results"
        )
    manifest = Manifest(output)
    manifest.check()
    if facts is not None and job.compute.batch == "auto":
        kept_batches(job)
    if "score" in stages and facts is not None:
        if "inject" not in stages and not manifest.store.exists():
            raise ConfigError(f"{output}: no pictures to score yet; run the job first")
        Scores(output).check(scores_identity(facts.fingerprint))
    if not {"shard", "precompute", "inject"} & set(stages):
        return
    check_apart(sides)
    for side in sides:
        if side.needs_shards:
            _check_data_set(job, side, stages)
    if facts is None:
        return
    banks = [plan_bank(job, side, facts) for side in sides]
    if "precompute" not in stages:
        for bank in banks:
            require_made(bank)
    if "inject" in stages:
        _check_pairs(job, sides)
        _check_injection(job, facts, banks[0], banks[-1])


def file_in_the_way(output: Place) -> str | None:
    """What is to be done where a file is at the output's place, or at that of a folder above it."""
    if not output.is_local:
        return None
    folder = Path(output.path)
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if nearest.is_dir():
        return None
    return f"output: {nearest} is a file, where a folder should be; move it away, or give another output"


def require_made(bank: PlannedBank) -> None:
    """ConfigError for a bank that is not there yet, where it is not to be made now."""
    if not bank.made:
        why = f" ({bank.instead_of})" if bank.instead_of else ""
        raise ConfigError(f"{bank.place}: no latent bank yet{why}; run `diffstyle precompute` on the job first")


def _check_data_set(job: Job, side: Side, stages: Sequence[str]) -> None:
    source = open_source(side.spec.model_copy(update={"limit": 1}))
    if "shard" in stages:
        ShardStore(side.shards).check(preparation(load_model_config(job.model).size), side.spec.reading)
        next(iter(source.blocks({}, 1)), None)  # or a SourceError, for one that is empty or not of its kind
    elif "precompute" in stages and not PartStore(side.shards).exists():
        raise ConfigError(f"{side.shards}: no prepared pictures yet; run `diffstyle shard` on the job first")


def _check_pairs(job: Job, sides: Sequence[Side]) -> None:
    if isinstance(job.pairs, ListedPairs):
        for _ in read_list(job.pairs.file):  # to its end, for the mistakes
            pass
    elif job.pairs == "zip" and all(side.needs_shards for side in sides):
        check_zip(*(open_source(side.spec).count() for side in (sides[0], sides[-1])))


def _check_injection(job: Job, facts: ModelFacts, content: PlannedBank, style: PlannedBank) -> None:
    check_banks(job, facts, content, style)
    directions = open_directions(job, facts.h_shape, facts.fingerprint)
    walk = Walk.of_bank(content.description)
    for settings in job.settings():
        require_injections(settings, walk)
        plan = injection_plan(settings, walk)
        check_timesteps(plan, content.description.h_timesteps, content.place)
        if settings.edit is not None:
            edit_of(settings.edit, directions[settings.edit.directions], plan)
        if settings.mask is not None and getattr(settings.mask, "folder", None) is None:
            load_masks(settings, {}, facts.image_size, facts.h_shape[1:])
