"""Stage 3: inject contents into styles on the pool, tile by tile, and write pictures and manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffstyle.errors import DiffStyleError
from pipeline.bank import LatentBank
from pipeline.context import ModelContext, ModelFacts, cached_bank
from pipeline.engine import Outcome, Pool
from pipeline.identity import ALGORITHM_VERSION, digest, pair_id, pair_seed
from pipeline.job import Job, Pictures
from pipeline.manifest import Manifest, now, side_columns
from pipeline.pairs import Entries
from pipeline.pictures import Encoded, encode, picture_settings, write_pictures
from pipeline.recipe import Masks, Recipe, as_json, load_masks, make_recipe
from pipeline.storage import Place
from pipeline.tiles import plan_tiles


class BankMismatchError(DiffStyleError):
    """A bank that can't be used for this job: another model, size, preprocessing or role."""


@dataclass(frozen=True)
class Pair:
    """One result to be made: its id and the index rows of its two pictures."""

    id: str
    content: Mapping[str, Any]
    style: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.content['key']}__{self.style['key']}"


@dataclass(frozen=True)
class InjectUnit:
    """A tile: pairs of one recipe, made into one part of the output."""

    output: Place
    content_bank: str
    style_bank: str
    recipe: Recipe
    pictures: Pictures
    shared: Mapping[str, Any]  # the manifest's columns that all rows share
    pairs: tuple[Pair, ...]

    @property
    def name(self) -> str:
        return f"tile-{digest(*(pair.id for pair in self.pairs))[:20]}"

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """h (K, C, h, w) by content image and x_T (3, H, W) by style image, each distinct one read once."""
        contents = sorted({pair.content["image"] for pair in self.pairs})
        styles = sorted({pair.style["image"] for pair in self.pairs})
        content_bank, style_bank = cached_bank(self.content_bank), cached_bank(self.style_bank)
        slots = [content_bank.description.h_timesteps.index(t) for t in self.recipe.plan.content_timesteps]
        h = {entry.image: entry.h[slots] for entry in content_bank.get_many(contents, ("h",))}
        x_T = {entry.image: entry.x_t for entry in style_bank.get_many(styles, ("x_t",))}
        return h, x_T

    def compute(self, context: ModelContext, loaded: tuple[dict, dict]) -> list[tuple[np.ndarray | None, float]]:
        """For each pair its uint8 pixels (H, W, 3), None where the result is not finite, and its share of seconds."""
        import torch

        from diffstyle.images import to_uint8
        from diffstyle.noise import seeded_noise
        from diffstyle.sampling import inject

        h, x_T = loaded
        recipe, settings = self.recipe, self.recipe.settings
        gamma = torch.tensor([recipe.gammas], dtype=torch.float32) if recipe.gammas else 0.0

        def one(indices: Sequence[int]) -> list[tuple[np.ndarray | None, float]]:
            begun = time.perf_counter()
            chosen = [self.pairs[i] for i in indices]
            style = torch.from_numpy(np.stack([x_T[pair.style["image"]] for pair in chosen])).float()
            content = torch.from_numpy(np.stack([h[pair.content["image"]] for pair in chosen])).float()
            masks = [recipe.masks.of(pair.content["image"]) for pair in chosen]
            mask = torch.from_numpy(np.stack(masks)).to(context.device) if masks[0] is not None else None  # type: ignore[arg-type]
            seeds = [pair_seed(settings.seed or 0, pair.content["image"], pair.style["image"]) for pair in chosen]
            results = inject(
                context.unet,
                style.to(context.device),
                content.to(context.device),
                recipe.plan.content_timesteps,
                recipe.plan,
                gamma,
                omega=settings.omega,
                mask=mask,
                noise=lambda t: seeded_noise(seeds, t, style.shape[1:]),
            ).cpu()
            finite = torch.isfinite(results).flatten(1).all(1)
            seconds = (time.perf_counter() - begun) / len(set(indices))
            return [(to_uint8(result) if ok else None, seconds) for result, ok in zip(results, finite, strict=True)]

        return context.in_batches(len(self.pairs), one)

    def save(self, computed: list[tuple[np.ndarray | None, float]]) -> tuple[list[dict], list[dict]]:
        """(rows of the pictures written, rows of the pairs that failed)."""
        pictures, failed = [], []
        for pair, (pixels, seconds) in zip(self.pairs, computed, strict=True):
            row = self.row(pair, seconds)
            if pixels is None:
                failed.append({**row, "status": "failed", "error": "the result is not finite"})
                continue
            row["height"], row["width"] = pixels.shape[:2]
            pictures.append(Encoded(pair.name, encode(pixels, self.pictures), {**row, "status": "ok"}))
        rows = write_pictures(self.output, self.pictures, self.recipe.slug, self.name, pictures) if pictures else []
        return rows, failed

    def row(self, pair: Pair, seconds: float | None = None) -> dict[str, Any]:
        """The manifest row of a pair, without what is known only of its picture."""
        return {
            **self.shared,
            "pair": pair.id,
            "seconds": seconds,
            "created": now(),
            **side_columns("content", pair.content),
            **side_columns("style", pair.style),
        }

    def split(self) -> Sequence[InjectUnit]:
        half = len(self.pairs) // 2
        if not half:
            return []
        return [replace(self, pairs=self.pairs[:half]), replace(self, pairs=self.pairs[half:])]


# ---- planning ----


def check_banks(facts: ModelFacts, content: LatentBank, style: LatentBank) -> None:
    """Refuse banks that don't belong to this model or lack what injection reads. BankMismatchError names the field."""
    for side, bank in (("content", content), ("style", style)):
        what = bank.description
        if what.model_fingerprint != facts.fingerprint:
            raise BankMismatchError(
                f"the {side} bank {bank.place} was made with another model: {what.model_name} with fingerprint "
                f"{what.model_fingerprint[:8]}, this job's {facts.name} has {facts.fingerprint[:8]}; make a new bank"
            )
        if what.image_size != facts.image_size:
            raise BankMismatchError(
                f"the {side} bank {bank.place} has pictures of {what.image_size} px, the model takes {facts.image_size}"
            )
        if not (what.keeps_h if side == "content" else what.keeps_x_t):
            lacking = "h" if side == "content" else "x_T"
            raise BankMismatchError(
                f"the {side} bank {bank.place} has role {what.role} and keeps no {lacking}; make one with role both"
            )
    if content.description.preprocessing != style.description.preprocessing:
        from pipeline.parts import differences

        fields = "; ".join(differences(content.description.preprocessing, style.description.preprocessing))
        raise BankMismatchError(f"the content and style banks were preprocessed differently: {fields}")
    t_0 = content.description.inversion["t_0"], style.description.inversion["t_0"]
    if t_0[0] != t_0[1]:
        raise BankMismatchError(f"the banks were inverted up to different timesteps: t_0 is {t_0[0]} and {t_0[1]}")


def recipes(job: Job, facts: ModelFacts, content: LatentBank, style: LatentBank, contents: Entries) -> list[Recipe]:
    """The job's sweep, resolved against its banks."""
    shared = {
        "model": facts.fingerprint,
        "content": _bank_identity(content, "h_dtype"),
        "style": _bank_identity(style, "x_t_dtype"),
        "precision": job.compute.precision,
        "pictures": picture_settings(job.pictures),
    }
    named = {row["image"]: row["source"] or row["key"] for row in contents.rows}
    found = []
    for settings in job.settings():
        masks: Masks = load_masks(settings, named, facts.image_size, facts.h_shape[1:])
        what = content.description
        found.append(make_recipe(settings, what.inversion, what.h_timesteps, shared, masks))
    return found


def _bank_identity(bank: LatentBank, dtype: str) -> dict[str, Any]:
    what = bank.description
    return {"inversion": what.inversion, "preprocessing": what.preprocessing, "dtype": getattr(what, dtype)}


def manifest_columns(job: Job, facts: ModelFacts, recipe: Recipe, content: LatentBank) -> dict[str, Any]:
    """The columns that all rows of a recipe share."""
    settings = recipe.settings
    number = settings.gamma if isinstance(settings.gamma, int | float) else None
    said = settings.to_dict()
    return {
        "settings": recipe.digest,
        "gamma": number,
        "gamma_schedule": None if number is not None else as_json(said["gamma"]),
        **{name: said[name] for name in ("t_edit", "t_boost", "dt_lambda", "dt_end", "omega")},
        "events": str(said["events"]),
        "mask": None if said["mask"] is None else as_json(said["mask"]),
        "plan": as_json({name: value for name, value in said["plan"].items() if value is not None}),
        "network_calls": recipe.plan.encodes,
        "seed": settings.seed,
        "inversion": as_json(content.description.inversion),
        "precision": job.compute.precision,
        "model": facts.name,
        "model_fingerprint": facts.fingerprint,
        "algorithm": ALGORITHM_VERSION,
    }


@dataclass(frozen=True)
class Work:
    """What is left to do for one recipe: pair numbers, and ids for them."""

    recipe: Recipe
    contents: np.ndarray
    styles: np.ndarray
    n_done: int
    n_failed: int


def remaining(
    recipe: Recipe,
    contents: Entries,
    styles: Entries,
    wanted: tuple[np.ndarray, np.ndarray],
    done: set[str],
    failed: set[str],
) -> Work:
    """The pairs of ``wanted`` that the manifest has neither as done nor as failed."""
    c_images, s_images = contents.images, styles.images
    mask_hashes = [recipe.masks.own_hash(image) for image in c_images]
    keep = np.ones(len(wanted[0]), bool)
    n_done = n_failed = 0
    if done or failed:
        for n, (c, s) in enumerate(zip(wanted[0].tolist(), wanted[1].tolist(), strict=True)):
            identifier = pair_id(c_images[c], s_images[s], recipe.digest, mask_hashes[c])
            if identifier in done:
                n_done += 1
                keep[n] = False
            elif identifier in failed:
                n_failed += 1
                keep[n] = False
    return Work(recipe, wanted[0][keep], wanted[1][keep], n_done, n_failed)


def units(
    work: Work,
    contents: Entries,
    styles: Entries,
    shared: Mapping[str, Any],
    *,
    output: Place,
    content_bank: Place,
    style_bank: Place,
    pictures: Pictures,
    pairs_per_tile: int,
) -> Iterator[InjectUnit]:
    """The tiles of one recipe, made as they are asked for."""
    recipe = work.recipe
    for tile in plan_tiles(work.contents, work.styles, pairs_per_tile):
        pairs = tuple(
            Pair(
                pair_id(
                    contents.rows[c]["image"],
                    styles.rows[s]["image"],
                    recipe.digest,
                    recipe.masks.own_hash(contents.rows[c]["image"]),
                ),
                contents.rows[c],
                styles.rows[s],
            )
            for c, s in zip(tile.contents.tolist(), tile.styles.tolist(), strict=True)
        )
        needed = {pair.content["image"] for pair in pairs}
        own = recipe.masks.own
        masks = recipe.masks if own is None else Masks(own={image: own[image] for image in needed})
        yield InjectUnit(
            output, str(content_bank), str(style_bank), replace(recipe, masks=masks), pictures, shared, pairs
        )


# ---- running ----


def inject_stage(
    pool: Pool,
    manifest: Manifest,
    tiles: Iterable[InjectUnit],
    *,
    retry_failed: bool,
    on_done: Callable[[int, int, Outcome], None],
) -> tuple[int, int]:
    """Run tiles and commit them; returns how many pairs were (made, failed). ``on_done`` hears of each tile."""
    n_done = n_failed = 0
    for outcome in pool.run(tiles):
        unit: InjectUnit = outcome.unit
        if outcome.error is not None:
            rows, failed = [], [{**unit.row(pair), "status": "failed", "error": outcome.error} for pair in unit.pairs]
        else:
            rows, failed = outcome.result
        if rows:
            manifest.commit(unit.name, rows)
        if retry_failed:
            manifest.drop_failures({pair.id for pair in unit.pairs})
        if failed:
            manifest.commit(f"failed-{digest(*(row['pair'] for row in failed))[:20]}", failed)
        n_done, n_failed = n_done + len(rows), n_failed + len(failed)
        on_done(len(rows), len(failed), outcome)
    return n_done, n_failed
