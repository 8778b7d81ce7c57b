"""Scoring: how much of the content and of the style each result has, and whether it is a sane picture at all.

The model itself encodes the result, the content and the style once, at a fixed low noise level (``measures/denoiser``);
the rest needs no network. Nothing of the results or of the manifest changes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.models.session import LoadedModel
from pipeline.results.contact_sheets import read_picture
from pipeline.results.manifest import Manifest
from pipeline.results.scores import Scores, score_rows
from pipeline.shards.store import open_shards
from pipeline.stages.commit import OnDone, commit_outcomes
from pipeline.storage.identity import digest
from pipeline.storage.parts import now
from pipeline.storage.place import Place
from pipeline.storage.tables import DamagedError
from pipeline.workers.base import Pool
from pipeline.workers.unit import Outcome, halves

#: Chosen by measurement (docs/scores.md): the noise level at which the model's features say most about a finished
#: picture, and how many of its first skips.
TIMESTEP = 50
SKIPS = 4

#: The manifest's columns that scoring reads.
COLUMNS = ("pair", "picture", "picture_hash", "content_image", "style_image")


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
class ScoreUnit:
    """Some results to be scored.

    Attributes:
        output: the run's output folder.
        pairs: rows of the manifest, with COLUMNS.
        sources: where the pictures of contents and styles are; an image may be in none of them.
        style_returns: style image -> the PSNR of its reconstruction in dB, where known.
    """

    output: Place
    pairs: tuple[Mapping[str, Any], ...]
    sources: tuple[Sources, ...]
    style_returns: Mapping[str, float]

    @property
    def name(self) -> str:
        return f"score-{digest(*(pair['pair'] for pair in self.pairs))[:20]}"

    def load(self) -> tuple[list[np.ndarray | str], dict[str, np.ndarray]]:
        """As :func:`read_pixels` gives them."""
        return read_pixels(self.output, self.pairs, self.sources)

    def compute(
        self, model: LoadedModel, loaded: tuple[list[np.ndarray | str], dict[str, np.ndarray]]
    ) -> list[dict[str, Any]]:
        """A row of scores for each pair."""
        from diffstyle.images import to_tensor

        results, sources = loaded
        whole = [n for n, result in enumerate(results) if not isinstance(result, str)]
        rows: list[dict[str, Any]] = [
            {"pair": pair["pair"], "created": now(), "error": result if isinstance(result, str) else None}
            for pair, result in zip(self.pairs, results, strict=True)
        ]
        if not whole:
            return rows
        begun = time.perf_counter()
        images = sorted(sources)
        encoded = _encode(model, [sources[image] for image in images] + [results[n] for n in whole])  # type: ignore[misc]
        features = dict(zip(images, encoded, strict=False))
        for n, own in zip(whole, encoded[len(images) :], strict=True):
            pair, result = self.pairs[n], to_tensor(results[n])[None]  # type: ignore[arg-type]
            content, style = pair["content_image"], pair["style_image"]
            rows[n] |= _scores(
                result,
                None if content not in sources else to_tensor(sources[content])[None],
                None if style not in sources else to_tensor(sources[style])[None],
                own,
                features.get(content),
                features.get(style),
            )
            rows[n]["style_returns"] = self.style_returns.get(style)
        each = (time.perf_counter() - begun) / len(whole)
        for n in whole:
            rows[n]["seconds"] = each
        return rows

    def save(self, computed: list[dict[str, Any]]) -> pa.Table:
        return score_rows(computed)

    def split(self) -> Sequence[ScoreUnit]:
        return [replace(self, pairs=half) for half in halves(self.pairs)]


def _encode(model: LoadedModel, pictures: Sequence[np.ndarray]) -> list[Any]:
    """The model's features of each picture, on the CPU, each with a batch axis of one."""
    from diffstyle.images import to_tensor
    from pipeline.measures.denoiser import DenoiserFeatures, denoiser_features

    def one(indices: Sequence[int]) -> list[DenoiserFeatures]:
        x = to_tensor(np.stack([pictures[i] for i in indices])).to(model.device)
        h, skips = denoiser_features(model.unet, x, TIMESTEP, SKIPS)
        h, skips = h.cpu(), tuple(skip.cpu() for skip in skips)
        return [DenoiserFeatures(h[k : k + 1], tuple(skip[k : k + 1] for skip in skips)) for k in range(len(indices))]

    return model.in_batches(len(pictures), one)


def _scores(result: Any, content: Any, style: Any, own: Any, of_content: Any, of_style: Any) -> dict[str, Any]:
    """The scores of one result; those whose source is not there are left out."""
    from pipeline.measures import features, pixels

    scores: dict[str, Any] = {}
    if content is not None:
        scores["edges"] = pixels.edge_correlation(result, content)
        scores["psnr_content"] = pixels.psnr(result, content)
        scores["content_cosine"] = features.cosine(own.h, of_content.h)
    if style is not None:
        scores["style_colour"] = pixels.colour_distance(result, style)
        scores["psnr_style"] = pixels.psnr(result, style)
        scores["style_gram"] = features.gram_distance(own.skips, of_style.skips)
    if content is not None and style is not None:
        scores["content_kept"] = features.position(own.h, of_style.h, of_content.h)
        usual = (pixels.contrast(content) + pixels.contrast(style)) / 2
        scores["contrast"] = pixels.contrast(result) / usual.clamp_min(1e-6)
        for name, measure in (("clipped", pixels.clipped), ("dark", pixels.dark)):
            scores[name] = (measure(result) - measure(content).maximum(measure(style))).clamp_min(0)
    plain: dict[str, Any] = {name: float(value) for name, value in scores.items()}
    return {**plain, "phash": pixels.difference_hash(result)[0].numpy().tobytes()}


# ---- the driver's side ----
def missing_scores(manifest: Manifest, scored: pa.Array) -> pa.Table:
    """The manifest's rows (COLUMNS) of the pictures whose pairs are not among those ``scored``."""
    rows = manifest.table([*COLUMNS, "status"])
    rows = rows.filter(pc.equal(rows["status"], "ok")).select(list(COLUMNS))
    return rows.filter(pc.invert(pc.is_in(rows["pair"], scored)))


def score_stage(
    pool: Pool | None,
    scores: Scores,
    todo: pa.Table,
    sources: Sequence[Sources],
    style_returns: Mapping[str, float],
    per_unit: int,
    on_done: OnDone,
) -> tuple[int, int]:
    """Score the pictures of ``todo`` and commit them part by part; returns how many pairs were (scored, failed)."""

    def units() -> Iterator[ScoreUnit]:
        for start in range(0, len(todo), per_unit):
            pairs = tuple(todo.slice(start, per_unit).to_pylist())
            images = {pair[f"{side}_image"] for pair in pairs for side in ("content", "style")}
            styles = {pair["style_image"] for pair in pairs}
            returns = {image: style_returns[image] for image in styles & set(style_returns)}
            yield ScoreUnit(scores.output, pairs, tuple(side.only(images) for side in sources), returns)

    def commit(outcome: Outcome) -> tuple[int, int]:
        if outcome.error is not None:
            rows = score_rows({"pair": p["pair"], "error": outcome.error, "created": now()} for p in outcome.unit.pairs)
        else:
            rows = outcome.result
        scores.commit(outcome.unit.name, rows)
        failed = len(rows) - rows["error"].null_count
        return len(rows) - failed, failed

    return commit_outcomes(pool, units(), commit, on_done)
