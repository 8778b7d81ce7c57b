"""A tile as a unit of work: what a worker reads, computes and writes for a block of pairs of one recipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.banks.reader import LatentBank, cached_bank
from pipeline.jobfile.schema import Pictures
from pipeline.models.session import LoadedModel
from pipeline.results.manifest import manifest_rows, side_columns
from pipeline.results.pictures import Encoded, encode, write_pictures
from pipeline.stages.colours import with_colours
from pipeline.stages.recipe import Recipe, as_json, needed_tensors
from pipeline.storage.identity import digest, pair_seed
from pipeline.storage.parts import now
from pipeline.storage.place import Place
from pipeline.workers.unit import halves

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """One result to be made: its id and the index rows of its two pictures."""

    id: str
    content: Mapping[str, Any]
    style: Mapping[str, Any]
    mask: str = ""  # the hash of this content's own mask, where each has one

    @property
    def name(self) -> str:
        name = f"{self.content['key']}__{self.style['key']}"
        return f"{name}__{self.mask[:8]}" if self.mask else name


class Made(NamedTuple):
    """A result: uint8 pixels (H, W, 3), None where it is not finite; its share of seconds; how, as JSON."""

    pixels: np.ndarray | None
    seconds: float
    made_with: str


@dataclass(frozen=True)
class PairInputs:
    """What pairs are made of, by the hashes of their pictures.

    Attributes:
        h: Content image -> (K, C, h, w), one slice for each of the recipe's content timesteps.
        x_T: Style image -> (3, H, W).
        content_x_T: Content image -> (3, H, W), where the recipe starts from the content.
        colours: Style image -> (3, 256), where the recipe matches colours.
    """

    h: Mapping[str, np.ndarray]
    x_T: Mapping[str, np.ndarray]
    content_x_T: Mapping[str, np.ndarray] = field(default_factory=dict)
    colours: Mapping[str, np.ndarray] = field(default_factory=dict)


def read_inputs(content_bank: LatentBank, style_bank: LatentBank, recipe: Recipe, pairs: Sequence[Pair]) -> PairInputs:
    """What the banks have of the pairs, each distinct picture read once."""
    contents = sorted({pair.content["image"] for pair in pairs})
    styles = sorted({pair.style["image"] for pair in pairs})
    slots = [content_bank.description.h_timesteps.index(t) for t in recipe.plan.content_timesteps]
    needed = needed_tensors([recipe.settings])
    of_contents = content_bank.get_many(contents, needed["content"])
    of_styles = style_bank.get_many(styles, needed["style"])
    return PairInputs(
        h={entry.image: entry.tensors["h"][slots] for entry in of_contents},
        x_T={entry.image: entry.tensors["x_t"] for entry in of_styles},
        content_x_T={entry.image: entry.tensors["x_t"] for entry in of_contents if "x_t" in entry.tensors},
        colours={entry.image: entry.tensors["colours"] for entry in of_styles if "colours" in entry.tensors},
    )


def inject_batch(
    context: LoadedModel,
    recipe: Recipe,
    pairs: Sequence[Pair],
    inputs: PairInputs,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Inject contents into styles, all in one batch.

    Args:
        context: The model on its device.
        recipe: How.
        pairs: Those to be made.
        inputs: Of all of them.
        on_step: Called after each step with the number of steps done and their total.

    Returns:
        The results, (B, 3, H, W) float32 in about [-1, 1], not clipped, on the CPU.
    """
    import torch

    from diffstyle.extensions import start_from_content
    from diffstyle.noise import seeded_noise
    from diffstyle.sampling import inject

    def stacked(arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays)).float().to(context.device)

    settings = recipe.settings
    x_T = stacked([inputs.x_T[pair.style["image"]] for pair in pairs])
    h = stacked([inputs.h[pair.content["image"]] for pair in pairs])
    masks = [recipe.masks.of(pair.content["image"]) for pair in pairs]
    mask = torch.from_numpy(np.stack(masks)).to(context.device) if masks[0] is not None else None  # type: ignore[arg-type]
    seeds = [pair_seed(settings.seed or 0, pair.content["image"], pair.style["image"]) for pair in pairs]
    if settings.start_from_content:
        of_content = stacked([inputs.content_x_T[pair.content["image"]] for pair in pairs])
        x_T = start_from_content(x_T, of_content, settings.start_from_content, mask)
    return inject(
        context.unet,
        x_T,
        h,
        recipe.plan.content_timesteps,
        recipe.plan,
        torch.tensor([recipe.gammas], dtype=torch.float32) if recipe.gammas else 0.0,
        omega=settings.omega,
        mask=mask,
        edit=None if recipe.edit is None else torch.from_numpy(recipe.edit).to(context.device),
        noise=lambda t: seeded_noise(seeds, t, x_T.shape[1:]),
        on_step=on_step,
    ).cpu()


def make_pairs(context: LoadedModel, recipe: Recipe, pairs: Sequence[Pair], inputs: PairInputs) -> list[Made]:
    """The result of each pair, in their order, in batches of the model's size; see :func:`inject_batch`."""
    import torch

    from diffstyle.images import to_uint8

    def finished(pair: Pair, pixels: np.ndarray) -> np.ndarray:
        return with_colours(pixels, inputs.colours[pair.style["image"]]) if recipe.settings.match_colours else pixels

    def one(indices: Sequence[int]) -> list[Made]:
        begun = time.perf_counter()
        chosen = [pairs[i] for i in indices]
        results = inject_batch(context, recipe, chosen, inputs)
        finite = torch.isfinite(results).flatten(1).all(1)
        seconds = (time.perf_counter() - begun) / len(set(indices))
        made_with = as_json({**context.made_with, "batch": len(indices)})
        return [
            Made(finished(pair, to_uint8(result)) if ok else None, seconds, made_with)
            for pair, result, ok in zip(chosen, results, finite, strict=True)
        ]

    return context.in_batches(len(pairs), one)


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

    @property
    def network_calls(self) -> int:
        """On one picture each."""
        return self.recipe.plan.encodes * len(self.pairs)

    def load(self) -> PairInputs:
        """See :func:`read_inputs`."""
        return read_inputs(cached_bank(self.content_bank), cached_bank(self.style_bank), self.recipe, self.pairs)

    def compute(self, context: LoadedModel, loaded: PairInputs) -> list[Made]:
        """The result of each pair."""
        return make_pairs(context, self.recipe, self.pairs, loaded)

    def save(self, computed: list[Made]) -> tuple[pa.Table | None, list[dict]]:
        """(manifest rows of the pictures written, rows of the pairs that failed)."""
        pictures, failed = [], []
        for pair, (pixels, seconds, made_with) in zip(self.pairs, computed, strict=True):
            row = {**self.row(pair, seconds), "made_with": made_with}
            if pixels is None:
                failed.append({**row, "status": "failed", "error": "the result is not finite"})
                continue
            row["height"], row["width"] = pixels.shape[:2]
            pictures.append(Encoded(pair.name, encode(pixels, self.pictures), {**row, "status": "ok"}))
        if not pictures:
            return None, failed
        # A table, and made here: the driver has all workers' rows to commit, and dicts cost it most.
        return manifest_rows(write_pictures(self.output, self.pictures, self.recipe.slug, self.name, pictures)), failed

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
        return [replace(self, pairs=half) for half in halves(self.pairs)]
