"""The leads beyond the paper, measured on held-out drawings with known answers.

Usage: ``python benchmarks/leads.py MODEL [--pairs 24] [--only start] [--threads 1] [--page docs/notes/leads.md]``

MODEL is as of benchmarks/probe_h.py. Half of the pairs have paintings that training saw, half others. Rows: x_T moved
toward the content's by a fraction, with and without the style's colours given to the result; the least fraction that
brings enough edges, pair by pair; gamma for the mean of the pairs, with the same turn of h in each; t_edit and t_start;
and events in blocks: each block of timesteps alone, then the best ones together. A block is the better the more edges
it brings for the colours that it moves. ``--only`` takes some of the four groups of rows (start, gamma, t_edit,
blocks). Prints the table of docs/notes/leads.md, and writes it there with ``--page``.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Collection
from pathlib import Path

import torch
from probe_h import DEFAULT, injected, invert, load, matched
from torch import Tensor

from diffstyle.plan import T_0, sampling_plan
from diffstyle.sampling import ddim_sample
from pipeline.bench.bootstrap import mean_interval
from pipeline.bench.comparison import RECOLOURED, RETURN_B, TRUTH, compare
from pipeline.bench.heldout import Pairs, load_groups
from pipeline.bench.pages import publish
from pipeline.measures.pixels import colour_distance, edge_correlation, matched_colours, psnr

MARKERS = ("<!-- leads: written by benchmarks/leads.py -->", "<!-- leads: end -->")
FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6)
BLOCKS = ("80-200", "200-320", "320-440", "440-600", "600-800", "800-1000")
GROUPS = ("start", "gamma", "t_edit", "blocks")
#: Edges with A that are enough, where a fraction is chosen for each pair; the truth has about 0.73.
ENOUGH = 0.5


def all_pairs(path: Path, count: int, size: int) -> Pairs:
    """Pairs of both groups, one after the other."""
    groups = list(load_groups(path, count, size).values())
    content, style, truth = (
        torch.cat([getattr(one, name) for one in groups]) for name in ("content", "style", "truth")
    )
    names = ([name for one in groups for name in getattr(one, field)] for field in ("drawings", "paintings"))
    return Pairs(content, style, truth, *names)


def measured(
    model_file: Path, data: Path, count: int, t_edit: int, t_start: int = T_0, groups: Collection[str] = GROUPS
) -> list[str]:
    """The lines of the table."""
    model, label = load(model_file)
    pairs = all_pairs(data, count, model.image_size)
    a, b = pairs.content, pairs.style
    begun = time.perf_counter()
    inverted = invert(model, a, b, 50)
    back, _ = ddim_sample(model, inverted.x_T, sampling_plan(50))
    methods: dict[str, Tensor] = {"return A": a, RECOLOURED: matched_colours(a, b)}

    def run(name: str, **changes: object) -> Tensor:
        methods[name] = x = injected(inverted, {**DEFAULT, "t_edit": t_edit, "t_start": t_start, **changes})
        edges, colours = edge_correlation(x, a).mean(), colour_distance(x, b).mean()
        print(f"{time.perf_counter() - begun:5.0f} s  {name}: edges {edges:.3f}, colours {colours:.3f}", flush=True)
        return x

    def colours_too(name: str) -> None:
        methods[f"{name}, matched"] = matched(methods[name], b)

    moved = []
    for fraction in FRACTIONS if "start" in groups else FRACTIONS[:1]:
        name = f"start {fraction:g}"
        moved.append(run(name, start=fraction))
        colours_too(name)
    if "start" in groups:
        name = f"start of each pair, the least for edges {ENOUGH:g}"
        methods[name] = least_that_reaches(moved, a)
        colours_too(name)
    if "gamma" in groups:
        run("gamma 0.6", gamma=0.6)
        run("gamma 0.6 on the mean, equal turns", gamma=0.6, equal=1)
    if "t_edit" in groups:
        for other in (80, 120, 160, 200):
            if other != t_edit:
                run(f"t_edit {other}", t_edit=other)
        for other in (400, 500, 600, 700, T_0):
            if other != t_start:
                run(f"t_start {other}", t_start=other)

    worth = {}
    before = edge_correlation(back, a).mean(), colour_distance(back, b).mean()
    for block in BLOCKS if "blocks" in groups else ():
        x = run(f"events {block} alone", within=block, t_edit=0, t_start=T_0)
        gain, shift = edge_correlation(x, a).mean() - before[0], colour_distance(x, b).mean() - before[1]
        worth[block] = float(gain / shift.clamp_min(0.005))
    best = sorted(worth, key=lambda block: -worth[block])
    for n in range(2, len(best)):
        run(f"events in the best {n} blocks", within="+".join(best[:n]), t_edit=0, t_start=T_0)
    if best:
        name = "start 0.2, events in the best 3 blocks"
        run(name, start=0.2, within="+".join(best[:3]), t_edit=0, t_start=T_0)
        colours_too(name)

    took = time.perf_counter() - begun
    comparison = compare(pairs, methods, None)
    lines = [
        f"{label}; {len(pairs)} pairs, {len(set(pairs.drawings))} drawings; gamma 1, t_edit {t_edit}, "
        f"t_start {t_start}, 50 events of 50 steps where a row says nothing else; plain reconstruction "
        f"{psnr(back, b).mean():.1f} dB. Taken with torch "
        f"{torch.__version__}, python {platform.python_version()}, {torch.get_num_threads()} threads, in {took:.0f} s.",
        "",
        "| | edges with A | way | more than start 0 | colours to B | dB to the truth | dB more than recoloured A |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in (RETURN_B, *methods, TRUTH):
        scores = comparison.scores[name]
        edges = mean_interval(scores["edges"] - comparison.scores["start 0"]["edges"], pairs.drawings)
        gained = mean_interval(scores["psnr"] - comparison.scores[RECOLOURED]["psnr"], pairs.drawings)
        nearness = "- | -" if name == TRUTH else f"{scores['psnr'].mean():.2f} | {gained.short}"
        lines.append(
            f"| {name} | {scores['edges'].mean():.3f} | {comparison.way(name, 'edges').short} | {edges.short} "
            f"| {scores['colours'].mean():.2f} | {nearness} |"
        )
    if best:
        ranks = ", ".join(f"{one} {worth[one]:.2f}" for one in best)
        lines += ["", f"Blocks by edges gained for each unit of colours moved: {ranks}."]
    return lines


def least_that_reaches(results: list[Tensor], a: Tensor) -> Tensor:
    """Of each pair the first of its results that has enough edges of A, else the last. Asks nothing of the truth."""
    enough = torch.stack([edge_correlation(x, a) >= ENOUGH for x in results])
    enough[-1] = True
    first = enough.int().argmax(0)
    return torch.stack([results[int(n)][i] for i, n in enumerate(first)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the leads beyond the paper.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, default=Path("demo/heldout.parquet"))
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--t-edit", type=int, default=80)
    parser.add_argument("--t-start", type=int, default=T_0)
    parser.add_argument("--only", action="append", choices=GROUPS, help="only these rows; may be given again")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    groups = arguments.only or GROUPS
    lines = measured(
        arguments.model, arguments.data, arguments.pairs, arguments.t_edit, arguments.t_start, groups=groups
    )
    publish(lines, arguments.page, MARKERS)


if __name__ == "__main__":
    main()
