"""diffusers' layout, with diffusers itself as the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffstyle.checkpoint import fingerprint, load_unet, read_state_dict, save_unet
from diffstyle.diffusers_layout import architecture_from_diffusers
from diffstyle.errors import CheckpointError
from diffstyle.networks.architecture import DDPMArchitecture

diffusers = pytest.importorskip("diffusers")

TINY = {
    "sample_size": 16,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
    "norm_eps": 1e-6,
    "attention_head_dim": None,
}
# The fields of google/ddpm-celebahq-256's config.json: an early one, which leaves later fields out.
CELEBAHQ = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "center_input_sample": False,
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}


@pytest.fixture(scope="module")
def oracle() -> Any:
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(**TINY).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def assert_equals_the_oracle(oracle: Any, path: Path) -> None:
    unet = load_unet(path, None)
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(2, 3, 16, 16, generator=generator), torch.tensor([17, 803])
    expected = oracle(x, t).sample
    assert (unet(x, t) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("subfolder", ["", "unet"])
def test_outputs_equal_diffusers(oracle: Any, safe: bool, subfolder: str, tmp_path: Path) -> None:
    oracle.save_pretrained(tmp_path / subfolder, safe_serialization=safe)
    assert_equals_the_oracle(oracle, tmp_path)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shards", ["5GB", "100KB"], ids=["whole", "shards"])
def test_half_precision_and_shards(oracle: Any, safe: bool, variant: str | None, shards: str, tmp_path: Path) -> None:
    oracle.save_pretrained(tmp_path, safe_serialization=safe, variant=variant, max_shard_size=shards)
    files = [file.name for file in tmp_path.iterdir()]
    assert any("index" in name for name in files) == (shards == "100KB")
    assert_equals_the_oracle(oracle, tmp_path)


def test_a_missing_shard_is_named(oracle: Any, tmp_path: Path) -> None:
    oracle.save_pretrained(tmp_path, max_shard_size="100KB")
    lost = sorted(tmp_path.glob("*-00002-of-*"))[0]
    lost.unlink()
    with pytest.raises(CheckpointError, match=rf"{lost.name} is missing, a shard that the index names"):
        load_unet(tmp_path, None)


def test_of_unet_and_unet_ema_the_average_is_taken_and_a_key_chooses(oracle: Any, tmp_path: Path) -> None:
    oracle.save_pretrained(tmp_path / "unet_ema")
    oracle.save_pretrained(tmp_path / "unet")
    raw = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(raw).items()}, raw)
    assert_equals_the_oracle(oracle, tmp_path)
    averaged = load_unet(tmp_path, None)
    assert averaged.weights == "averaged weights 'unet_ema'"
    assert load_unet(tmp_path, None, key="unet").fingerprint != averaged.fingerprint


def test_old_attention_names(oracle: Any, tmp_path: Path) -> None:
    oracle.save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in load_file(weights).items():
        for new_part, old_part in old.items():
            name = name.replace(f".{new_part}.", f".{old_part}.")
        renamed[name] = tensor
    assert any(".proj_attn." in name for name in renamed)
    save_file(renamed, weights)
    assert_equals_the_oracle(oracle, tmp_path)


def test_the_same_weights_have_one_fingerprint(oracle: Any, tmp_path: Path) -> None:
    oracle.save_pretrained(tmp_path / "folder")
    first = load_unet(tmp_path / "folder", None)
    torch.save(read_state_dict(tmp_path / "folder"), tmp_path / "model.pt")
    save_unet(first, tmp_path / "model.safetensors")

    assert isinstance(first.architecture, DDPMArchitecture)
    assert load_unet(tmp_path / "model.pt", first.architecture).fingerprint == first.fingerprint
    assert load_unet(tmp_path / "model.safetensors", None).fingerprint == first.fingerprint
    assert fingerprint(first) == first.fingerprint


def test_celebahq_is_the_ddpm_of_the_paper() -> None:
    architecture = architecture_from_diffusers(CELEBAHQ, "config.json")
    assert architecture == DDPMArchitecture(256, 128, (1, 1, 2, 2, 4, 4), 2, (16,))


def test_a_given_architecture_must_agree_with_the_config(oracle: Any, tmp_path: Path) -> None:
    oracle.save_pretrained(tmp_path)
    assert load_unet(tmp_path, DDPMArchitecture(16, 32, (1, 2, 2), 2, (8,))).image_size == 16
    with pytest.raises(CheckpointError, match="image_size 16 for 32, attn_resolutions"):
        load_unet(tmp_path, DDPMArchitecture(32, 32, (1, 2, 2), 2, (16,)))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"flip_sin_to_cos": True}, "flip_sin_to_cos True; supported: False"),
        ({"freq_shift": 0}, "freq_shift 0; supported: 1"),
        ({"freq_shift": True}, "freq_shift True; supported: 1"),
        ({"downsample_padding": 1}, "downsample_padding 1; supported: 0"),
        ({"norm_eps": 1e-5}, "norm_eps 1e-05; supported: 1e-06"),
        ({"act_fn": "relu"}, "act_fn 'relu'; supported: 'silu' or 'swish'"),
        ({"_class_name": "UNet2DConditionModel"}, "_class_name 'UNet2DConditionModel'; supported: 'UNet2DModel'"),
        ({"attention_head_dim": 8}, "attention_head_dim 8; supported: null, a single head"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift 'scale_shift'; supported: 'default'"),
        ({"time_embedding_dim": 64}, "time_embedding_dim 64; supported: null or 512"),
        ({"sample_size": [256, 128]}, "sample_size [256, 128]; supported: the side of a square image"),
        ({"layers_per_block": [2, 2]}, "layers_per_block [2, 2]; supported: a whole number of at least 1"),
        ({"block_out_channels": None}, "block_out_channels None; supported: a list of whole numbers"),
        ({"block_out_channels": [128, 192]}, "block_out_channels [128, 192]; supported: multiples of the first one"),
        (
            {"down_block_types": ["SkipDownBlock2D"] * 6},
            f"down_block_types {['SkipDownBlock2D'] * 6}; supported: 6 of DownBlock2D and AttnDownBlock2D",
        ),
        (
            {"up_block_types": ["UpBlock2D"] * 6},
            f"up_block_types {['UpBlock2D'] * 6}; supported: attention at the same resolutions as down_block_types",
        ),
    ],
)
def test_unsupported_values_are_named(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        architecture_from_diffusers(CELEBAHQ | change, "config.json")
    assert str(caught.value) == f"config.json: unsupported {fault}"


@pytest.mark.parametrize(
    "field", ["flip_sin_to_cos", "freq_shift", "downsample_padding", "norm_eps", "attention_head_dim"]
)
def test_an_absent_field_has_diffusers_default(field: str) -> None:
    config = dict(CELEBAHQ)
    del config[field]
    with pytest.raises(CheckpointError, match=f"unsupported {field}"):
        architecture_from_diffusers(config, "config.json")


@pytest.mark.parametrize(
    "change", [{"attention_head_dim": 512}, {"sample_size": [256, 256]}, {"time_embedding_dim": 512}]
)
def test_other_spellings_of_the_same(change: dict[str, Any]) -> None:
    assert architecture_from_diffusers(CELEBAHQ | change, "") == architecture_from_diffusers(CELEBAHQ, "")


def test_sizes_that_do_not_go_together() -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: image_size 100 cannot be halved 5 times"):
        architecture_from_diffusers(CELEBAHQ | {"sample_size": 100}, "config.json")


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({}, "is a folder without a config.json"),
        ({"config.json": "{"}, "is not readable JSON"),
        ({"config.json": "[]"}, "is not a diffusers config"),
        ({"config.json": json.dumps(CELEBAHQ)}, "neither diffusion_pytorch_model.safetensors nor"),
        (
            {"config.json": json.dumps(CELEBAHQ), "diffusion_pytorch_model.bin": "<html>"},
            "diffusion_pytorch_model.bin is a web page",
        ),
    ],
)
def test_incomplete_folders(files: dict[str, str], fault: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=fault) as caught:
        load_unet(tmp_path, None)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
