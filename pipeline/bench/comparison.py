"""Results of several methods for the same pairs, by every measure, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.bench.batches import over_batches
from pipeline.bench.bootstrap import Interval, mean_interval, ratio_interval
from pipeline.bench.heldout import Pairs
from pipeline.measures.features import content_correlation, gram_distance, unit_feature_distance
from pipeline.measures.pixels import colour_distance, edge_correlation, psnr
from pipeline.measures.vgg import VGGFeatures

RETURN_B, TRUTH, METHOD, RECOLOURED = "return B", "the truth", "DiffStyle", "A in B's colours"


@dataclass(frozen=True)
class Measure:
    """One number of a result: ``name`` in the scores, a ``heading``, and what it says something of."""

    name: str
    heading: str
    of: Literal["content", "style", "truth"]


#: Those that have a way from B (0) to the truth (1).
MEASURES = (
    Measure("edges", "edges with A", "content"),
    Measure("conv4_3", "conv4_3 with A", "content"),
    Measure("gram", "Gram to B", "style"),
    Measure("colours", "colours to B", "style"),
    Measure("pixels", "pixels to the truth", "truth"),
    Measure("features", "features to the truth", "truth"),
)


@dataclass
class Comparison:
    """The scores of every method for the same pairs.

    Attributes:
        drawings: of each pair its content drawing; intervals resample whole drawings.
        scores: method -> measure -> (N,). Besides those of MEASURES ``psnr`` (dB to the truth), and ``gram_a`` and
            ``colours_a``, the distances to A. Those of VGG features are missing without its weights.
    """

    drawings: Sequence[str]
    scores: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @property
    def measures(self) -> list[Measure]:
        """Those of MEASURES that were taken."""
        taken = self.scores[RETURN_B]
        return [measure for measure in MEASURES if measure.name in taken]

    def way(self, method: str, measure: str) -> Interval:
        """How far a method is from returning B (0) to the truth (1), by the means of a measure."""
        values, base, truth = (self.scores[name][measure] for name in (method, RETURN_B, TRUTH))
        return ratio_interval(values - base, truth - base, self.drawings)

    def nearer_b(self, method: str) -> Interval:
        """Style: the distance to A minus that to B, of Gram matrices where they were taken, else of colours."""
        scores = self.scores[method]
        name = "gram" if "gram" in scores else "colours"
        return mean_interval(scores[f"{name}_a"] - scores[name], self.drawings)

    def difference(self, method: str, other: str, measure: str) -> Interval:
        """The measure of ``method`` minus that of ``other``, pair by pair."""
        return mean_interval(self.scores[method][measure] - self.scores[other][measure], self.drawings)


def compare(pairs: Pairs, methods: Mapping[str, Tensor], vgg: VGGFeatures | None) -> Comparison:
    """Score the results of several methods beside returning B and the truth.

    Args:
        pairs: N pairs.
        methods: name -> results, (N, 3, S, S) in [-1, 1].
        vgg: None leaves out the measures of features.
    """
    everything = {RETURN_B: pairs.style, **methods, TRUTH: pairs.truth}
    # What is compared with has its features already.
    known = {id(pairs.content): "a", id(pairs.style): "b", id(pairs.truth): "truth"}

    def one(i: Tensor) -> dict[str, dict[str, Tensor]]:
        with torch.inference_mode():
            a, b, truth = pairs.content[i], pairs.style[i], pairs.truth[i]
            scores = {}
            features = {} if vgg is None else {"a": vgg(a), "b": vgg(b), "truth": vgg(truth)}
            for name, results in everything.items():
                x = results[i]
                scores[name] = {
                    "edges": edge_correlation(x, a),
                    "colours": colour_distance(x, b),
                    "colours_a": colour_distance(x, a),
                    "pixels": (x.clamp(-1, 1) - truth).square().flatten(1).mean(1).sqrt() / 2,
                    "psnr": psnr(x, truth),
                }
                if vgg is None:
                    continue
                own = features[known[id(results)]] if id(results) in known else vgg(x)
                scores[name] |= {
                    "conv4_3": content_correlation(own, features["a"]),
                    "gram": gram_distance(own, features["b"]),
                    "gram_a": gram_distance(own, features["a"]),
                    "features": unit_feature_distance(own, features["truth"]),
                }
            return scores

    pieces = over_batches(one, len(pairs), 8)
    return Comparison(
        pairs.drawings,
        {
            name: {
                measure: torch.cat([piece[name][measure] for piece in pieces]).numpy() for measure in pieces[0][name]
            }
            for name in everything
        },
    )


# ---- targets ----

CONTENT_GOAL = 0.6  # of the way from B to the truth


@dataclass(frozen=True)
class Target:
    """Something that the method should reach: a measured value, and the goal that it should not be below."""

    text: str
    measured: Interval
    goal: float

    @property
    def reached(self) -> bool:
        """Whether the whole interval is at the goal or above."""
        return self.measured.low >= self.goal

    @property
    def verdict(self) -> str:
        """In words, with the distance to the goal."""
        off = self.measured.value - self.goal
        if self.reached:
            return f"reached, by {off:.3g}"
        if self.measured.high < self.goal:
            return f"missed by {-off:.3g}"
        return f"not clear: {'above' if off >= 0 else 'below'} by {abs(off):.3g}, and the interval has the goal in it"


def targets(comparison: Comparison) -> list[Target]:
    """The targets that can be judged by what was measured."""
    vgg = "features" in comparison.scores[METHOD]
    judged = [Target("content by edges, of the way to the truth", comparison.way(METHOD, "edges"), CONTENT_GOAL)]
    if vgg:
        way = comparison.way(METHOD, "conv4_3")
        judged.append(Target("content by conv4_3, of the way to the truth", way, CONTENT_GOAL))
    judged += [
        Target("style: distance to A minus distance to B", comparison.nearer_b(METHOD), 0),
        Target(
            "dB to the truth, minus those of A in B's colours", comparison.difference(METHOD, RECOLOURED, "psnr"), 0
        ),
    ]
    if vgg:
        nearer = comparison.difference(RECOLOURED, METHOD, "features")
        judged.append(Target("distance of features to the truth, of A in B's colours minus DiffStyle's", nearer, 0))
    return judged
