"""Parity with the official implementation: the numbers in ../shared/golden, float32 on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffstyle.architecture import architecture_from_dict
from diffstyle.checkpoint import load_unet
from diffstyle.images import prepare, to_tensor
from diffstyle.masks import reference_mask
from diffstyle.plan import Injection, event_timesteps, grid_plan, inversion_plan
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


@pytest.mark.parametrize(("name", "scenario", "tolerance"), SCENARIOS)
def test_scenario_matches_the_reference(name, scenario, tolerance, golden, shared, load, device):
    unet, facts = load(name)
    p = facts["scenarios"][scenario]
    numbers = np.load(golden / name / f"{scenario}.npz")
    from PIL import Image

    pictures = {}
    for path in facts["contents"] + facts["styles"]:
        with Image.open(shared / "images" / path) as image:
            pictures[Path(path).stem] = to_tensor(np.asarray(prepare(image, unet.image_size)))
    stems = list(pictures)
    for stem in stems:
        np.testing.assert_allclose(pictures[stem], numbers[f"x0/{stem}"], atol=1e-6)

    # Inversion, all four pictures in one batch.
    walk = inversion_plan(p["n_inv_step"], p["t_0"])
    x_T, h = ddim_invert(unet, torch.stack([pictures[s] for s in stems]).to(device), walk)
    x_T, h = x_T.cpu().numpy(), h.cpu().numpy()
    for k, stem in enumerate(stems):
        np.testing.assert_allclose(x_T[k], numbers[f"xT/{stem}"], atol=2e-4)
        slots = [walk.kept.index(t) for t in numbers[f"h_t/{stem}"]]
        wanted = numbers[f"h/{stem}"]
        np.testing.assert_allclose(h[k, slots], wanted, atol=2e-4 * np.abs(wanted).max())

    # Injection, all four pairs in one batch.
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
    for result, (c, s) in zip(results.cpu().numpy(), pairs, strict=True):
        np.testing.assert_allclose(result, numbers[f"result/content_{c}_style_{s}"], atol=tolerance)
