"""Stage 3: inject contents into styles on the pool, tile by tile, and write pictures and manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, Protocol

import numpy as np

from diffstyle.schedule import N_TIMESTEPS
from pipeline.banks.description import BankDescription
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import COLOURS, BankError
from pipeline.jobfile.injection import InjectionSettings
from pipeline.jobfile.schema import Job, Pictures
from pipeline.models.session import ModelFacts
from pipeline.results.manifest import KnownPairs, Manifest
from pipeline.results.pictures import picture_settings
from pipeline.stages.commit import OnDone, commit_outcomes
from pipeline.stages.inject_unit import InjectUnit, Pair
from pipeline.stages.masks import Masks, load_masks, mask_path
from pipeline.stages.pairs import Entries, WantedPairs
from pipeline.stages.recipe import Recipe, as_json, make_recipe, needed_tensors, open_directions
from pipeline.stages.tiles import plan_tiles
from pipeline.stages.walk import Walk
from pipeline.storage import merging
from pipeline.storage.counts import count
from pipeline.storage.identity import ALGORITHM_VERSION, pair_digests, pair_id, with_length
from pipeline.storage.pair_ids import PairIds, from_bytes
from pipeline.storage.place import Place
from pipeline.workers.base import Pool
from pipeline.workers.unit import Outcome

# ---- planning ----


class DescribedBank(Protocol):
    """A bank, be it made already or not: where it lies and what it says of itself."""

    @property
    def place(self) -> Place: ...
    @property
    def description(self) -> BankDescription: ...


#: The field of a job for which a bank must keep more than it does otherwise.
_READ_BY = {("content", "x_t"): "start_from_content", ("style", "colours"): "match_colours"}


def check_banks(job: Job, facts: ModelFacts, content: DescribedBank, style: DescribedBank) -> None:
    """Refuse banks that don't belong to this model or lack what injection reads. BankError names the field."""
    needed = needed_tensors(job.settings())
    shapes = {"h": tuple(facts.h_shape), "x_t": (3, facts.image_size, facts.image_size), COLOURS.name: COLOURS.shape}
    for side, bank in (("content", content), ("style", style)):
        description = bank.description
        if description.model_fingerprint != facts.fingerprint:
            raise _refusal(
                side,
                bank,
                f"was made with another model: {description.model_name} with fingerprint "
                f"{description.model_fingerprint[:8]}, this job's {facts.name} has {facts.fingerprint[:8]}",
            )
        if description.image_size != facts.image_size:
            size = f"has pictures of {description.image_size} px, the model takes {facts.image_size}"
            raise _refusal(side, bank, size)
        for name in needed[side]:
            if not description.keeps(name):
                field = _READ_BY.get((side, name))
                read_by = f", which injection.{field} reads" if field else ""
                raise _refusal(side, bank, f"keeps {' and '.join(description.names)} and no {name}{read_by}")
            if (shape := description.tensor(name).shape) != shapes[name]:
                raise _refusal(side, bank, f"keeps {name} of shape {shape}, the model's is {shapes[name]}")
        steps, t_0 = (description.inversion.get(name) for name in ("steps", "t_0"))
        if type(steps) is not int or type(t_0) is not int or not 2 <= steps <= t_0 + 1 <= N_TIMESTEPS:
            raise _refusal(side, bank, "does not say in how many steps up to which t_0 it was inverted")
    if content.description.preprocessing != style.description.preprocessing:
        from pipeline.storage.differences import differences

        fields = "; ".join(differences(content.description.preprocessing, style.description.preprocessing))
        raise BankError(f"the content and style banks were preprocessed differently: {fields}")
    ends = Walk.of_bank(content.description).t_0, Walk.of_bank(style.description).t_0
    if ends[0] != ends[1]:
        raise BankError(f"the banks were inverted up to different timesteps: t_0 is {ends[0]} and {ends[1]}")


def _refusal(side: str, bank: DescribedBank, why: str) -> BankError:
    """That a bank can't serve, and how to get one that does."""
    return BankError(
        f"the {side} bank {bank.place} {why}; give the job its pictures in place of the bank ({side}: FOLDER), and "
        "`diffstyle precompute` makes one that fits"
    )


#: With fewer events the gaps between them are too long for the few steps of a short plan: measured on the demo's model,
#: `fast` has 43 dB at 16 events and 33 at 10, `balanced` 57 and 46.
FEW_EVENTS = 16


def too_short_plan(job: Job) -> str | None:
    """A warning where a short plan can't follow ``dt_lambda`` or long gaps, else None; docs/speed.md has figures."""
    injection = job.injection
    aligned = injection.plan_spec.aligned
    if injection.dt_lambda != 1 and (injection.plan_spec.grid or 0) < 1000:
        return (
            f"injection.dt_lambda is {injection.dt_lambda:g} and injection.plan is shorter than `reference`: "
            "expect 30 to 50 dB to its pictures instead of 55; say plan: reference, or dt_lambda: 1"
        )
    if aligned is not None and isinstance(injection.events, int) and injection.events * aligned.between < FEW_EVENTS:
        return (
            f"injection.events is {injection.events}, and injection.plan has {count(aligned.between, 'step')} over the "
            "long gaps between them: expect pictures far from those of 1000 steps; say plan: reference, or more events"
        )
    return None


def mixed_precision(job: Job, content: LatentBank, style: LatentBank) -> str | None:
    """A warning where pictures are generated in another precision than they were inverted in; None where they aren't.

    Rounded weights are another network, and only the one that made x_T maps it back (docs/speed.md has the figures).
    """
    precision = job.compute.precision
    others = {Walk.of_bank(bank.description).precision for bank in (content, style)} - {precision}
    if not others:
        return None
    return (
        f"the banks were inverted in {' and '.join(sorted(others))} and this job generates in {precision}: expect "
        f"pictures up to 20 dB worse than from banks of the job's own compute.precision"
    )


def recipes(
    job: Job, facts: ModelFacts, content: BankDescription, style: BankDescription, contents: Entries
) -> list[Recipe]:
    """The job's sweep, resolved against its banks, which need not be made yet."""
    shared: dict[str, Any] = {
        "model": facts.fingerprint,
        "content": _bank_identity(content, "h"),
        "style": _bank_identity(style, "x_t"),
        "precision": job.compute.precision,
        "pictures": picture_settings(job.pictures),
    }
    directions = open_directions(job, facts.h_shape, facts.fingerprint)
    named = {row["image"]: mask_path(row["source"] or row["key"]) for row in contents.rows}
    images, listing = contents.images, contents.listing
    listed = ((images[one.number], mask_path(one.source)) for one in listing if one.number is not None)
    copies = [(image, path) for image, path in listed if path != named[image]]
    sweep: list[Recipe] = []
    for settings in job.settings():
        masks: Masks = load_masks(settings, named, facts.image_size, facts.h_shape[1:], copies)
        own = shared
        if settings.start_from_content:
            start = {**shared["content"], "x_t_dtype": content.tensor("x_t").dtype}
            own = {**shared, "content": start}
        recipe = make_recipe(settings, Walk.of_bank(content), content.h_timesteps, own, masks, directions)
        # A mask may be written in two ways, as a rectangle and as a picture of it: one recipe, whose pairs count once.
        if masks.own is not None or recipe.digest not in {one.digest for one in sweep}:
            sweep.append(recipe)
    return sweep


def _bank_identity(description: BankDescription, tensor: str) -> dict[str, Any]:
    return {
        "inversion": description.inversion,
        "preprocessing": description.preprocessing,
        "dtype": description.tensor(tensor).dtype,
    }


def manifest_columns(job: Job, facts: ModelFacts, recipe: Recipe, content: LatentBank) -> dict[str, Any]:
    """The columns that all rows of a recipe share."""
    return {
        "settings": recipe.digest,
        "recipe": recipe.identity,
        **settings_columns(recipe.settings),
        "network_calls": recipe.plan.encodes,
        "inversion": as_json(content.description.inversion),
        "precision": job.compute.precision,
        "model": facts.name,
        "model_fingerprint": facts.fingerprint,
        "algorithm": ALGORITHM_VERSION,
    }


def settings_columns(settings: InjectionSettings) -> dict[str, Any]:
    """The columns of the manifest that a point of the sweep says by itself."""
    number = settings.gamma if isinstance(settings.gamma, int | float) else None
    values = settings.to_dict()
    return {
        "gamma": number,
        "gamma_schedule": None if number is not None else as_json(values["gamma"]),
        **{name: values[name] for name in ("t_edit", "t_boost", "dt_lambda", "dt_end", "omega")},
        "events": str(values["events"]),
        "mask": None if values["mask"] is None else as_json(values["mask"]),
        "edit": as_json(values["edit"]) if "edit" in values else None,
        "t_start": values.get("t_start"),
        "start_from_content": values.get("start_from_content"),
        "match_colours": values.get("match_colours"),
        "plan": as_json({name: value for name, value in values["plan"].items() if value is not None}),
        "seed": settings.seed,
    }


_IDS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class PairPlan:
    """What a job asks for: its sweep, its pictures, and the pairs of them as numbers, the same for each recipe."""

    recipes: list[Recipe]
    contents: Entries
    styles: Entries
    pairs: WantedPairs

    def __len__(self) -> int:
        return len(self.recipes) * len(self.pairs)

    def ids(self, recipe: Recipe) -> Iterator[np.ndarray]:
        """The pair ids of one recipe, in the order of ``pairs``: (n, 2) uint64, some ten thousand at a time."""
        images = self.contents.images
        masks = [recipe.masks.own_hash(image) for image in images]
        styles = [with_length(image) for image in self.styles.images]
        for begin in range(0, len(self.pairs), _IDS_AT_ONCE):
            numbers = (each[begin : begin + _IDS_AT_ONCE] for each in (self.pairs.contents, self.pairs.styles))
            by_content = groupby(zip(*(each.tolist() for each in numbers), strict=True), itemgetter(0))
            ids = (
                pair_digests(images[c], (styles[s] for _, s in pairs), recipe.digest, masks[c])
                for c, pairs in by_content
            )
            yield from_bytes(b"".join(chain.from_iterable(ids)))


@dataclass(frozen=True)
class Backlog:
    """What is left to do for one recipe: the pairs, as numbers, both (n,) int32."""

    recipe: Recipe
    contents: np.ndarray
    styles: np.ndarray
    n_done: int
    n_failed: int  # failed before, and not tried again
    n_twice: int  # asked for by another recipe too
    again: PairIds  # those that failed before and are tried again


def all_remaining(wanted: PairPlan, known: KnownPairs, retry: bool = False) -> list[Backlog]:
    """:func:`remaining` for each recipe, with no pair twice: two folders may hold the same mask for a content."""
    own = sum(recipe.masks.own is not None for recipe in wanted.recipes)
    planned = PairIds()
    work = []
    for recipe in wanted.recipes:
        work.append(remaining(wanted, recipe, known, retry, None if recipe.masks.own is None else planned))
        if own > 1 and recipe.masks.own is not None:
            planned = PairIds(planned.ids(), *wanted.ids(recipe))
    return work


def remaining(
    wanted: PairPlan,
    recipe: Recipe,
    known: KnownPairs,
    retry: bool = False,
    planned: PairIds | None = None,
) -> Backlog:
    """The wanted pairs that the manifest has neither as done nor, unless ``retry``, as failed; none of ``planned``."""
    planned = PairIds() if planned is None else planned
    c, s = wanted.pairs.contents, wanted.pairs.styles
    keep = np.ones(len(c), bool)
    n_done = n_failed = n_twice = 0
    again = []
    end = 0
    for ids in wanted.ids(recipe) if any(map(len, (known.done, known.failed, planned))) else ():
        begin, end = end, end + len(ids)
        twice = planned.contains(ids)
        done = known.done.contains(ids) & ~twice
        failed = known.failed.contains(ids) & ~twice & ~done
        n_twice, n_done = n_twice + int(twice.sum()), n_done + int(done.sum())
        if retry:
            again.append(ids[failed])
            failed[:] = False
        n_failed += int(failed.sum())
        keep[begin:end] = ~(twice | done | failed)
    if not keep.all():
        c, s = c[keep], s[keep]
    return Backlog(recipe, c, s, n_done, n_failed, n_twice, PairIds(*again))


def units(
    work: Backlog,
    wanted: PairPlan,
    shared: Mapping[str, Any],
    *,
    output: Place,
    content_bank: Place,
    style_bank: Place,
    pictures: Pictures,
    size: Callable[[int], int],
) -> Iterator[InjectUnit]:
    """The tiles of one recipe, made as they are asked for; ``size`` as for :func:`plan_tiles`."""
    recipe = work.recipe
    for tile in plan_tiles(work.contents, work.styles, size):
        pairs = tuple(
            _pair(recipe, wanted.contents.rows[c], wanted.styles.rows[s])
            for c, s in zip(tile.contents.tolist(), tile.styles.tolist(), strict=True)
        )
        needed = {pair.content["image"] for pair in pairs}
        own = recipe.masks.own
        masks = recipe.masks if own is None else Masks(own={image: own[image] for image in needed})
        yield InjectUnit(
            output, str(content_bank), str(style_bank), replace(recipe, masks=masks), pictures, shared, pairs
        )


def _pair(recipe: Recipe, content: Mapping[str, Any], style: Mapping[str, Any]) -> Pair:
    mask = recipe.masks.own_hash(content["image"])
    return Pair(pair_id(content["image"], style["image"], recipe.digest, mask), content, style, mask)


# ---- running ----


def inject_stage(
    pool: Pool,
    manifest: Manifest,
    tiles: Iterable[InjectUnit],
    on_done: OnDone,
) -> tuple[int, int]:
    """Run tiles and commit them; returns how many pairs were (made, failed). ``on_done`` hears of each tile."""

    n_committed = 0

    def commit(outcome: Outcome) -> tuple[int, int]:
        nonlocal n_committed
        unit: InjectUnit = outcome.unit
        if outcome.error is not None:
            rows, failed = None, [{**unit.row(pair), "status": "failed", "error": outcome.error} for pair in unit.pairs]
        else:
            rows, failed = outcome.result
        if rows is not None:
            manifest.commit(unit.name, rows)
        if failed:
            manifest.commit_failures(failed)
        n_committed += 1
        if n_committed % merging.MANY == 0:
            manifest.merge_small()
        return 0 if rows is None else len(rows), len(failed)

    counts = commit_outcomes(pool, tiles, commit, on_done)
    manifest.merge_small()
    return counts
