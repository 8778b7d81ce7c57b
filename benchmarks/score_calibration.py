"""How well each score tells a good result from a bad one, on held-out drawings whose true paintings are known.

    python benchmarks/score_calibration.py [--pairs N] [--network FILE] [--write docs/scores.md] [--choose]
                                           [--precision bfloat16]

Contents are injected at several gammas, every result is scored as `diffstyle score` does it, and each score is held
against the distance to the true painting: Spearman's rank correlation over all results, and within one gamma; the area
under the ROC curve for "among the nearest quarter"; over all styles and for each by itself; all with 95 % intervals
over drawings. ``--network`` does the same for the scores of a network of the user's. ``--choose`` prints it for other
noise levels and numbers of skips too, which is how the fixed ones were chosen. ``--precision`` is that in which
pictures are inverted and made; they are scored in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffstyle.networks.unet import UNet
from pipeline.bench.bootstrap import Interval, interval
from pipeline.bench.heldout import load_pairs
from pipeline.bench.pages import publish
from pipeline.bench.quality import Bench, Inverted, one_setting
from pipeline.jobfile.load import load_job
from pipeline.measures import features, pixels
from pipeline.measures.denoiser import denoiser_features
from pipeline.models.accelerate import tuned
from pipeline.models.config import load_model_config
from pipeline.models.load import load_model
from pipeline.models.network_spec import NetworkSpec, load_network_spec
from pipeline.results.scores import SCORES
from pipeline.stages.score import SKIPS, TIMESTEP

TREE = Path(__file__).resolve().parents[1]
MARKERS = ("<!-- calibration: begin -->", "<!-- calibration: end -->")
GAMMAS = (0.3, 0.6, 1.0)
#: Of fewer drawings of a style an interval would say more than there is to know.
FEWEST = 5


def scores_of(judge: UNet, bench: Bench, results: Tensor, timestep: int, skips: int) -> dict[str, np.ndarray]:
    """name -> (N,), higher is better; those of which neither end is good by itself as they are."""
    content, style = bench.pairs.content, bench.pairs.style
    own, of_content, of_style = (denoiser_features(judge, x, timestep, skips) for x in (results, content, style))
    usual = (pixels.contrast(content) + pixels.contrast(style)) / 2
    values = {
        "content_kept": features.position(own.h, of_style.h, of_content.h),
        "content_cosine": features.cosine(own.h, of_content.h),
        "edges": pixels.edge_correlation(results, content),
        "style_gram": features.gram_distance(own.skips, of_style.skips),
        "style_colour": pixels.colour_distance(results, style),
        "style_returns": bench.returns,
        "psnr_style": pixels.psnr(results, style),
        "psnr_content": pixels.psnr(results, content),
        "contrast": pixels.contrast(results) / usual,
        "clipped": (pixels.clipped(results) - pixels.clipped(content).maximum(pixels.clipped(style))).clamp_min(0),
        "dark": (pixels.dark(results) - pixels.dark(content).maximum(pixels.dark(style))).clamp_min(0),
    }
    return {name: (-value if SCORES[name][0] is False else value).numpy() for name, value in values.items()}


def other_choices(
    judge: UNet, bench: Bench, results: Sequence[Tensor], nearness: Sequence[np.ndarray]
) -> Iterator[str]:
    """A line for each noise level and number of skips: of three scores the correlation, and within one gamma."""
    for timestep in (10, 20, 50, 100, 200, 500):
        looks = [denoiser_features(judge, x, timestep, 6) for x in (bench.pairs.content, bench.pairs.style, *results)]
        content, style, *made = looks
        for skips in (1, 2, 4, 6):
            scores = [
                {
                    "content_kept": features.position(own.h, style.h, content.h).numpy(),
                    "content_cosine": features.cosine(own.h, content.h).numpy(),
                    "style_gram": -features.gram_distance(own.skips[:skips], style.skips[:skips]).numpy(),
                }
                for own in made
            ]
            table = judged(scores, nearness, bench.pairs.drawings)
            cells = (
                f"{name} {over_all.value:+.2f} {within.value:+.2f}" for name, (over_all, within, _) in table.items()
            )
            yield f"t {timestep}, {skips} skips: {'; '.join(cells)}"


def network_scores(spec: NetworkSpec, bench: Bench, results: Tensor) -> dict[str, np.ndarray]:
    """The same of a network of the user's."""
    network, values = spec.load("cpu"), {}
    for side, (more, _) in zip(spec.compare, spec.columns().values(), strict=True):
        batches = [
            network.compare(network.look(x), network.look(y), side)
            for x, y in zip(results.split(16), getattr(bench.pairs, side).split(16), strict=True)
        ]
        value = torch.cat(batches)
        values[f"{spec.name}_{side}"] = (value if more else -value).numpy()
    return values


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation; 0 where all values of one are the same."""
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size else 0.0


def auc(score: np.ndarray, good: np.ndarray) -> float:
    """The chance that a good result has a higher score than another; 0.5 says nothing (Mann and Whitney 1947)."""
    ranks, n = _ranks(score), int(good.sum())
    if n in (0, len(good)):
        return 0.5
    return float((ranks[good].sum() - n * (n + 1) / 2) / (n * (len(good) - n)))


def _ranks(values: np.ndarray) -> np.ndarray:
    """1, 2, ...; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def judged(
    scores: Sequence[Mapping[str, np.ndarray]], nearness: Sequence[np.ndarray], drawings: Sequence[str]
) -> dict[str, tuple[Interval, Interval, Interval]]:
    """name -> (rank correlation over all, within one gamma, AUC), each with its interval over drawings."""
    near = np.concatenate(nearness)
    good = near >= np.quantile(near, 0.75)
    everything = list(drawings) * len(scores)
    gamma = np.repeat(np.arange(len(scores)), len(drawings))
    table = {}
    for name in scores[0]:
        values = np.concatenate([one[name] for one in scores])

        def within(chosen: np.ndarray, values: np.ndarray = values) -> float:
            some = [chosen[gamma[chosen] == g] for g in range(len(scores))]
            return float(np.mean([spearman(values[n], near[n]) for n in some]))

        def over_all(chosen: np.ndarray, values: np.ndarray = values) -> float:
            return spearman(values[chosen], near[chosen])

        def area(chosen: np.ndarray, values: np.ndarray = values) -> float:
            return auc(values[chosen], good[chosen])

        table[name] = (
            interval(over_all, everything, 400),
            interval(within, everything, 400),
            interval(area, everything, 400),
        )
    return table


def by_style(
    scores: Sequence[Mapping[str, np.ndarray]],
    nearness: Sequence[np.ndarray],
    drawings: Sequence[str],
    paintings: Sequence[str],
) -> dict[str, dict[str, tuple[Interval, Interval]]]:
    """painting -> name -> (rank correlation, AUC for the nearest quarter of that painting's results).

    Paintings of fewer than FEWEST drawings are omitted.
    """
    table = {}
    for painting in sorted(set(paintings)):
        own = np.array([n for n, one in enumerate(paintings) if one == painting])
        if len({drawings[n] for n in own}) < FEWEST:
            continue
        some = judged(
            [{name: values[own] for name, values in one.items()} for one in scores],
            [near[own] for near in nearness],
            [drawings[n] for n in own],
        )
        table[painting] = {name: (over_all, area) for name, (over_all, _, area) in some.items()}
    return table


def verdict(area: Interval) -> str:
    """Whether a score tells: where the interval of its AUC leaves 0.5 out."""
    return "yes" if area.low > 0.5 else "the other way round" if area.high < 0.5 else "no"


def page(
    table: Mapping[str, tuple[Interval, Interval, Interval]],
    styles: Mapping[str, Mapping[str, tuple[Interval, Interval]]],
    better: Mapping[str, bool | None],
) -> list[str]:
    """The tables of one set of paintings."""
    head = ("score", "better", "rank correlation, all", "within one gamma", "AUC, nearest quarter", "tells")
    lines = _table((*head, f"and in how many of the {len(styles)} styles"))
    for name, (over_all, within, area) in table.items():
        verdicts = [verdict(style[name][1]) for style in styles.values()]
        turned = verdicts.count("the other way round")
        counts = f"{verdicts.count('yes')}" + (f", the other way round in {turned}" if turned else "")
        words = {True: "more", False: "less", None: "-"}[better[name]]
        lines.append(f"| `{name}` | {words} | {over_all} | {within} | {area} | {verdict(area)} | {counts} |")
    if not styles:
        return [*lines, "", "Too few drawings of each style to say more.", ""]
    for n, title in enumerate(("Rank correlation", "AUC for the nearest quarter of the style's own results")):
        lines += ["", f"{title}, style by style:", "", *_table(("score", *styles))]
        lines += [f"| `{name}` | {' | '.join(str(one[name][n]) for one in styles.values())} |" for name in table]
    return [*lines, ""]


def _table(head: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=80)
    parser.add_argument("--network", type=Path, action="append", default=[])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    job = load_job(TREE / "jobs" / "demo.yaml")
    config = load_model_config(job.model)
    judge = load_model(config, job.weights)
    unet = tuned(load_model(config, job.weights, "cpu", getattr(torch, arguments.precision)), "cpu")
    settings = one_setting(job.settings())
    specs = [load_network_spec(file) for file in arguments.network]
    better = {name: more for name, (more, _) in SCORES.items()}
    better |= {name: more for spec in specs for name, (more, _) in spec.columns().items()}
    contents = Inverted(unet, job.inversion.steps)
    lines: list[str] = []
    for unseen in (False, True):
        pairs = load_pairs(TREE / "demo" / "heldout.parquet", arguments.pairs, unet.image_size, unseen)
        bench = Bench(unet, pairs, job.inversion.steps, contents)
        results = [bench.inject(settings.model_copy(update={"gamma": gamma})) for gamma in GAMMAS]
        nearness = [pixels.psnr(result, pairs.truth).numpy() for result in results]
        if arguments.choose:
            for line in other_choices(judge, bench, results, nearness):
                print(f"unseen {unseen}, {line}", flush=True)
        scores = [scores_of(judge, bench, result, TIMESTEP, SKIPS) for result in results]
        for spec in specs:
            scores = [one | network_scores(spec, bench, result) for one, result in zip(scores, results, strict=True)]
        kind = "paintings that training never saw" if unseen else "paintings that training saw"
        lines += [
            f"{arguments.pairs} pairs at gamma {', '.join(map(str, GAMMAS))}, {kind}; model "
            f"{config.name}, made in {arguments.precision}. Distance to the true painting in dB.",
            "",
            *page(
                judged(scores, nearness, pairs.drawings),
                by_style(scores, nearness, pairs.drawings, pairs.paintings),
                better,
            ),
        ]
    publish(lines, arguments.write, MARKERS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
