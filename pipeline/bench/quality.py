"""Does content travel, does style stay? Injections of held-out drawings against their true paintings.

All that is reported is measured here, on one model and the settings of one job; ``quality_page.py`` writes it up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffstyle.masks import rectangle_mask, to_h_grid
from diffstyle.networks.unet import UNet
from diffstyle.noise import seeded_noise
from diffstyle.sampling import ddim_invert, ddim_sample, inject
from pipeline.bench.bootstrap import Interval, interval, mean_interval
from pipeline.bench.heldout import Pairs
from pipeline.jobfile.injection import InjectionSettings
from pipeline.measures.features import content_correlation, gram_distance
from pipeline.measures.pixels import colour_distance, edge_correlation, matched_colours, psnr
from pipeline.measures.vgg import MissingExtraError, VGGFeatures
from pipeline.stages.recipe import injection_plan
from pipeline.stages.walk import Walk

log = logging.getLogger(__name__)
BATCH = 16
# "At least a quarter of the way from B to the truth", clearly; and on style nearer to B than to A.
BAR = 0.25
GAMMAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass
class Scores:
    """The measures of one set of results, each (N,); the VGG ones are missing without its weights."""

    edges_a: np.ndarray  # content: correlation of edges with A
    colour_b: np.ndarray  # style: distance of colour histograms to B
    psnr: np.ndarray  # raw pixels: dB to the true painting
    vgg_a: np.ndarray | None = None  # content: correlation of conv4_3 with A
    gram_b: np.ndarray | None = None  # style: distance of Gram matrices to B
    gram_a: np.ndarray | None = None  # the same to A


@dataclass
class Claim:
    """One statement of the method, measured: the difference that should be above (or below) zero."""

    text: str
    measured: Interval
    holds: bool


@dataclass
class Quality:
    """All that a run of the benchmark found."""

    n_pairs: int
    n_drawings: int
    reconstruction: float
    scores: dict[str, Scores] = field(default_factory=dict)
    way: dict[str, Interval] = field(default_factory=dict)  # content: how far from "return B" (0) to the truth (1)
    over_return_b: dict[str, Interval] = field(default_factory=dict)  # edges with A, minus those of "return B"
    nearer_b: dict[str, Interval] = field(default_factory=dict)  # style distance to A minus that to B
    sweep: dict[float, Scores] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def content_reached(self) -> bool:
        """Content beats returning B clearly, and goes at least BAR of the way to the truth."""
        return self.over_return_b["DiffStyle"].low > 0 and self.way["DiffStyle"].value >= BAR

    @property
    def style_reached(self) -> bool:
        """Style is clearly nearer to B than to A."""
        return self.nearer_b["DiffStyle"].low > 0


class Bench:
    """The model and the inverted pictures of a set of pairs; every measurement starts from these."""

    def __init__(self, unet: UNet, pairs: Pairs, inversion_steps: int, vgg: VGGFeatures | None) -> None:
        self.unet, self.pairs, self.vgg = unet, pairs, vgg
        self.walk = Walk(inversion_steps)
        self.grid, plan = self.walk.grid, self.walk.plan()
        self.h = self._batched(lambda i: ddim_invert(unet, pairs.content[i], plan)[1])
        self.x_T = self._batched(lambda i: ddim_invert(unet, pairs.style[i], plan)[0])
        back = self._batched(lambda i: ddim_sample(unet, self.x_T[i], self.walk.back())[0])
        self.returns = psnr(back, pairs.style)  # (N,), dB at which each style comes back
        self.reconstruction = float(self.returns.mean())
        self._features = {name: vgg(getattr(pairs, name)) for name in ("content", "style")} if vgg else {}

    def inject(self, settings: InjectionSettings, mask: Tensor | None = None) -> Tensor:
        """The results of all pairs, (N, 3, S, S)."""
        plan = injection_plan(settings, self.walk)
        gamma = float(settings.gamma)  # type: ignore[arg-type]

        def one(i: Tensor) -> Tensor:
            def noise(t: int) -> Tensor:
                return seeded_noise([int(n) for n in i], t, self.pairs.style.shape[1:])

            return inject(
                self.unet, self.x_T[i], self.h[i], self.grid, plan, gamma, omega=settings.omega, mask=mask, noise=noise
            )

        return self._batched(one).clamp(-1, 1)

    def score(self, results: Tensor) -> Scores:
        """The measures of results for these pairs."""
        pairs = self.pairs
        scores = Scores(
            edge_correlation(results, pairs.content).numpy(),
            colour_distance(results, pairs.style).numpy(),
            psnr(results, pairs.truth).numpy(),
        )
        if self.vgg is not None:
            features = self.vgg(results)
            scores.vgg_a = content_correlation(features, self._features["content"]).numpy()
            scores.gram_b = gram_distance(features, self._features["style"]).numpy()
            scores.gram_a = gram_distance(features, self._features["content"]).numpy()
        return scores

    def _batched(self, run: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([run(i) for i in torch.arange(len(self.pairs)).split(BATCH)])


def measure(unet: UNet, pairs: Pairs, settings: InjectionSettings, inversion_steps: int = 50) -> Quality:
    """Run the whole benchmark. ``settings`` should be one point of a sweep, without a mask, noise or calibration."""
    begun = time.perf_counter()
    try:
        vgg: VGGFeatures | None = VGGFeatures()
    except MissingExtraError as error:
        log.warning("%s; going on without the VGG measures", error)
        vgg = None
    bench = Bench(unet, pairs, inversion_steps, vgg)
    quality = Quality(len(pairs), len(set(pairs.drawings)), bench.reconstruction)
    results = bench.inject(settings)
    methods = {
        "return B": pairs.style,
        "return A": pairs.content,
        "A in B's colours": matched_colours(pairs.content, pairs.style),
        "mean of A and B": (pairs.content + pairs.style) / 2,
        "the truth": pairs.truth,
        "DiffStyle": results,
    }
    quality.scores = {name: bench.score(pictures) for name, pictures in methods.items()}
    drawings = pairs.drawings
    base, truth = quality.scores["return B"].edges_a, quality.scores["the truth"].edges_a
    for name, scores in quality.scores.items():
        quality.way[name] = interval(_way(scores.edges_a, base, truth), drawings)
        quality.over_return_b[name] = mean_interval(scores.edges_a - base, drawings)
        if scores.gram_a is not None and scores.gram_b is not None:
            quality.nearer_b[name] = mean_interval(scores.gram_a - scores.gram_b, drawings)
        else:
            to_a = colour_distance(methods[name], pairs.content).numpy()
            quality.nearer_b[name] = mean_interval(to_a - scores.colour_b, drawings)
    _claims(bench, quality, settings, results)
    quality.seconds = time.perf_counter() - begun
    return quality


def _way(values: np.ndarray, base: np.ndarray, truth: np.ndarray) -> Callable[[np.ndarray], float]:
    def statistic(chosen: np.ndarray) -> float:
        whole = truth[chosen].mean() - base[chosen].mean()
        return float((values[chosen].mean() - base[chosen].mean()) / whole)

    return statistic


def _claims(bench: Bench, quality: Quality, settings: InjectionSettings, results: Tensor) -> None:
    """The method's own claims, as measurements."""
    drawings = bench.pairs.drawings

    def claim(text: str, values: np.ndarray, above: bool = True) -> None:
        measured = mean_interval(values, drawings)
        quality.claims.append(Claim(text, measured, measured.low > 0 if above else measured.high < 0))

    plain = None
    for gamma in GAMMAS:
        pictures = results if gamma == settings.gamma else bench.inject(settings.model_copy(update={"gamma": gamma}))
        quality.sweep[gamma] = bench.score(pictures)
        plain = pictures if gamma == 0 else plain
    low, high = quality.sweep[GAMMAS[0]], quality.sweep[GAMMAS[-1]]
    claim("content rises with gamma: edges with A, gamma 1 minus gamma 0", high.edges_a - low.edges_a)
    claim("style falls with gamma: colour distance to B, gamma 1 minus gamma 0", high.colour_b - low.colour_b)
    if low.gram_b is not None and high.gram_b is not None:
        claim("style falls with gamma: Gram distance to B, gamma 1 minus gamma 0", high.gram_b - low.gram_b)

    assert plain is not None
    mask = to_h_grid(rectangle_mask(0, 0, 1, 0.5, 64), *bench.unet.h_shape[1:])
    masked = bench.inject(settings, mask)
    change = (masked - plain).abs().mean(1)
    half = change.shape[2] // 2
    inside, outside = change[..., :half].flatten(1).mean(1), change[..., half:].flatten(1).mean(1)
    claim(
        "a mask on the left half changes the left more than the right: mean absolute change", (inside - outside).numpy()
    )

    calibrated = bench.score(bench.inject(settings.model_copy(update={"omega": 0.5})))
    name = "gram_b" if bench.vgg is not None else "colour_b"
    measure_name = "Gram" if bench.vgg is not None else "colour"
    mine = getattr(quality.scores["DiffStyle"], name)
    claim(
        f"calibration moves toward the style: {measure_name} distance to B, omega 0.5 minus omega 0",
        getattr(calibrated, name) - mine,
        above=False,
    )

    boosted = bench.inject(settings.model_copy(update={"t_boost": 200, "seed": 0}))
    coarse = (F.avg_pool2d(boosted, 4) - F.avg_pool2d(results, 4)).square().flatten(1).mean(1)
    fine = (boosted - results).square().flatten(1).mean(1) - coarse
    claim("t_boost changes detail more than layout: power below 4 px minus power above", (fine - coarse).numpy())


def one_setting(settings: Sequence[InjectionSettings]) -> InjectionSettings:
    """The first point of a job's sweep without mask, edit, noise and calibration: most are measured on their own."""
    first = settings[0]
    return first.model_copy(update={"mask": None, "edit": None, "t_boost": 0, "omega": 0.0, "seed": None})


def machine() -> dict[str, Any]:
    """What the numbers were taken with."""
    import platform

    return {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
