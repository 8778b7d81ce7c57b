"""Network calls of a plan against PSNR to the 1000-step result, on every model at hand, as a table and a plot.

    python benchmarks/plan_curve.py --write docs/notes/speed.md --plot docs/img/plan-curve.png

Models, pictures and --golden as in preset_settings.py. Gamma 0.3, everything float32, in the layout that jobs use.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from preset_settings import REFERENCE, cases, lowest_psnr, option_parser, settings_of

from diffstyle.injection import Injection, aligned_plan, event_timesteps, grid_plan
from diffstyle.plan import Plan, inversion_plan
from diffstyle.sampling import inject
from pipeline.bench.pages import publish

MARKERS = ("<!-- curve: begin -->", "<!-- curve: end -->")
KEPT = inversion_plan(50).kept
# Plain steps over a gap between injections, and below the last one.
SHAPES = [(1, 4), (1, 6), (1, 8), (1, 12), (1, 20), (2, 10), (2, 20), (4, 40)]
# The same, and after how many injections the network is called again; then, over how many of the first gaps twice.
CARRIED = [(1, 8, 6), (1, 9, 6), (1, 8, 8), (1, 9, 8), (1, 10, 12)]
DOUBLED = [(1, 17, 14, 5)]
# Kinds of plans and their colours in the plot.
PLAIN, SECOND, CARRYING, DOUBLING = "order 1", "order 2", "order 2, carried jumps", "the same, first gaps doubled"
COLOURS = {PLAIN: "grey", SECOND: "blue", CARRYING: "red", DOUBLING: "green"}


def plans(injection: Injection) -> list[tuple[str, str, Plan]]:
    """(words, kind, plan) of what is compared."""
    compared = [("grid 50", PLAIN, grid_plan(injection, KEPT, 50))]
    for between, tail in SHAPES:
        for order, kind in ((1, PLAIN), (2, SECOND)):
            plan = aligned_plan(injection, KEPT, between, tail, order=order)
            compared.append((f"aligned, between {between}, tail {tail}", kind, plan))
    for between, tail, measured in CARRIED:
        plan = aligned_plan(injection, KEPT, between, tail, measured=measured)
        compared.append((f"aligned, between {between}, tail {tail}, measured {measured}", CARRYING, plan))
    for between, tail, measured, doubled in DOUBLED:
        plan = aligned_plan(injection, KEPT, between, tail, measured=measured, doubled=doubled)
        words = f"aligned, between {between}, tail {tail}, measured {measured}, doubled {doubled}"
        compared.append((words, DOUBLING, plan))
    return compared


def plot(points: list[tuple[int, str, float]], path: Path) -> None:
    """Calls (logarithmic) against the lowest PSNR in dB of all models; a point: (calls, kind, dB)."""
    width, height, left, bottom = 640, 400, 50, 350
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    logs = [np.log10(calls) for calls, _, _ in points]
    low, high = min(logs) - 0.05, max(logs) + 0.05
    floor, top = 20, 10 * np.ceil(max(dB for *_, dB in points) / 10)

    def at(calls: float, dB: float) -> tuple[float, float]:
        x = left + (np.log10(calls) - low) / (high - low) * (width - left - 20)
        return x, bottom - (dB - floor) / (top - floor) * (bottom - 20)

    for dB in range(floor, int(top) + 1, 10):
        y = at(50, dB)[1]
        draw.line([(left, y), (width - 20, y)], fill="black" if dB == floor else "lightgrey")
        draw.text((15, y - 6), f"{dB} dB", fill="black")
    for k, calls in enumerate(sorted({calls for calls, _, _ in points})):
        x = at(calls, floor)[0]
        draw.line([(x, bottom), (x, bottom + 5)], fill="black")
        draw.text((x - 8, bottom + 6 + 10 * (k % 3)), str(calls), fill="black")
    for k, (kind, colour) in enumerate(COLOURS.items(), 1):
        line = sorted(at(calls, dB) for calls, its, dB in points if its == kind)
        draw.line(line, fill=colour, width=2)
        for x, y in line:
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
        draw.text((left + 10, 20 + 14 * k), kind, fill=colour)
    draw.text((width // 2 - 40, height - 18), "network calls", fill="black")
    image.save(path, optimize=True)


def measured(options: argparse.Namespace) -> dict[str, list[float]]:
    """PSNR in dB of each of ``plans``, by model."""
    nearness = {}
    for pairs in cases(options.golden, options.pictures, options.pairs):

        def result(plan: Plan, pairs=pairs) -> torch.Tensor:
            return inject(pairs.unet, pairs.x_T, pairs.h, pairs.kept, plan, 0.3)

        injection = Injection(event_timesteps(50))
        wanted = pairs.reference(settings_of({}, REFERENCE), options.keep)
        nearness[pairs.name] = [lowest_psnr(result(plan), wanted) for _, _, plan in plans(injection)]
        print(pairs.name, *(f"{dB:.1f}" for dB in nearness[pairs.name]), flush=True)
    return nearness


def main() -> None:
    parser = option_parser(__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, metavar="PNG")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    nearness = measured(options)
    lines = [f"Lowest PSNR of {options.pairs} pairs in dB, gamma 0.3; torch {torch.__version__}:", ""]
    lines += [
        f"| plan | order | network calls | decodes | {' | '.join(nearness)} |",
        "| --- " * (4 + len(nearness)) + "|",
    ]
    points = []
    for (words, kind, plan), row in zip(
        plans(Injection(event_timesteps(50))), zip(*nearness.values(), strict=True), strict=True
    ):
        points.append((plan.encodes, kind, min(row)))
        cells = " | ".join(f"{dB:.1f}" for dB in row)
        lines.append(f"| {words} | {plan.order} | {plan.encodes} | {plan.decodes} | {cells} |")
    publish(lines, options.write, MARKERS)
    if options.plot:
        plot(points, options.plot)


if __name__ == "__main__":
    main()
