"""Scoring: how much of the content and of the style each result has, and whether it is a sane picture at all.

The model itself encodes the result, the content and the style once, at a fixed low noise level (``measures/denoiser``);
the rest needs no network. Nothing of the results or of the manifest changes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from pipeline.models.session import LoadedModel
from pipeline.results.contact_sheets import read_picture
from pipeline.results.manifest import Manifest
from pipeline.results.scores import Scores, score_rows
from pipeline.shards.store import open_shards
from pipeline.stages.commit import OnDone, commit_outcomes
from pipeline.storage import merging
from pipeline.storage.identity import digest
from pipeline.storage.pair_ids import PairIds
from pipeline.storage.parts import now
from pipeline.storage.place import Place
from pipeline.storage.tables import DamagedError
from pipeline.workers.base import Pool
from pipeline.workers.unit import Outcome, halves

if TYPE_CHECKING:
    from torch import Tensor

#: Chosen by measurement (docs/scores.md): the noise level at which the model's features say most about a finished
#: picture, and how many of its first skips.
TIMESTEP = 50
SKIPS = 4

#: The manifest's columns that scoring reads.
COLUMNS = ("pair", "picture", "picture_hash", "content_image", "style_image")

PairRow = Mapping[str, Any]


def scores_identity(fingerprint: str) -> dict[str, Any]:
    """All that must be equal for two scores to be compared."""
    return {"model_fingerprint": fingerprint, "timestep": TIMESTEP, "skips": SKIPS}


@dataclass(frozen=True)
class Sources:
    """Where the prepared pictures of a side are.

    Attributes:
        shards: the shard store.
        rows: image -> its row of the store's index.
    """

    shards: Place
    rows: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, shards: Place) -> Sources:
        """All pictures of a shard store."""
        return cls(shards, {row["image"]: row for row in open_shards(shards).unique()})

    def only(self, images: set[str]) -> Sources:
        """The same for some images, to travel with a unit."""
        return replace(self, rows={image: self.rows[image] for image in images if image in self.rows})

    def read(self) -> dict[str, np.ndarray]:
        """image -> uint8 pixels (S, S, 3)."""
        if not self.rows:
            return {}
        pixels = open_shards(self.shards).read_many(list(self.rows.values()))
        return dict(zip(self.rows, pixels, strict=True))


def read_pixels(
    output: Place, pairs: Sequence[Mapping[str, Any]], sources: Sequence[Sources]
) -> tuple[list[np.ndarray | str], dict[str, np.ndarray]]:
    """The results' pixels, or why one can't be read, and the pixels of the sources by image."""
    pixels: dict[str, np.ndarray] = {}
    for side in sources:
        pixels.update(side.read())
    results: list[np.ndarray | str] = []
    for pair in pairs:
        try:
            results.append(read_picture(output, pair["picture"], pair["picture_hash"]))
        except DamagedError as error:
            results.append(str(error))
    return results, pixels


@dataclass(frozen=True)
class PicturesToScore:
    """Some results to be scored, by whatever.

    Attributes:
        output: the run's output folder.
        pairs: rows of the manifest, with COLUMNS.
        sources: where the pictures of contents and styles are; an image may be in none of them.
    """

    output: Place
    pairs: tuple[Mapping[str, Any], ...]
    sources: tuple[Sources, ...]

    @property
    def name(self) -> str:
        return f"score-{digest(*(pair['pair'] for pair in self.pairs))[:20]}"

    def load(self) -> tuple[list[np.ndarray | str], dict[str, np.ndarray]]:
        """As :func:`read_pixels` gives them."""
        return read_pixels(self.output, self.pairs, self.sources)

    def rows(self, results: Sequence[np.ndarray | str]) -> list[dict[str, Any]]:
        """A row for each pair that has no scores yet; of pictures that can't be read, why."""
        return [
            {"pair": pair["pair"], "created": now(), "error": result if isinstance(result, str) else None}
            for pair, result in zip(self.pairs, results, strict=True)
        ]

    def split(self) -> Sequence[Self]:
        return [replace(self, pairs=half) for half in halves(self.pairs)]


@dataclass(frozen=True)
class ScoreUnit(PicturesToScore):
    """Some results to be scored by the model itself.

    Attributes:
        style_returns: style image -> the PSNR of its reconstruction in dB, where known.
    """

    style_returns: Mapping[str, float]

    def compute(
        self, model: LoadedModel, loaded: tuple[list[np.ndarray | str], dict[str, np.ndarray]]
    ) -> list[dict[str, Any]]:
        """A row of scores for each pair."""
        results, sources = loaded
        whole = [n for n, result in enumerate(results) if not isinstance(result, str)]
        rows = self.rows(results)
        if not whole:
            return rows
        begun = time.perf_counter()
        images = sorted(sources)
        seen = _see(model, [sources[image] for image in images] + [results[n] for n in whole])  # type: ignore[misc]
        of_sources = dict(zip(images, seen, strict=False))
        own = dict(zip(whole, seen[len(images) :], strict=True))

        def some(indices: Sequence[int]) -> list[dict[str, Any]]:
            chosen = [whole[i] for i in indices]
            contents, styles = (
                [of_sources.get(self.pairs[n][f"{side}_image"]) for n in chosen] for side in ("content", "style")
            )
            return _scores([own[n] for n in chosen], contents, styles, model.device)

        for n, scores in zip(whole, model.in_batches(len(whole), some, fill=False), strict=True):
            rows[n] |= scores
            rows[n]["style_returns"] = self.style_returns.get(self.pairs[n]["style_image"])
        each = (time.perf_counter() - begun) / len(whole)
        for n in whole:
            infinite = [name for name, x in rows[n].items() if isinstance(x, float) and not math.isfinite(x)]
            if infinite:  # a null fulfils no condition; NaN would fulfil `> 0`
                rows[n] |= dict.fromkeys(infinite)
                rows[n]["error"] = f"not finite (NaN or infinite): {', '.join(infinite)}"
            rows[n]["seconds"] = each
        return rows

    def save(self, computed: list[dict[str, Any]]) -> pa.Table:
        return score_rows(computed)


class _Seen(NamedTuple):
    """A picture, and what the model sees in it: tensors with a batch axis of one, on the model's device.

    Gram matrices and not the skip features that they are of: those of a unit of large pictures would not fit in memory.
    """

    pixels: np.ndarray
    h: Tensor
    grams: tuple[Tensor, ...]


def _see(model: LoadedModel, pictures: Sequence[np.ndarray]) -> list[_Seen]:
    """What the model sees in each picture."""
    from diffstyle.images import to_tensor
    from pipeline.measures.denoiser import denoiser_features
    from pipeline.measures.features import gram

    def some(indices: Sequence[int]) -> list[_Seen]:
        x = to_tensor(np.stack([pictures[i] for i in indices])).to(model.device)
        h, skips = denoiser_features(model.unet, x, TIMESTEP, SKIPS)
        grams = [gram(skip) for skip in skips]
        return [_Seen(pictures[i], h[k : k + 1], tuple(g[k : k + 1] for g in grams)) for k, i in enumerate(indices)]

    return model.in_batches(len(pictures), some)


def _scores(
    own: Sequence[_Seen], contents: Sequence[_Seen | None], styles: Sequence[_Seen | None], device: str
) -> list[dict[str, Any]]:
    """The scores of some results; those whose source is not there are left out."""
    from pipeline.measures import features, pixels

    rows: list[dict[str, Any]] = [{} for _ in own]

    def fill(chosen: Sequence[int], **scores: Tensor) -> None:
        for name, values in scores.items():
            for n, value in zip(chosen, values.tolist(), strict=True):
                rows[n][name] = value

    with_content = [n for n, one in enumerate(contents) if one is not None]
    with_style = [n for n, one in enumerate(styles) if one is not None]
    with_both = [n for n in with_content if styles[n] is not None]
    if with_content:
        x, content = _Batch([own[n] for n in with_content], device), _Batch([contents[n] for n in with_content], device)
        fill(
            with_content,
            edges=pixels.edge_correlation(x.pixels, content.pixels),
            psnr_content=pixels.psnr(x.pixels, content.pixels),
            content_cosine=features.cosine(x.h, content.h),
        )
    if with_style:
        x, style = _Batch([own[n] for n in with_style], device), _Batch([styles[n] for n in with_style], device)
        fill(
            with_style,
            style_colour=pixels.colour_distance(x.pixels, style.pixels),
            psnr_style=pixels.psnr(x.pixels, style.pixels),
            style_gram=features.distance_of_grams(x.grams, style.grams),
        )
    if with_both:
        x, content, style = (_Batch([side[n] for n in with_both], device) for side in (own, contents, styles))
        usual = (pixels.contrast(content.pixels) + pixels.contrast(style.pixels)) / 2
        beyond = {
            name: measure(x.pixels) - measure(content.pixels).maximum(measure(style.pixels))
            for name, measure in (("clipped", pixels.clipped), ("dark", pixels.dark))
        }
        fill(
            with_both,
            content_kept=features.position(x.h, style.h, content.h),
            contrast=pixels.contrast(x.pixels) / usual.clamp_min(1e-6),
            **{name: value.clamp_min(0) for name, value in beyond.items()},
        )
    hashes = pixels.difference_hash(_Batch(own, device).pixels).cpu().numpy()
    for row, hashed in zip(rows, hashes, strict=True):
        row["phash"] = hashed.tobytes()
    return rows


class _Batch:
    """Several pictures that were seen, as tensors with N rows on the device."""

    def __init__(self, seen: Sequence[_Seen | None], device: str) -> None:
        import torch

        from diffstyle.images import to_tensor

        known = [one for one in seen if one is not None]
        self.pixels = to_tensor(np.stack([one.pixels for one in known])).to(device)
        self.h = torch.cat([one.h for one in known])
        self.grams = [torch.cat(layer) for layer in zip(*(one.grams for one in known), strict=True)]


# ---- the driver's side ----
class Unscored:
    """The pictures that lack scores. Memory: 16 bytes a pair; their rows come part by part.

    Args:
        manifest: The run's.
        scored: The pairs that have scores.
    """

    def __init__(self, manifest: Manifest, scored: PairIds) -> None:
        self._manifest = manifest
        self._pairs = manifest.known().done.without(scored)

    def __len__(self) -> int:
        return len(self._pairs)

    def images(self, side: str) -> set[str]:
        """The contents or the styles that they were made of."""
        return self._manifest.images(side, self._pairs)

    def units(self, size: int) -> Iterator[tuple[PairRow, ...]]:
        """Their rows, with COLUMNS, so many at a time."""
        waiting: list[PairRow] = []
        for rows in self._manifest.made(COLUMNS, self._pairs):
            for start in range(0, len(rows), size):
                waiting += rows.slice(start, size).to_pylist()
                if len(waiting) >= size:
                    yield tuple(waiting[:size])
                    del waiting[:size]
        if waiting:
            yield tuple(waiting)


def score_stage(
    pool: Pool | None,
    scores: Scores,
    todo: Unscored,
    sources: Sequence[Sources],
    style_returns: Mapping[str, float],
    per_unit: int,
    on_done: OnDone,
) -> tuple[int, int]:
    """Score the pictures of ``todo`` and commit them part by part; returns how many pairs were (scored, failed)."""

    def units() -> Iterator[ScoreUnit]:
        for pairs in todo.units(per_unit):
            images = {pair[f"{side}_image"] for pair in pairs for side in ("content", "style")}
            styles = {pair["style_image"] for pair in pairs}
            returns = {image: style_returns[image] for image in styles & set(style_returns)}
            yield ScoreUnit(scores.output, pairs, tuple(side.only(images) for side in sources), returns)

    n_committed = 0

    def commit(outcome: Outcome) -> tuple[int, int]:
        nonlocal n_committed
        if outcome.error is not None:
            rows = score_rows({"pair": p["pair"], "error": outcome.error, "created": now()} for p in outcome.unit.pairs)
        else:
            rows = outcome.result
        scores.commit(outcome.unit.name, rows)
        n_committed += 1
        if n_committed % merging.MANY == 0:
            scores.merge_small()
        failed = len(rows) - rows["error"].null_count
        return len(rows) - failed, failed

    counts = commit_outcomes(pool, units(), commit, on_done)
    scores.merge_small()
    return counts
