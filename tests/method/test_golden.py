"""Parity with the official implementation: the numbers in ../shared/golden, on the CPU and, if there, on a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffstyle.checkpoint import load_unet
from diffstyle.images import prepare, to_tensor
from diffstyle.injection import Injection, event_timesteps, grid_plan
from diffstyle.masks import reference_mask
from diffstyle.networks.architecture import architecture_from_dict
from diffstyle.plan import inversion_plan
from diffstyle.sampling import ddim_invert, inject
from diffstyle.schedule import timesteps

SCENARIOS = [
    ("ddpm_a", "base", 5e-4),
    ("ddpm_a", "masked", 5e-4),
    ("ddpm_a", "calibrated", 5e-4),
    ("ddpm_a", "every_step", 5e-4),
    pytest.param("ddpm_a", "full", 1e-3, marks=pytest.mark.slow),
    ("adm_a", "base", 5e-4),
    ("adm_a", "masked_calibrated", 5e-4),
]


@pytest.fixture(scope="module", params=[pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        # Parity is a matter of float32; TF32 keeps 10 bits.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return request.param


@pytest.fixture(scope="module")
def load(golden: Path, device: str):
    loaded = {}

    def of(name: str):
        if name not in loaded:
            facts = json.loads((golden / name / "golden.json").read_text())
            unet = load_unet(golden / name / "checkpoint.pt", architecture_from_dict(facts["arch"]), device=device)
            loaded[name] = unet, facts
        return loaded[name]

    return of


def read_pictures(facts: dict, shared: Path, size: int) -> dict[str, torch.Tensor]:
    """The scenario's photographs by stem, prepared for the network."""
    pictures = {}
    for path in facts["contents"] + facts["styles"]:
        with Image.open(shared / "images" / path) as image:
            pictures[Path(path).stem] = to_tensor(np.asarray(prepare(image, size)))
    return pictures


def inverted(unet, pictures: dict[str, torch.Tensor], p: dict, device: str):
    """x_T and kept h of all pictures in one batch, and the inversion's plan."""
    walk = inversion_plan(p["n_inv_step"], p["t_0"])
    x_T, h = ddim_invert(unet, torch.stack(list(pictures.values())).to(device), walk)
    return x_T.cpu().numpy(), h.cpu().numpy(), walk


def injected(unet, x_T, h, walk, facts: dict, p: dict, device: str):
    """Every (content, style) pair and its result, all in one batch."""
    stems = [Path(path).stem for path in facts["contents"] + facts["styles"]]
    replace = p["content_replace_step"]
    events = timesteps(p["n_gen_step"], p["t_0"]) if replace == -1 else event_timesteps(replace, p["t_0"])
    injection = Injection(events, p["t_edit"], p["t_noise"], p["dt_lambda"], p["dt_end"], calibrate=p["omega"] != 0)
    plan = grid_plan(injection, walk.kept, p["n_gen_step"], p["t_0"])
    contents, styles = ([Path(x).stem for x in facts[kind]] for kind in ("contents", "styles"))
    pairs = [(c, s) for c in contents for s in styles]
    results = inject(
        unet,
        torch.from_numpy(np.stack([x_T[stems.index(s)] for _, s in pairs])).to(device),
        torch.from_numpy(np.stack([h[stems.index(c)] for c, _ in pairs])).to(device),
        walk.kept,
        plan,
        p["hs_coeff"],
        omega=p["omega"],
        mask=reference_mask().to(device) if p["use_mask"] else None,
    )
    return zip(pairs, results.cpu().numpy(), strict=True)


@pytest.mark.parametrize(("name", "scenario", "tolerance"), SCENARIOS)
def test_scenario_matches_the_reference(name, scenario, tolerance, golden, shared, load, device):
    unet, facts = load(name)
    p = facts["scenarios"][scenario]
    numbers = np.load(golden / name / f"{scenario}.npz")
    pictures = read_pictures(facts, shared, unet.image_size)
    for stem, picture in pictures.items():
        np.testing.assert_allclose(picture, numbers[f"x0/{stem}"], atol=1e-6)

    x_T, h, walk = inverted(unet, pictures, p, device)
    for k, stem in enumerate(pictures):
        np.testing.assert_allclose(x_T[k], numbers[f"xT/{stem}"], atol=2e-4)
        slots = [walk.kept.index(t) for t in numbers[f"h_t/{stem}"]]
        wanted = numbers[f"h/{stem}"]
        np.testing.assert_allclose(h[k, slots], wanted, atol=2e-4 * np.abs(wanted).max())

    for (c, s), result in injected(unet, x_T, h, walk, facts, p, device):
        np.testing.assert_allclose(result, numbers[f"result/content_{c}_style_{s}"], atol=tolerance)


@pytest.mark.parametrize(
    "precision",
    [
        pytest.param("tf32", marks=pytest.mark.cuda),
        pytest.param("float16", marks=pytest.mark.cuda),
        "bfloat16",
    ],
)
# The floors lie 3 dB below what bfloat16 gave on a CPU; the other two keep more digits.
@pytest.mark.parametrize(
    ("name", "scenario", "floor"),
    [("ddpm_a", "base", 39), ("adm_a", "base", 43), ("adm_a", "masked_calibrated", 50)],
)
def test_lower_precisions_stay_near_the_reference(name, scenario, precision, floor, golden, shared, device, capsys):
    """The whole method, inversion included, in a lower precision: mean PSNR in dB over the scenario's pairs."""
    if precision != "bfloat16" and device == "cpu":
        pytest.skip("a GPU's precision")
    facts = json.loads((golden / name / "golden.json").read_text())
    dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
    unet = load_unet(golden / name / "checkpoint.pt", architecture_from_dict(facts["arch"]), device=device, dtype=dtype)
    p = facts["scenarios"][scenario]
    numbers = np.load(golden / name / f"{scenario}.npz")
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        x_T, h, walk = inverted(unet, read_pictures(facts, shared, unet.image_size), p, device)
        results = list(injected(unet, x_T, h, walk, facts, p, device))
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed
    errors = [
        np.square(np.clip(result, -1, 1) - np.clip(numbers[f"result/content_{c}_style_{s}"], -1, 1)).mean()
        for (c, s), result in results
    ]
    found = float(np.mean(10 * np.log10(4 / np.array(errors))))
    with capsys.disabled():
        print(f"\n{name} {scenario}, {precision} on {device}: {found:.1f} dB")
    assert found > floor
