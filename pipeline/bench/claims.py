"""The method's own claims as measurements, and what other settings do: all on the first pairs of one group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from diffstyle.masks import rectangle_mask, to_h_grid
from diffstyle.plan import T_0
from pipeline.bench.bootstrap import Interval, mean_interval
from pipeline.bench.comparison import METHOD, Comparison, compare
from pipeline.bench.quality import Bench
from pipeline.jobfile.injection import InjectionSettings
from pipeline.measures.pixels import matched_colours
from pipeline.measures.vgg import VGGFeatures

GAMMAS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Of injection.start_from_content, which is beyond the paper.
STARTS = (0.2, 0.4)


@dataclass
class Claim:
    """One statement of the method, measured: the difference that should be above (or below) zero."""

    text: str
    measured: Interval
    holds: bool


@dataclass
class Tried:
    """Other settings on some pairs of a group.

    ``comparison`` has a method for each; ``gammas`` says which are those of the sweep.
    """

    comparison: Comparison
    gammas: dict[float, str]
    claims: list[Claim]

    def __len__(self) -> int:
        return len(self.comparison.drawings)


def try_settings(bench: Bench, settings: InjectionSettings, vgg: VGGFeatures | None, count: int) -> Tried:
    """Run the sweep over gamma, other settings and the claims.

    Args:
        bench: The pairs, inverted.
        settings: As of :func:`pipeline.bench.quality.measure`.
        vgg: None leaves out the measures of features.
        count: How many of the pairs.
    """
    pairs = bench.pairs.first(count)
    count = len(pairs)

    def changed(**fields: object) -> Tensor:
        return bench.inject(settings.model_copy(update=fields), count=count)

    results = changed()
    names = {f"gamma {gamma:g}": gamma for gamma in GAMMAS}
    swept = {name: changed(gamma=gamma) for name, gamma in names.items() if name != f"gamma {settings.gamma:g}"}
    gammas = {gamma: name if name in swept else METHOD for name, gamma in names.items()}
    methods = {name: swept.get(name, results) for name in [*gammas.values(), METHOD]}
    for t_edit in (settings.t_edit // 2, settings.t_edit * 2):
        methods[f"t_edit {t_edit}"] = changed(t_edit=min(t_edit, settings.t_start))
    if settings.t_start < T_0:
        methods[f"t_start {T_0}, the paper's"] = changed(t_start=T_0)
    methods["omega 0.5"] = changed(omega=0.5)
    methods["its colours then made B's"] = matched_colours(results, pairs.style)
    for part in STARTS:
        moved = changed(start_from_content=part)
        methods[f"start_from_content {part:g}"] = moved
        methods[f"start_from_content {part:g}, colours then made B's"] = matched_colours(moved, pairs.style)
    comparison = compare(pairs, methods, vgg)
    drawings, style = pairs.drawings, "gram" if vgg is not None else "colours"
    claims = []

    def claim(text: str, values: np.ndarray, above: bool = True) -> None:
        measured = mean_interval(values, drawings)
        claims.append(Claim(text, measured, measured.low > 0 if above else measured.high < 0))

    low, high = gammas[GAMMAS[0]], gammas[GAMMAS[-1]]
    words = {"edges": "content rises with gamma: edges with A", "colours": "style falls with gamma: colours to B"}
    words |= {"gram": "style falls with gamma: Gram to B"} if vgg is not None else {}
    for measure, text in words.items():
        of = comparison.scores
        claim(f"{text}, gamma {GAMMAS[-1]:g} minus gamma {GAMMAS[0]:g}", of[high][measure] - of[low][measure])

    plain = methods[low]
    mask = to_h_grid(rectangle_mask(0, 0, 1, 0.5, 64), *bench.unet.h_shape[1:])
    change = (bench.inject(settings, mask, count=count) - plain).abs().mean(1)
    half = change.shape[2] // 2
    inside, outside = change[..., :half].flatten(1).mean(1), change[..., half:].flatten(1).mean(1)
    text = "a mask on the left half changes the left more than the right: mean absolute change"
    claim(text, (inside - outside).numpy())

    name = {"gram": "Gram", "colours": "colours"}[style]
    calibrated = comparison.scores["omega 0.5"][style] - comparison.scores[METHOD][style]
    claim(f"calibration moves toward the style: {name} to B, omega 0.5 minus omega 0", calibrated, above=False)

    boosted = changed(t_boost=200, seed=0)
    coarse = (F.avg_pool2d(boosted, 4) - F.avg_pool2d(results, 4)).square().flatten(1).mean(1)
    fine = (boosted - results).square().flatten(1).mean(1) - coarse
    claim("t_boost changes detail more than layout: power below 4 px minus power above", (fine - coarse).numpy())
    return Tried(comparison, gammas, claims)
