"""What storing h or x_T in float16 does to results, and whether keeping fewer h changes them.

    python benchmarks/bank_precision.py [--contents N] [--styles N] [--plan aligned] [--write docs/banks.md]

Inverts the tests' pictures with the tests' tiny checkpoint, and, where they lie beside the project, the photographs and
the checkpoint of the reference numbers; writes the latents into banks of each precision, reads them back, injects every
content into every style, and compares the uint8 results with those from float32 banks. ``--write`` puts the table
between the markers of a page.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from diffstyle.checkpoint import load_unet
from diffstyle.images import prepare, to_tensor, to_uint8
from diffstyle.injection import Injection, aligned_plan, event_timesteps, grid_plan
from diffstyle.networks.architecture import architecture_from_dict
from diffstyle.networks.unet import UNet
from diffstyle.plan import Plan, inversion_plan
from diffstyle.sampling import ddim_invert, inject
from diffstyle.schedule import timesteps
from pipeline.banks.description import BankDescription, entry_of
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import role_tensors
from pipeline.banks.writer import BankWriter
from pipeline.bench.pages import publish
from pipeline.stages.reconstruct import psnr
from pipeline.storage.identity import image_hash

MARKERS = "<!-- bank_precision: begin -->", "<!-- bank_precision: end -->"
ROOT = Path(__file__).resolve().parents[1]
INVERSION_STEPS = 50
BATCH = 4


@dataclass
class Case:
    """A model with its contents and styles."""

    name: str
    unet: UNet
    contents: list[Path]
    styles: list[Path]


def cases(n_contents: int, n_styles: int) -> Iterator[Case]:
    data = ROOT / "demo" / "tiny"
    architecture = architecture_from_dict(yaml.safe_load((data / "tiny-ddpm.yaml").read_text())["model"])
    unet = load_unet(data / "tiny-ddpm.safetensors", architecture)
    contents, styles = (sorted((data / "pictures" / side).iterdir()) for side in ("contents", "styles"))
    yield Case("the tiny checkpoint, 32 px, drawings", unet, contents[:n_contents], styles[:n_styles])
    shared = ROOT.parent / "shared"
    golden = shared / "golden" / "ddpm_a"
    if not golden.is_dir():
        return
    said = json.loads((golden / "golden.json").read_text())
    unet = load_unet(golden / "checkpoint.pt", architecture_from_dict(said["arch"]))
    found = [[next(shared.rglob(Path(name).name)) for name in said[side]] for side in ("contents", "styles")]
    yield Case("the reference numbers' random network, 32 px, photographs", unet, *found)


def invert(unet: UNet, files: list[Path], keep: tuple[int, ...] | None) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(image hashes, x_T, h) of the prepared pictures, float32; always in batches of the same size."""
    pixels = []
    for file in files:
        with Image.open(file) as image:
            pixels.append(np.asarray(prepare(image.convert("RGB"), unet.image_size)))
    x = to_tensor(np.stack(pixels))
    plan = inversion_plan(INVERSION_STEPS, keep=keep)
    ends, kept = zip(*(ddim_invert(unet, some, plan) for some in batches(x)), strict=True)
    n = len(files)
    return [image_hash(one) for one in pixels], torch.cat(ends)[:n].numpy(), torch.cat(kept)[:n].numpy()


def batches(x: torch.Tensor) -> Iterator[torch.Tensor]:
    for start in range(0, len(x), BATCH):
        some = x[start : start + BATCH]
        yield torch.cat([some, some[-1:].expand(BATCH - len(some), *some.shape[1:])])


def through_a_bank(
    folder: Path, unet: UNet, images: list[str], x_T: np.ndarray, h: np.ndarray, kept: tuple[int, ...], dtypes: dict
) -> tuple[np.ndarray, np.ndarray]:
    """The latents as a bank of these dtypes gives them back."""
    what = BankDescription(
        model_fingerprint=unet.fingerprint,
        model_name="bench",
        image_size=unet.image_size,
        format="parquet",
        inversion={"steps": INVERSION_STEPS, "t_0": 999},
        preprocessing={},
        tensors=role_tensors("both", unet.image_size, unet.h_shape, kept, **dtypes),
    )
    writer = BankWriter.create_or_open(folder, what)
    items = [entry_of(what, {"key": str(n), "image": image}, x_t=x_T[n], h=h[n]) for n, image in enumerate(images)]
    writer.commit("part", writer.write_payload(folder, what, "part", items))
    entries = LatentBank.open(folder).get_many(images)
    return tuple(np.stack([entry.tensors[name] for entry in entries]) for name in ("x_t", "h"))


def results(unet: UNet, x_T: np.ndarray, h: np.ndarray, kept: tuple[int, ...], plan: Plan) -> np.ndarray:
    """uint8 results of every content (h) in every style (x_T)."""
    pairs = list(itertools.product(range(len(h)), range(len(x_T))))
    made = []
    for start in range(0, len(pairs), BATCH):
        some = pairs[start : start + BATCH]
        some += [some[-1]] * (BATCH - len(some))
        style = torch.from_numpy(np.stack([x_T[s] for _, s in some])).float()
        content = torch.from_numpy(np.stack([h[c] for c, _ in some])).float()
        made.append(to_uint8(inject(unet, style, content, kept, plan, 0.3)))
    return np.concatenate(made)[: len(pairs)]


def rows(case: Case, folder: Path, chosen: list[str]) -> list[str]:
    unet = case.unet
    kept_all = timesteps(INVERSION_STEPS)[:-1]
    injection = Injection(event_timesteps(50))
    plans = {"reference": grid_plan(injection, kept_all), "aligned": aligned_plan(injection, kept_all)}
    lines = []
    for plan_name in chosen:
        plan = plans[plan_name]
        needed = plan.content_timesteps
        images, _, h = invert(unet, case.contents, needed)
        style_images, x_T, style_h = invert(unet, case.styles, needed)
        found: dict[str, np.ndarray] = {}
        for number, (h_dtype, x_t_dtype) in enumerate(itertools.product(("float32", "float16"), repeat=2)):
            dtypes = {"h_dtype": h_dtype, "x_t_dtype": x_t_dtype}
            at = folder / f"{len(list(folder.iterdir()))}-{number}"
            no_x_T = np.zeros((len(h), *x_T.shape[1:]), np.float32)
            _, h_back = through_a_bank(at / "c", unet, images, no_x_T, h, needed, dtypes)
            x_back, _ = through_a_bank(at / "s", unet, style_images, x_T, style_h, needed, dtypes)
            found[f"{h_dtype} h, {x_t_dtype} x_T"] = results(unet, x_back, h_back, needed, plan)
            print(case.name, plan_name, dtypes, file=sys.stderr)
        exact = found.pop("float32 h, float32 x_T")
        for name, other in found.items():
            values = [psnr(a, b) for a, b in zip(exact, other, strict=True)]
            levels = np.abs(exact.astype(int) - other.astype(int))
            lines.append(
                f"| {case.name} | {plan_name} | {len(exact)} | {name} | {np.median(values):.1f} | {min(values):.1f} "
                f"| {(levels > 0).mean():.2%} | {levels.max()} |"
            )
            print(lines[-1], file=sys.stderr)
        _, _, h_all = invert(unet, case.contents, None)
        same_h = np.array_equal(h_all[:, [kept_all.index(t) for t in needed]], h)
        same = same_h and np.array_equal(results(unet, x_T, h_all, kept_all, plan), exact)
        equal = "equal bit for bit" if same else "**NOT equal**"
        lines.append(
            f"| {case.name} | {plan_name} | {len(exact)} | `keep: events` ({len(needed)} h) against `keep: all` "
            f"({len(kept_all)}) | {equal} | | | |"
        )
        print(lines[-1], file=sys.stderr)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contents", type=int, default=4, help="of the tests' pictures")
    parser.add_argument("--styles", type=int, default=4)
    parser.add_argument(
        "--plan", action="append", choices=["aligned", "reference"], help="default: aligned, which is quick"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the page's markers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "Against the result from float32 banks; dB of the uint8 pictures:",
        "",
        "| model and pictures | plan | pairs | bank | PSNR, median | lowest | values that differ | by at most |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as name:
        for case in cases(options.contents, options.styles):
            lines += rows(case, Path(name), options.plan or ["aligned"])
    lines += ["", f"Made by `python {' '.join(['benchmarks/bank_precision.py', *sys.argv[1:]])}`."]
    publish(lines, options.write, MARKERS)


if __name__ == "__main__":
    main()
