"""The trainer: it learns, it resumes exactly, its average and its errors are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from support.picture_bytes import ADOBE, rgb_profile

from diffstyle.checkpoint import load_unet
from diffstyle.errors import CheckpointError, ConfigError
from diffstyle.images import prepare
from diffstyle.networks.architecture import architecture_from_dict, architecture_to_dict
from diffstyle.networks.build import build_unet
from diffstyle.schedule import alphas_cumprod
from diffstyle.training import Ema, Trainer, TrainSettings, learning_rate, load_images, noise_loss, sample_grid
from pipeline.cli.train import TrainConfig, train
from pipeline.shards.decode import decode

SMALL = {
    "family": "ddpm",
    "image_size": 8,
    "ch": 32,
    "ch_mult": [1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [4],
}
ADM = {
    "family": "adm",
    "image_size": 8,
    "num_channels": 32,
    "channel_mult": [1, 1],
    "num_res_blocks": 1,
    "attention_resolutions": [4],
    "num_head_channels": 32,
    "learn_sigma": True,
}


def pictures(count: int = 12, size: int = 8) -> np.ndarray:
    """Two-coloured squares, uint8 (count, size, size, 3)."""
    random = np.random.default_rng(0)
    array = np.zeros((count, size, size, 3), np.uint8)
    array[:] = random.integers(0, 256, (count, 1, 1, 3))
    array[:, : size // 2] = random.integers(0, 256, (count, 1, 1, 3))
    return array


def trainer(output: Path, model: dict = SMALL, **settings: object) -> Trainer:
    torch.manual_seed(0)
    architecture = architecture_from_dict(model)
    images = torch.from_numpy(pictures()).permute(0, 3, 1, 2).contiguous()
    values = {"steps": 6, "batch_size": 4, "warmup": 2, "lr": 1e-3, **settings}
    return Trainer(
        build_unet(architecture),
        images,
        TrainSettings(**values),  # type: ignore[arg-type]
        output,
        architecture_to_dict(architecture),
        say=lambda line: None,
    )


@pytest.mark.parametrize("model", [SMALL, ADM], ids=["ddpm", "adm"])
def test_training_lowers_the_loss(tmp_path, model):
    run = trainer(tmp_path, model, steps=120, batch_size=16, lr=2e-3, log_every=20)
    assert run.train() < 0.6  # an untrained network estimates zero noise: its loss is 1


def test_killed_and_resumed_run_equals_the_uninterrupted_one(tmp_path):
    whole = trainer(tmp_path / "whole", schedule="cosine")
    whole.train()

    killed = trainer(tmp_path / "parts", schedule="cosine", save_every=3)
    batch = killed.batch

    def batch_until_killed(step):
        if step == 4:  # one step later than the last state on disk
            raise KeyboardInterrupt
        return batch(step)

    killed.batch = batch_until_killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        killed.train()

    resumed = trainer(tmp_path / "parts", schedule="cosine")
    with torch.no_grad():
        for parameter in resumed.model.parameters():
            parameter.fill_(7)  # whatever the fresh model holds must not matter
    resumed.resume()
    assert resumed.step == 3
    resumed.train()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
        assert torch.equal(whole.ema.average[name], resumed.ema.average[name]), name
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["state.pt"]


def test_time_limit_stops_and_keeps_the_state(tmp_path):
    run = trainer(tmp_path, steps=10_000, max_seconds=0.01)
    run.train()
    again = trainer(tmp_path)
    again.resume()
    assert again.step == run.step < 10_000


def test_seed_decides_the_batches(tmp_path):
    x, t, noise = trainer(tmp_path).batch(5)
    x_again, t_again, noise_again = trainer(tmp_path).batch(5)
    assert torch.equal(x, x_again)
    assert torch.equal(t, t_again)
    assert torch.equal(noise, noise_again)
    assert not torch.equal(noise, trainer(tmp_path).batch(6)[2])
    assert not torch.equal(noise, trainer(tmp_path, seed=1).batch(5)[2])


def test_average_warms_up_then_decays():
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    ema = Ema(module, decay=0.5)
    torch.nn.init.ones_(module.weight)
    ema.update(module, 0)  # the decay of step 0 is 1/10
    assert ema.average["weight"].item() == pytest.approx(0.9)
    torch.nn.init.zeros_(module.weight)
    ema.update(module, 1000)
    assert ema.average["weight"].item() == pytest.approx(0.45)


def test_sampling_leaves_the_training_weights_alone(tmp_path):
    run = trainer(tmp_path, steps=2)
    run.train()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    grid = run.sample()
    assert grid.size == (32, 32)
    assert run.model.training
    for name, value in run.model.state_dict().items():
        assert torch.equal(before[name], value), name
    assert sample_grid(run.load_ema(), 8, count=5, steps=3).size == (32, 16)


def test_p2_weights_spare_the_low_noise_levels():
    class Zero(torch.nn.Module):
        def forward(self, x, t):
            return torch.zeros_like(x)

    noise = torch.ones(1000, 3, 2, 2)  # a network that answers zero errs by 1 at every timestep
    x0, t = torch.zeros_like(noise), torch.arange(1000)
    loss, plain = noise_loss(Zero(), x0, t, noise, alphas_cumprod(), p2=1.0)
    assert loss.item() == pytest.approx(1.0)
    assert plain.item() == pytest.approx(1.0)
    low, _ = noise_loss(Zero(), x0[:1], t[10:11], noise[:1], alphas_cumprod(), p2=1.0)
    high, _ = noise_loss(Zero(), x0[:1], t[900:901], noise[:1], alphas_cumprod(), p2=1.0)
    assert low < 0.01 < 1 < high


def test_learning_rate():
    constant = TrainSettings(steps=100, lr=1.0, warmup=10)
    cosine = TrainSettings(steps=100, lr=1.0, warmup=0, schedule="cosine")
    assert learning_rate(constant, 0) == pytest.approx(0.1)
    assert learning_rate(constant, 50) == 1.0
    assert learning_rate(cosine, 0) == 1.0
    assert learning_rate(cosine, 50) == pytest.approx(0.5)
    assert learning_rate(cosine, 100) == pytest.approx(0)


def test_pictures_from_a_folder_and_from_arrays_agree(tmp_path):
    array = pictures(3, 16)
    np.save(tmp_path / "packed.npy", array)
    np.savez(tmp_path / "packed.npz", images=array)
    folder = tmp_path / "folder" / "inner"
    folder.mkdir(parents=True)
    for index, picture in enumerate(array):
        Image.fromarray(picture).save(folder / f"{index}.png")
    (folder / "notes.txt").write_text("not a picture")
    expected = load_images(tmp_path / "packed.npz", 8)
    assert expected.shape == (3, 3, 8, 8)
    assert expected.dtype == torch.uint8
    assert torch.equal(expected, load_images(tmp_path / "packed.npy", 8))
    assert torch.equal(expected, load_images(tmp_path / "folder", 8))


@pytest.mark.parametrize("size", [(9, 16), (16, 11), (21, 10), (8, 13)])
def test_training_pictures_are_prepared_as_a_jobs_are(tmp_path, size):
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(samples).save(tmp_path / "transparent.png")
    Image.fromarray(samples[..., :3]).save(tmp_path / "wide.png", icc_profile=rgb_profile(ADOBE, 2.2))
    np.save(tmp_path / "packed.npy", samples[None, ..., :3])
    for name, images in zip(("transparent.png", "wide.png"), load_images(tmp_path, 8), strict=True):
        expected = decode((tmp_path / name).read_bytes(), 8).pixels
        np.testing.assert_array_equal(images.permute(1, 2, 0).numpy(), expected)
    packed = load_images(tmp_path / "packed.npy", 8)[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(packed, np.asarray(prepare(Image.fromarray(samples[..., :3]), 8)))


def test_every_picture_that_cannot_be_read_is_counted_and_the_first_are_named(tmp_path):
    Image.fromarray(pictures(1, 8)[0]).save(tmp_path / "good.png")
    for name in "abcde":
        (tmp_path / f"{name}.png").write_text("no picture")
    Image.fromarray(np.full((8, 8), -1.0, np.float32)).save(tmp_path / "a.png", "TIFF")
    with pytest.raises(
        ConfigError, match=r"cannot read 5 of 6 pictures.*a\.png': .*no known white; .*c\.png.*; and 2 more"
    ):
        load_images(tmp_path, 8)


def test_errors_of_the_data_name_the_mend(tmp_path):
    with pytest.raises(ConfigError, match="does not exist; give a folder"):
        load_images(tmp_path / "none", 8)
    with pytest.raises(ConfigError, match="no pictures in"):
        load_images(tmp_path, 8)
    np.save(tmp_path / "small.npy", pictures(2, 4))
    with pytest.raises(ConfigError, match="4x4, smaller than the model's image_size 8"):
        load_images(tmp_path / "small.npy", 8)
    np.save(tmp_path / "floats.npy", np.zeros((2, 8, 8, 3)))
    with pytest.raises(ConfigError, match="holds float64 of shape"):
        load_images(tmp_path / "floats.npy", 8)
    np.savez(tmp_path / "other.npz", pictures=pictures())
    with pytest.raises(ConfigError, match="with an array 'images'"):
        load_images(tmp_path / "other.npz", 8)
    packed = tmp_path / "packed.npz"
    np.savez_compressed(packed, images=np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8))
    whole = packed.read_bytes()
    for damaged in (b"", whole[:-100], whole[:200] + bytes(40) + whole[240:], whole[:600] + b"x" + whole[601:]):
        packed.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"packed\.npz' is no \.npy, nor a \.npz with an array 'images': \w"):
            load_images(packed, 8)
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(ConfigError, match=r"cannot read 1 of 1 pictures.*broken\.png': not an image"):
        load_images(tmp_path, 8)


def test_resuming_needs_a_state_of_the_same_model(tmp_path):
    with pytest.raises(CheckpointError, match="omit --resume"):
        trainer(tmp_path).resume()
    trainer(tmp_path).save()
    with pytest.raises(CheckpointError, match="another model"):
        trainer(tmp_path, SMALL | {"attn_resolutions": [8]}).resume()


def test_divergence_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="diverged"):
        trainer(tmp_path, steps=50, lr=1e30, warmup=0, grad_clip=0).train()


# ---- the command ----


@pytest.fixture
def config(tmp_path):
    np.savez(tmp_path / "data.npz", images=pictures())
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            {"data": str(tmp_path / "data.npz"), "model": SMALL, "steps": 3, "batch_size": 4, "log_every": 2}
        )
    )
    return path


def invoke(*arguments: object):
    return CliRunner().invoke(train, [str(argument) for argument in arguments], catch_exceptions=True)


def test_command_trains_resumes_and_saves(config, tmp_path):
    output = tmp_path / "run"
    first = invoke(config, "--output", output)
    assert first.exit_code == 0, first.exception
    assert "step 3" in first.output
    again = invoke(config, "--output", output)
    assert "add --resume" in str(again.exception)
    resumed = invoke(config, "--output", output, "--resume", "--set", "steps=5", "--set", "sample_every=5")
    assert resumed.exit_code == 0, resumed.exception
    assert "from step 3" in resumed.output
    assert (output / "samples-0000005.png").is_file()
    unet = load_unet(output / "model.safetensors", None)
    assert unet.h_shape == (32, 4, 4)


def test_command_starts_from_given_weights(config, tmp_path):
    assert invoke(config, "--output", tmp_path / "first").exit_code == 0
    weights = tmp_path / "first" / "model.safetensors"
    # With next to no learning rate the result must be what it started from.
    options = ("--set", f"init={weights}", "--set", "lr=1e-12")
    result = invoke(config, "--output", tmp_path / "second", *options)
    assert result.exit_code == 0, result.exception
    second = load_unet(tmp_path / "second" / "model.safetensors", None).state_dict()
    for name, value in load_unet(weights, None).state_dict().items():
        torch.testing.assert_close(second[name], value)
    other = invoke(config, "--output", tmp_path / "third", *options, "--set", "model.attn_resolutions=[8]")
    assert isinstance(other.exception, CheckpointError)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("step=3", "unknown field 'step'; did you mean 'steps'?"),
        ("steps=0", "must be at least 1"),
        ("schedule=linear", "'constant' or 'cosine'"),
        ("model.ch=33", "not a multiple of 32"),
        ("model.width=32", "unknown ddpm architecture field 'width'"),
        ("data=nowhere", "'nowhere' does not exist"),
        ("model.image_size=16", "smaller than the model's image_size 16"),
    ],
)
def test_command_reports_mistakes_in_one_line(config, tmp_path, assignment, message):
    result = invoke(config, "--output", tmp_path / "run", "--set", assignment)
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_command_names_a_device_that_is_not_there(config, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = invoke(config, "--output", tmp_path / "run", "--set", "device=cuda:1")
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == (
        "--set device: device is cuda:1, but PyTorch sees no CUDA device on this machine; use device: cpu"
    )


def test_config_and_settings_have_the_same_fields_and_defaults():
    config = TrainConfig(data=Path("x"), model={})
    assert TrainSettings(**config.model_dump(exclude={"data", "model", "init", "device"})) == TrainSettings()


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "configs" / "train").glob("*.yaml")), ids=lambda p: p.stem
)
def test_shipped_configs_are_valid(path):
    config = TrainConfig.model_validate(yaml.safe_load(path.read_text()))
    architecture_from_dict(config.model)
