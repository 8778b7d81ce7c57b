"""How near each preset plan is to the 1000-step result, for the settings that change what a walk does.

    python benchmarks/preset_settings.py [--golden FOLDER --golden FOLDER --pictures PHOTOGRAPHS] --write docs/speed.md

Prints a Markdown table, each row when it is ready. The models are the tests' and the demo's, with their own pictures;
the demo's also with what its job says. ``--golden`` adds a folder of reference numbers (``checkpoint.pt``, and
``golden.json`` with its architecture and its pictures' paths below ``--pictures``). A setting is what a job may say
of ``injection``, and becomes a plan and a mask as in a job. Within a row all plans start from the same x_T and h and
draw the same noise. The k-th content goes into the k-th style; the PSNR is that of the pair that loses most. Everything
is float32. ``doubled`` is `{aligned: {between: 1, tail: 17, measured: 14, doubled: 5}}`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from diffstyle.checkpoint import load_unet
from diffstyle.images import prepare, to_tensor
from diffstyle.networks.architecture import architecture_from_dict
from diffstyle.networks.unet import UNet
from diffstyle.noise import seeded_noise
from diffstyle.plan import Plan, Step, inversion_plan
from diffstyle.sampling import ddim_invert, inject
from pipeline.bench.pages import write_between
from pipeline.bench.pairs import psnr
from pipeline.jobfile.injection import PLAN_PRESETS, InjectionSettings
from pipeline.jobfile.schema import Job
from pipeline.stages.masks import load_masks
from pipeline.stages.recipe import injection_plan
from pipeline.stages.walk import Walk
from pipeline.storage.identity import digest, digest_of

TREE = Path(__file__).resolve().parents[1]
PICTURES = TREE / "demo/tiny/pictures"
# Checkpoint, its config, the config's key for the architecture, and where contents and styles lie.
TRAINED = [
    ("demo/tiny/tiny-ddpm.safetensors", "demo/tiny/tiny-ddpm.yaml", "model", "demo/tiny/pictures"),
    ("demo/model/demo-64.safetensors", "demo/model/demo-64.yaml", "architecture", "demo"),
]
# The job of a trained model, whose settings make further rows.
JOBS = {"demo-64": "jobs/demo.yaml"}
# The rest of `injection` has the job file's defaults: gamma 0.3, t_edit 400, t_boost 0, 50 events.
SETTINGS: list[dict[str, Any]] = [
    {},
    {"gamma": 1},
    {"t_boost": 200},
    {"omega": 0.3},
    {"mask": {"rectangle": [0, 0, 1, 0.5]}},
    {"dt_lambda": 0.9985},  # the paper's, for local style mixing
    {"events": 100},
    {"gamma": 1, "t_edit": 200, "t_start": 500},
]
MARKERS = ("<!-- presets: begin -->", "<!-- presets: end -->")
REFERENCE = "reference"
# What the columns are called, and the plans as a job file says them.
SHORTER: dict[str, Any] = {name: name for name in PLAN_PRESETS if name != REFERENCE}
SHORTER["doubled"] = {"aligned": {"between": 1, "tail": 17, "measured": 14, "doubled": 5}}


@dataclass(frozen=True)
class Pairs:
    """A model with inverted pictures: x_T (n, 3, H, W) of the styles, h (n, K, C, h, w) of the contents at ``kept``.

    ``contents`` and ``styles`` are the pictures, (n, 3, H, W) in [-1, 1].
    """

    name: str
    unet: UNet
    x_T: Tensor
    h: Tensor
    kept: tuple[int, ...]
    contents: Tensor
    styles: Tensor

    @classmethod
    def of(cls, name: str, unet: UNet, contents: list[Path], styles: list[Path]) -> Pairs:
        unet = unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        walk = inversion_plan(50)
        content, style = prepared(contents, unet.image_size), prepared(styles, unet.image_size)
        x_T, _ = ddim_invert(unet, style, walk)
        _, h = ddim_invert(unet, content, walk)
        return cls(name, unet, x_T, h, walk.kept, content, style)

    def reference(self, settings: InjectionSettings, keep: Path | None) -> Tensor:
        """The result of the 1000 steps: read from the folder ``keep`` if an earlier run left it there."""
        if keep is None:
            return self.result(settings)
        made_of = {"model": self.unet.fingerprint, "settings": settings.to_dict(), "torch": torch.__version__}
        pictures = digest(self.x_T.numpy().tobytes(), self.h.numpy().tobytes())
        path = keep / f"{self.name}-{digest_of({**made_of, 'pictures': pictures})}.pt"
        if not path.exists():
            keep.mkdir(parents=True, exist_ok=True)
            torch.save(self.result(settings), path)
        return torch.load(path)

    def plan(self, settings: InjectionSettings) -> Plan:
        return injection_plan(settings, Walk(50))

    def result(self, settings: InjectionSettings) -> Tensor:
        """(n, 3, H, W), not clipped. The noise of pair k depends on k and the timestep alone, as in a job."""
        mask = load_masks(settings, {}, self.unet.image_size, self.unet.h_shape[1:]).shared
        assert isinstance(settings.gamma, float | int)
        return inject(
            self.unet,
            self.x_T,
            self.h,
            self.kept,
            self.plan(settings),
            settings.gamma,
            omega=settings.omega,
            mask=None if mask is None else torch.from_numpy(mask)[None],
            noise=lambda t: seeded_noise(range(len(self.x_T)), t, self.x_T.shape[1:]),
        )


def prepared(paths: list[Path], size: int) -> Tensor:
    """(n, 3, size, size) in [-1, 1]."""
    pictures = []
    for path in paths:
        with Image.open(path) as image:
            pictures.append(to_tensor(np.asarray(prepare(image, size))))
    return torch.stack(pictures)


def cases(golden: list[Path], photographs: Path, n: int) -> Iterator[Pairs]:
    """The models, each with its first ``n`` contents and styles, inverted."""
    for folder in golden:
        facts = json.loads((folder / "golden.json").read_text())
        unet = load_unet(folder / "checkpoint.pt", architecture_from_dict(facts["arch"]))
        contents, styles = ([photographs / path for path in facts[kind][:n]] for kind in ("contents", "styles"))
        yield Pairs.of(folder.name, unet, contents, styles)
    for weights, config, key, pictures in TRAINED:
        architecture = architecture_from_dict(yaml.safe_load((TREE / config).read_text())[key])
        unet = load_unet(TREE / weights, architecture)
        contents, styles = (sorted((TREE / pictures / kind).iterdir())[:n] for kind in ("contents", "styles"))
        yield Pairs.of(Path(weights).stem, unet, contents, styles)


def settings_for(model: str) -> list[dict[str, Any]]:
    """The model's rows: ``SETTINGS``, and each point of the sweep of its own job, where it has one."""
    if model not in JOBS:
        return SETTINGS
    own = yaml.safe_load((TREE / JOBS[model]).read_text())["injection"]
    masks = own.pop("mask")
    del own["plan"]
    return [*SETTINGS, *({**own, "mask": mask} if mask else own for mask in masks)]


def settings_of(injection: dict[str, Any], plan: Any) -> InjectionSettings:
    """What a job with this ``injection`` would make its one kind of pair with."""
    sides = {"content": {"sample": 1}, "style": {"sample": 1}}
    job = Job.model_validate({"model": "any", "output": "none", **sides, "injection": {**injection, "plan": plan}})
    (settings,) = job.settings()
    return settings


def row(pairs: Pairs, injection: dict[str, Any], keep: Path | None = None) -> str:
    """A model's row of the table for one setting."""
    reference = settings_of(injection, REFERENCE)
    grid = pairs.plan(reference)
    wanted = pairs.reference(reference, keep)
    cells = [pairs.name, words(injection), str(grid.encodes)]
    for shorter in SHORTER.values():
        settings = settings_of(injection, shorter)
        plan = pairs.plan(settings)
        assert jumps(plan) == jumps(grid), "the events, or their noise, would differ between the plans"
        cells += [str(plan.encodes), f"{lowest_psnr(pairs.result(settings), wanted):.1f}"]
    return "| " + " | ".join(cells) + " |"


def lowest_psnr(made: Tensor, wanted: Tensor) -> float:
    """Of the picture that is furthest from the one wanted, in dB; both (n, 3, H, W) in [-1, 1]."""
    return float(min(psnr(a[None], b[None]) for a, b in zip(made, wanted, strict=True)))


def jumps(plan: Plan) -> list[Step]:
    """The steps that must be the same in every plan: their timesteps, h, noise and direction."""
    return [
        replace(step, t_next=0, order=1, carry=False, mean_of=1, correct=False) for step in plan.steps if step.jumps
    ]


def words(injection: dict[str, Any]) -> str:
    """As a job file's line would have it."""
    return yaml.safe_dump(injection, default_flow_style=True).strip()[1:-1] or "default"


def option_parser(description: str) -> argparse.ArgumentParser:
    """The options that say which models and pictures, and where the table goes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--golden", type=Path, action="append", default=[], help="a folder of reference numbers")
    parser.add_argument("--pictures", type=Path, default=PICTURES, help="where the photographs of --golden lie")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the 1000-step results there for another run")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the page's markers")
    return parser


def main() -> None:
    options = option_parser(__doc__.splitlines()[0]).parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    header = ["model", "injection", f"{REFERENCE}, calls"]
    header += [f"{name}, {unit}" for name in SHORTER for unit in ("calls", "dB")]
    lines = [f"Lowest PSNR of {options.pairs} pairs to `{REFERENCE}`; torch {torch.__version__}:", ""]
    lines += [f"| {' | '.join(header)} |", "| --- " * len(header) + "|"]
    print("\n".join(lines), flush=True)
    for pairs in cases(options.golden, options.pictures, options.pairs):
        for injection in settings_for(pairs.name):
            lines.append(row(pairs, injection, options.keep))
            print(lines[-1], flush=True)
    if options.write:
        write_between(options.write, MARKERS, "\n".join(lines))


if __name__ == "__main__":
    main()
