"""Network calls of a plan against PSNR to the 1000-step result, as a table and a plot.

    python benchmarks/plan_curve.py --write docs/speed.md --plot docs/plan-curve.png

By default on the small trained model and pictures in tests/data; --checkpoint, --config (with a `model` mapping),
--contents and --styles take others. Everything is float32; the network runs in the layout that jobs use.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image, ImageDraw

from diffstyle.architecture import architecture_from_dict
from diffstyle.checkpoint import load_unet
from diffstyle.images import prepare, to_tensor
from diffstyle.noise import seeded_noise
from diffstyle.plan import Injection, Plan, aligned_plan, event_timesteps, grid_plan, inversion_plan
from diffstyle.sampling import ddim_invert, inject
from pipeline.bench.pairs import psnr
from pipeline.pages import write_between

TREE = Path(__file__).resolve().parents[1]
DATA = TREE / "tests/data"
MARKERS = ("<!-- curve: begin -->", "<!-- curve: end -->")
KEPT = inversion_plan(50).kept
# Plain steps over a gap between injections, and below the last one.
SHAPES = [(1, 4), (1, 8), (1, 20), (2, 10), (2, 20), (4, 40)]


def plans(injection: Injection) -> list[tuple[str, int, Plan]]:
    """(words, order, plan) of what is compared."""
    found = [("grid 50", 1, grid_plan(injection, KEPT, 50))]
    for between, tail in SHAPES:
        for order in (1, 2):
            plan = aligned_plan(injection, KEPT, between, tail, order=order)
            found.append((f"aligned, between {between}, tail {tail}", order, plan))
    return found


def pictures(folder: Path, n: int, size: int) -> torch.Tensor:
    """The first n pictures of a folder: (n, 3, size, size)."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg", ".jpeg"))[:n]
    return torch.stack([to_tensor(np.asarray(prepare(Image.open(path), size))) for path in paths])


def plot(points: list[tuple[int, int, float]], path: Path) -> None:
    """Calls (logarithmic) against PSNR: order 1 in grey, order 2 in blue."""
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
    for calls in sorted({calls for calls, _, _ in points}):
        x = at(calls, floor)[0]
        draw.line([(x, bottom), (x, bottom + 5)], fill="black")
        draw.text((x - 8, bottom + 8 + 12 * (calls % 2)), str(calls), fill="black")
    for order, colour in ((1, "grey"), (2, "blue")):
        line = sorted(at(calls, dB) for calls, its, dB in points if its == order)
        draw.line(line, fill=colour, width=2)
        for x, y in line:
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
        draw.text((left + 10, 20 + 14 * order), f"order {order}", fill=colour)
    draw.text((width // 2 - 40, height - 18), "network calls", fill="black")
    image.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=DATA / "tiny-ddpm.safetensors")
    parser.add_argument("--config", type=Path, default=DATA / "tiny-ddpm.yaml")
    parser.add_argument("--contents", type=Path, default=DATA / "pictures/contents")
    parser.add_argument("--styles", type=Path, default=DATA / "pictures/styles")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--gamma", type=float, default=0.3)
    parser.add_argument("--t-boost", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the page's markers")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    unet = load_unet(options.checkpoint, architecture_from_dict(yaml.safe_load(options.config.read_text())["model"]))
    unet = unet.to(memory_format=torch.channels_last)
    n, walk = options.pairs, inversion_plan(50)
    x_T, _ = ddim_invert(unet, pictures(options.styles, n, unet.image_size), walk)
    _, h = ddim_invert(unet, pictures(options.contents, n, unet.image_size), walk)
    injection = Injection(event_timesteps(50), t_boost=options.t_boost)

    def result(plan: Plan) -> torch.Tensor:
        noise = lambda t: seeded_noise(range(n), t, x_T.shape[1:])  # noqa: E731
        return inject(unet, x_T, h, walk.kept, plan, options.gamma, noise=noise)

    wanted = result(grid_plan(injection, walk.kept, 1000))
    lines = ["| plan | order | network calls | decodes | PSNR dB |", "| --- " * 5 + "|"]
    points = []
    for words, order, plan in plans(injection):
        quality = psnr(result(plan), wanted)
        points.append((plan.encodes, order, quality))
        lines.append(f"| {words} | {order} | {plan.encodes} | {plan.decodes} | {quality:.1f} |")
        print(lines[-1], flush=True)
    name = options.checkpoint.stem
    words = f"{name}, {n} pairs, gamma {options.gamma:g}, t_boost {options.t_boost}; torch {torch.__version__}:"
    if options.write:
        write_between(options.write, MARKERS, "\n".join([words, "", *lines]))
    if options.plot:
        plot(points, options.plot)


if __name__ == "__main__":
    main()
