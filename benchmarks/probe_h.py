"""How much content does a model's h carry? Scores injections of held-out drawings against their true paintings.

Usage: ``python benchmarks/probe_h.py MODEL DATA [--setting gamma=1,t_edit=200,events=50] ... [--pairs 39]``

MODEL is a ``.safetensors`` of ``diffstyle train`` or the ``state.pt`` of a run under way (its average is taken); DATA
is the folder of benchmarks/demo_data, or the held-out drawings that lie in the source tree, demo/heldout.parquet. A
pair is a plain drawing A and a painting of another drawing, B; the truth is A in B's painting. Prints a Markdown table:
correlation of edges with A and with B, distance of colour histograms to B (0 to 1), PSNR to the truth, beside what
returning B, returning A and the truth itself would score; "way" is how far the edges went from B's (0) to the truth's
(1). Settings are those of DEFAULT: ``within=80-200+440-600`` are the timesteps that inject (all from t_edit up without
it), ``equal=1`` takes gamma for the mean over pairs and turns h by the same angle in each, ``start`` and ``match`` are
the extensions beyond the paper (1 matches histograms). It is the probe of the training search (docs/demo-training.md),
not the benchmark.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffstyle.checkpoint import load_unet
from diffstyle.extensions import channel_histograms, match_histograms, start_from_content
from diffstyle.images import to_tensor, to_uint8
from diffstyle.injection import Injection, event_timesteps, grid_plan
from diffstyle.networks.architecture import architecture_from_dict
from diffstyle.networks.build import build_unet
from diffstyle.networks.unet import UNet
from diffstyle.plan import inversion_plan, sampling_plan
from diffstyle.sampling import ddim_invert, ddim_sample, inject
from pipeline.bench.heldout import load_pairs
from pipeline.measures.pixels import colour_distance, edge_correlation, psnr

DEFAULT: dict[str, Any] = {
    **{"gamma": 1.0, "t_edit": 200, "events": 50, "steps": 50, "omega": 0.0, "t_start": 999},
    **{"within": "", "equal": 0, "start": 0.0, "match": 0},
}


def load(path: Path) -> tuple[UNet, str]:
    """The network and a few words about how long it was trained."""
    if path.suffix != ".pt":
        return load_unet(path, None), path.stem
    state = torch.load(path, map_location="cpu", weights_only=True)
    unet = build_unet(architecture_from_dict(state["architecture"]))
    unet.load_state_dict(state["ema"])
    images = state["step"] * state["settings"]["batch_size"]
    return unet.eval().requires_grad_(False), f"{path.parent.name}, {state['step']} steps, {images // 1000}k images"


def pairs(folder: Path, count: int, size: int, unseen: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Contents A (plain), styles B (painted, another drawing), truths (A in B's painting): (N, 3, S, S) in [-1, 1]."""
    if folder.suffix == ".parquet":
        chosen_pairs = load_pairs(folder, count, size, unseen, seed)
        return chosen_pairs.content, chosen_pairs.style, chosen_pairs.truth
    packed = np.load(folder / "test.npz")["images"]
    with (folder / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    where = {(row["drawing_style"], row["seed"], row["painting"]): int(row["row"]) for row in rows}
    drawings = sorted({(row["drawing_style"], row["seed"]) for row in rows})
    paintings = sorted(
        {r["painting"] for r in rows if r["painting"] != "plain" and (r["unseen_painting"] == "1") == unseen}
    )
    chooser = random.Random(seed)
    chosen = []
    for n in range(count):
        a, b = chooser.sample(drawings, 2)
        painting = paintings[n % len(paintings)]
        chosen.append((where[*a, "plain"], where[*b, painting], where[*a, painting]))
    size_of = (size, size)
    stacks = []
    for column in zip(*chosen, strict=True):
        pictures = [Image.fromarray(packed[row]).resize(size_of, Image.Resampling.BILINEAR) for row in column]
        stacks.append(torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2) / 127.5 - 1)
    return stacks[0], stacks[1], stacks[2]


@dataclass(frozen=True)
class Inverted:
    """N pairs, ready to be injected at any setting of as many inversion steps; h is (N, K, C, h, w) at ``kept``."""

    model: UNet
    style: Tensor
    x_T: Tensor
    h: Tensor
    content_x_T: Tensor
    content_h: Tensor
    kept: tuple[int, ...]


def invert(model: UNet, a: Tensor, b: Tensor, steps: int) -> Inverted:
    """Contents ``a`` and styles ``b`` by DDIM."""
    plan = inversion_plan(steps)
    x_T, h = ddim_invert(model, b, plan)
    return Inverted(model, b, x_T, h, *ddim_invert(model, a, plan), plan.kept)


def injected(pairs: Inverted, setting: dict[str, Any]) -> Tensor:
    """The results of the pairs at one setting, (N, 3, S, S)."""
    ranges = [tuple(map(int, part.split("-"))) for part in filter(None, setting["within"].split("+"))]
    events = tuple(
        t for t in event_timesteps(setting["events"]) if not ranges or any(low <= t < high for low, high in ranges)
    )
    injection = Injection(events, setting["t_edit"], t_start=setting["t_start"], calibrate=setting["omega"] != 0)
    plan = grid_plan(injection, pairs.kept, setting["steps"])
    gamma: float | Tensor = setting["gamma"]
    if setting["equal"]:
        slots = [pairs.kept.index(t) for t in plan.content_timesteps]
        angle = torch.cosine_similarity(pairs.h[:, slots].flatten(2), pairs.content_h[:, slots].flatten(2), 2).acos()
        gamma = (gamma * angle.mean() / angle.mean(1)).clamp_max(1)
    x_T = start_from_content(pairs.x_T, pairs.content_x_T, setting["start"])
    x = inject(pairs.model, x_T, pairs.content_h, pairs.kept, plan, gamma, omega=setting["omega"])
    return matched(x, pairs.style) if setting["match"] else x


def matched(x: Tensor, style: Tensor) -> Tensor:
    """Results with the colours of their styles, as ``injection.match_colours: histogram`` gives them."""
    pixels, wanted = (torch.from_numpy(to_uint8(z.cpu())) for z in (x, style))
    return to_tensor(match_histograms(pixels, channel_histograms(wanted)).numpy())


def score(x: Tensor, a: Tensor, b: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """The four measures of one set of results, each (N,)."""
    return {
        "edges A": edge_correlation(x, a),
        "edges B": edge_correlation(x, b),
        "colour B": colour_distance(x, b),
        "PSNR true": psnr(x, truth),
    }


def parse_setting(text: str) -> dict[str, Any]:
    """``gamma=1,t_edit=200`` with the defaults filled in."""
    setting: dict[str, Any] = dict(DEFAULT)
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in DEFAULT:
            raise SystemExit(f"--setting {text}: unknown '{name}'; allowed: {', '.join(DEFAULT)}")
        setting[name] = type(DEFAULT[name])(value)
    return setting


def main() -> None:
    parser = argparse.ArgumentParser(description="Score how much content a model's h carries.")
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--setting", action="append", help="gamma=..,t_edit=..,start=.. and others, see above")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--unseen", action="store_true", help="paintings that were never trained on")
    parser.add_argument("--sheet", type=Path, help="write a PNG: A, B, truth, then a row a setting")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, label = load(arguments.model)
    model = model.cast(getattr(torch, arguments.precision)).to(arguments.device)
    a, b, truth = pairs(arguments.data, arguments.pairs, model.image_size, arguments.unseen)
    settings = [parse_setting(text) for text in arguments.setting or ["", "gamma=0.6", "t_edit=400"]]

    on_device = (a.to(arguments.device), b.to(arguments.device))
    inverted = {n: invert(model, *on_device, n) for n in {max(50, setting["steps"]) for setting in settings} | {50}}
    back, _ = ddim_sample(model, inverted[50].x_T, sampling_plan(50))
    returned, spread = psnr(back.cpu(), b).mean(), inverted[50].x_T.std()
    print(f"reconstruction {returned:.1f} dB; std of x_T {spread:.3f}; {len(a)} pairs")
    columns = (label, "edges A", "way", "edges B", "colour B", "PSNR true", "s")
    print(f"\n| {' | '.join(columns)} |\n| {' | '.join('---' for _ in columns)} |")
    low = float(edge_correlation(b, a).mean())
    high = float(edge_correlation(truth, a).mean())
    rows = [a, b, truth]

    def report(name: str, x: Tensor, seconds: float) -> None:
        means = {key: float(value.mean()) for key, value in score(x, a, b, truth).items()}
        way = (means["edges A"] - low) / (high - low)
        print(
            f"| {name} | {means['edges A']:.3f} | {way:+.2f} | {means['edges B']:.3f} | {means['colour B']:.2f} "
            f"| {'-' if x is truth else format(means['PSNR true'], '.2f')} | {seconds:.0f} |",
            flush=True,
        )

    for name, x in (("return B", b), ("return A", a), ("truth", truth)):
        report(name, x, 0)
    for setting in settings:
        started = time.perf_counter()
        x = injected(inverted[max(50, setting["steps"])], setting).cpu()
        changed = ", ".join(f"{key} {value}" for key, value in setting.items() if value != DEFAULT[key])
        report(changed or "defaults", x, time.perf_counter() - started)
        rows.append(x)
    if arguments.sheet:
        shown = min(16, arguments.pairs)
        strips = [torch.cat(list(x[:shown].clamp(-1, 1)), 2) for x in rows]
        pixels = ((torch.cat(strips, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        sheet = Image.fromarray(pixels)
        arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
        sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(arguments.sheet)


if __name__ == "__main__":
    main()
