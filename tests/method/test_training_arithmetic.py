"""What the trainer shows its network, and what it saves: each against a closed form or against its own state file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from diffstyle.networks.architecture import architecture_from_dict, architecture_to_dict
from diffstyle.networks.build import build_unet
from diffstyle.schedule import alphas_cumprod
from diffstyle.training import Trainer, TrainSettings, noise_loss
from pipeline.cli.train import train

MODEL = {
    "family": "ddpm",
    "image_size": 8,
    "ch": 32,
    "ch_mult": [1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
}


def speckle(count: int = 6) -> np.ndarray:
    """Pictures that no flip leaves as they are, uint8 (count, 8, 8, 3)."""
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


def trainer(output: Path, **settings: object) -> Trainer:
    torch.manual_seed(0)
    architecture = architecture_from_dict(MODEL)
    images = torch.from_numpy(speckle()).permute(0, 3, 1, 2).contiguous()
    values = {"steps": 4, "batch_size": 64, "warmup": 0, "lr": 1e-2, **settings}
    return Trainer(
        build_unet(architecture),
        images,
        TrainSettings(**values),  # type: ignore[arg-type]
        output,
        architecture_to_dict(architecture),
        say=lambda line: None,
    )


@pytest.mark.parametrize("p2", [0.0, 1.0])
def test_a_network_that_knows_the_noise_has_no_loss(p2):
    """The noisy picture is sqrt(a) x0 + sqrt(1 - a) noise, whose noise can be told exactly by who knows x0."""
    cumulative = alphas_cumprod()
    t = torch.arange(100, 1000, 9)
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, len(t), 3, 4, 4, generator=generator)
    a = cumulative[t].view(-1, 1, 1, 1)

    def knowing(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        assert torch.equal(at, t)
        estimate = (x - a.sqrt() * x0) / (1 - a).sqrt()
        return torch.cat([estimate, torch.full_like(estimate, 9.0)], 1)  # a learned variance, which is not trained

    loss, plain = noise_loss(knowing, x0, t, noise, cumulative, p2)
    assert loss.item() < 1e-8
    assert plain.item() < 1e-8


def test_the_loss_is_the_mean_square_of_the_error():
    cumulative = alphas_cumprod()
    x0, t = torch.zeros(4, 3, 2, 2), torch.tensor([0, 10, 500, 999])
    errors = torch.tensor([1.0, 2.0, 3.0, 4.0])
    noise = torch.zeros_like(x0)

    def erring(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return noise + errors.view(-1, 1, 1, 1)

    loss, plain = noise_loss(erring, x0, t, noise, cumulative)
    assert loss.item() == plain.item() == pytest.approx((1 + 4 + 9 + 16) / 4)
    loss, plain = noise_loss(erring, x0, t, noise, cumulative, p2=0.5)
    weights = (1 - cumulative).sqrt() / (1 - cumulative).sqrt().mean()
    assert loss.item() == pytest.approx((weights[t] * errors**2).mean().item())
    assert plain.item() == pytest.approx((1 + 4 + 9 + 16) / 4)


@pytest.mark.parametrize("flip", [True, False])
def test_pictures_are_shown_as_they_are_or_mirrored_left_to_right(tmp_path, flip):
    run = trainer(tmp_path, flip=flip)
    x0, t, noise = run.batch(0)
    as_it_is = {(picture.astype(np.float32) / 127.5 - 1).tobytes() for picture in speckle()}
    mirrored = {(picture[:, ::-1].astype(np.float32) / 127.5 - 1).tobytes() for picture in speckle()}
    shown = [np.ascontiguousarray(picture.permute(1, 2, 0).numpy()).tobytes() for picture in x0]
    n_plain, n_mirrored = sum(one in as_it_is for one in shown), sum(one in mirrored for one in shown)
    assert n_plain + n_mirrored == len(shown) == 64
    assert (16 < n_mirrored < 48) if flip else n_mirrored == 0
    assert t.min() >= 0
    assert t.max() <= 999
    assert abs(float(noise.mean())) < 0.05
    assert float(noise.std()) == pytest.approx(1, abs=0.05)


def test_what_is_saved_at_the_end_is_the_average_and_not_the_last_weights(tmp_path):
    np.savez(tmp_path / "data.npz", images=speckle())
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {"data": str(tmp_path / "data.npz"), "model": MODEL, "steps": 4, "batch_size": 4, "lr": 1e-2, "warmup": 1}
        )
    )
    result = CliRunner().invoke(train, [str(config), "--output", str(tmp_path / "run")])
    assert result.exit_code == 0, result.exception
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert saved.keys() == state["ema"].keys() == state["model"].keys()
    apart = 0.0
    for name, tensor in saved.items():
        assert torch.equal(tensor, state["ema"][name].to(tensor.dtype)), name  # saved in half precision
        apart = max(apart, float((tensor.float() - state["model"][name]).abs().max()))
    assert apart > 1e-3
