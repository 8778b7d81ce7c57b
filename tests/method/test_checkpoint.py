"""Checkpoint files: the layouts that exist in the wild, strictness, messages and fingerprints."""

from __future__ import annotations

import argparse
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffstyle.checkpoint import fingerprint, load_unet, read_state_dict, save_unet
from diffstyle.errors import CheckpointError
from diffstyle.networks.architecture import ADMArchitecture, Architecture, DDPMArchitecture, architecture_from_dict
from diffstyle.networks.build import build_unet
from diffstyle.networks.unet import UNet

DDPM = DDPMArchitecture(image_size=8, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,))
ADM = ADMArchitecture(8, 32, (1, 2), 1, (4,), 16, learn_sigma=True)
OTHER = DDPMArchitecture(image_size=8, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=())


def random_unet(architecture: Architecture = DDPM, seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    unet = build_unet(architecture).eval().requires_grad_(False)
    for parameter in unet.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return unet


@pytest.fixture(scope="module")
def unet() -> UNet:
    return random_unet()


@pytest.fixture(scope="module")
def tensors(unet: UNet) -> dict[str, Tensor]:
    return dict(unet.state_dict())


def saved(folder: Path, content: object, name: str = "model.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def message_of(call: Callable[[], object]) -> str:
    """The error's text, which is one line."""
    with pytest.raises(CheckpointError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Layouts


def test_golden_checkpoint_loads_frozen(golden: Path) -> None:
    for name in ("ddpm_a", "adm_a"):
        arch = json.loads((golden / name / "golden.json").read_text())["arch"]
        unet = load_unet(golden / name / "checkpoint.pt", architecture_from_dict(arch))
        assert not unet.training
        assert not any(parameter.requires_grad for parameter in unet.parameters())
        assert len(unet.fingerprint) == 32


WRAPPINGS: dict[str, Callable[[dict[str, Tensor], dict[str, Tensor]], Any]] = {
    "bare": lambda w, _: w,
    "ordered": lambda w, _: OrderedDict(w),
    "parameters": lambda w, _: {k: torch.nn.Parameter(v) for k, v in w.items()},
    "module prefix": lambda w, _: {f"module.{k}": v for k, v in w.items()},
    "twice prefixed": lambda w, _: {f"module._orig_mod.{k}": v for k, v in w.items()},
    "state_dict": lambda w, _: {"state_dict": w, "epoch": 3},
    "ema beside model": lambda w, other: {"model": other, "ema": w, "step": 7},
    "model_ema": lambda w, other: {"model_state_dict": other, "model_ema": w},
    "nested": lambda w, _: {"ema": {"decay": 0.999, "shadow": w}},
    "ema of other names": lambda w, other: {"model": w, "ema": {"x": other["conv_in.bias"]}},
    "list": lambda w, _: [w, {"state": {}, "param_groups": []}, 12, 3400],
    "list with ema": lambda w, other: [
        {f"module.{k}": v for k, v in other.items()},
        {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]},
        12,
        3400,
        w,
    ],
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrapped_weights_are_found(wrapping: str, unet: UNet, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    content = WRAPPINGS[wrapping](tensors, dict(random_unet(seed=1).state_dict()))
    loaded = load_unet(saved(tmp_path, content, "model.ckpt"), DDPM)
    assert loaded.fingerprint == fingerprint(unet)


COUNT = torch.tensor(3)
AVERAGES: dict[str, tuple[str, Callable[[dict[str, Tensor], dict[str, Tensor]], Any]]] = {
    "a counter beside": ("ema", lambda raw, ema: {"model": raw, "ema": {**ema, "num_updates": COUNT}}),
    "a decay beside": ("ema", lambda raw, ema: {"model": raw, "ema": {**ema, "decay": torch.tensor(0.99)}}),
    "ema_model and online_model": (
        "ema.ema_model",
        lambda raw, ema: {
            "model": {"betas": torch.ones(9), **{f"model.{n}": v for n, v in raw.items()}},
            "opt": {"state": {0: {"exp_avg.x": torch.ones(3)}}, "param_groups": []},
            "ema": {
                "initted": torch.tensor(True),
                "step": COUNT,
                "ema_model.betas": torch.ones(9),
                "online_model.betas": torch.ones(9),
                **{f"ema_model.model.{n}": v for n, v in ema.items()},
                **{f"online_model.model.{n}": v for n, v in raw.items()},
            },
        },
    ),
    "shadow_params": (
        "ema.shadow_params",
        lambda raw, ema: {"model": raw, "ema": {"decay": 0.9, "shadow_params": list(ema.values())}},
    ),
    "by rate": ("ema.0.9999", lambda raw, ema: {"model": raw, "ema": {"0.9999": ema}}),
    "unet and unet_ema": (
        "unet_ema",
        lambda raw, ema: {"unet": raw, "unet_ema": ema, "vae": {"a.b": torch.ones(2, 2)}},
    ),
    "prefixes in one mapping": (
        "model_ema",
        lambda raw, ema: {f"model.{n}": v for n, v in raw.items()} | {f"model_ema.{n}": v for n, v in ema.items()},
    ),
    "names without dots": (
        "state_dict.model_ema",
        lambda raw, ema: {
            "state_dict": {
                "betas": torch.ones(9),
                **{f"model.diffusion_model.{n}": v for n, v in raw.items()},
                **{"model_ema." + f"diffusion_model.{n}".replace(".", ""): v for n, v in ema.items()},
                "model_ema.decay": torch.tensor(0.9),
                "model_ema.num_updates": COUNT,
            }
        },
    ),
    "a callback": (
        "callbacks.EMA.ema_state_dict",
        lambda raw, ema: {"state_dict": raw, "callbacks": {"EMA": {"ema_state_dict": ema}}},
    ),
    "a list": ("4", lambda raw, ema: [raw, {"state": {}, "param_groups": []}, 1, 2, ema]),
    "averages alike": ("ema", lambda raw, ema: {"model": raw, "ema": ema, "params_ema": {**ema}}),
}


@pytest.mark.parametrize("form", AVERAGES)
def test_of_several_sets_the_averaged_one_is_taken_and_told(
    form: str, unet: UNet, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    key, wrap = AVERAGES[form]
    raw = random_unet(seed=1)
    path = saved(tmp_path, wrap(dict(raw.state_dict()), tensors))
    loaded = load_unet(path, DDPM)
    assert loaded.fingerprint == fingerprint(unet)
    assert loaded.weights == f"averaged weights '{key}'"
    assert load_unet(path, DDPM, key=key).fingerprint == fingerprint(unet)
    assert read_state_dict(path, key).keys() == tensors.keys()


@pytest.mark.parametrize("kind", ["list", "mapping", "plain"])
def test_several_sets_that_could_be_meant_are_named_and_a_key_chooses(
    kind: str, unet: UNet, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    one, other = (dict(random_unet(seed=seed).state_dict()) for seed in (1, 2))
    contents: dict[str, tuple[Any, str, str]] = {
        "list": ([one, {}, 3, tensors, other], "3", "4"),
        "mapping": ({"model": one, "ema": {"0.999": tensors, "0.9999": other}}, "ema.0.999", "ema.0.9999"),
        "plain": ({"first": tensors, "second": other}, "first", "second"),
    }
    content, key, another = contents[kind]
    path = saved(tmp_path, content)
    text = message_of(lambda: load_unet(path, DDPM))
    assert "several sets of weights that could be meant" in text
    assert f"'{key}' (" in text
    assert f"'{another}' (" in text
    assert f"key: {key}}}" in text
    assert load_unet(path, DDPM, key=key).fingerprint == fingerprint(unet)
    assert load_unet(path, DDPM, key=another).fingerprint == fingerprint(random_unet(seed=2))
    text = message_of(lambda: load_unet(path, DDPM, key="none"))
    assert "no weights under the key 'none'; it has " in text
    assert f"'{key}'" in text


def test_an_average_that_cannot_be_used_is_not_passed_over(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    for ema in ({"shadow_params": list(tensors.values())[1:]}, dict(list(tensors.items())[1:])):
        path = saved(tmp_path, {"model": tensors, "ema": ema})
        text = message_of(lambda path=path: load_unet(path, DDPM))
        assert "that can't be used, beside 'model' (not averaged)" in text
        assert load_unet(path, DDPM, key="model").weights == "weights 'model'"
    path = saved(tmp_path, {"model": tensors, "ema": {"shadow_params": list(tensors.values())[1:]}})
    text = message_of(lambda: load_unet(path, DDPM, key="ema.shadow_params"))
    assert f"a list of {len(tensors) - 1} parameters without names" in text


@pytest.mark.parametrize("prefix", ["module.", "model.", "model.diffusion_model.", "unet.", "a.b.c."])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_any_prefix_before_every_name_is_removed(
    prefix: str, suffix: str, unet: UNet, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    prefixed = {prefix + name: tensor for name, tensor in tensors.items()}
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save({"epoch": 1, "state_dict": prefixed}, path)
    else:
        save_file(prefixed, path)
    loaded = load_unet(path, DDPM)
    assert (loaded.fingerprint, loaded.weights) == (fingerprint(unet), "")


def test_a_network_beside_others_is_named_and_taken_by_its_key(
    unet: UNet, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    content = {f"unet.{n}": v for n, v in tensors.items()} | {
        "vae.a.weight": torch.ones(2),
        "text.b.weight": torch.ones(2),
    }
    path = saved(tmp_path, content)
    text = message_of(lambda: load_unet(path, DDPM))
    assert "more than one network; 'unet' (not averaged) would fit: say weights: {path: ..., key: unet}" in text
    assert load_unet(path, DDPM, key="unet").fingerprint == fingerprint(unet)


def test_old_torch_format(unet: UNet, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert load_unet(tmp_path / "old.ckpt", DDPM).fingerprint == fingerprint(unet)


def test_foreign_safetensors(unet: UNet, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    assert load_unet(path, DDPM).fingerprint == fingerprint(unet)
    assert message_of(lambda: load_unet(path, None)) == f"{path} does not say its architecture; name a config"


def test_read_state_dict_keeps_the_files_types(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path, {name: tensor.half() for name, tensor in tensors.items()})
    assert {tensor.dtype for tensor in read_state_dict(str(path)).values()} == {torch.float16}
    assert {parameter.dtype for parameter in load_unet(path, DDPM).parameters()} == {torch.float32}


def test_memory_layout_of_the_file_does_not_reach_the_output(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    """Weights may lie unaligned or strided in a file, for which CPU kernels round differently."""
    strided = {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in tensors.items()}
    save_file(tensors, tmp_path / "unaligned.safetensors")
    paths = [
        saved(tmp_path, tensors, "plain.pt"),
        saved(tmp_path, strided, "strided.pt"),
        tmp_path / "unaligned.safetensors",
    ]
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([500])
    outputs = [load_unet(path, DDPM)(x, t) for path in paths]
    assert all(torch.equal(output, outputs[0]) for output in outputs)


# save_unet


@pytest.mark.parametrize("architecture", [DDPM, ADM])
def test_a_saved_network_states_its_architecture(architecture: Architecture, tmp_path: Path) -> None:
    unet = random_unet(architecture)
    path = tmp_path / "new" / "model.safetensors"

    save_unet(unet, path)
    loaded = load_unet(path, None)

    assert loaded.architecture == architecture
    assert loaded.fingerprint == fingerprint(loaded) == fingerprint(unet)
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([500])
    torch.testing.assert_close(loaded(x, t), unet(x, t))
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_float16_halves_the_file(unet: UNet, tmp_path: Path) -> None:
    save_unet(unet, tmp_path / "32.safetensors")
    save_unet(unet, tmp_path / "16.safetensors", dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "16.safetensors").values()} == {torch.float16}
    assert (tmp_path / "16.safetensors").stat().st_size < 0.55 * (tmp_path / "32.safetensors").stat().st_size
    assert load_unet(tmp_path / "16.safetensors", None).fingerprint != fingerprint(unet)


def test_other_types_are_refused(unet: UNet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float32 or float16"):
        save_unet(unet, tmp_path / "model.safetensors", dtype=torch.float64)


def test_a_failed_save_leaves_nothing(unet: UNet, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        save_unet(unet, tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_another_architecture_than_the_stated_one_is_refused(unet: UNet, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_unet(random_unet(ADM), path)
    twice = ADMArchitecture(8, 32, (1, 2), 1, (4,), 32, learn_sigma=True)  # the same tensors, other heads
    start = f"{path} states another architecture than the given one: "
    assert message_of(lambda: load_unet(path, twice)) == f"{start}num_head_channels 16 for 32"
    assert message_of(lambda: load_unet(path, DDPM)) == f"{start}family adm for ddpm"


def test_broken_metadata_is_named(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for text, fault in (("{", "Expecting property name"), ('{"family": "x"}', "'x' is unknown")):
        save_file(tensors, path, metadata={"diffstyle.architecture": text})
        assert fault in message_of(lambda: load_unet(path, None))


# Fingerprints


def test_fingerprint_names_every_weight_and_the_architecture(unet: UNet, tensors: dict[str, Tensor]) -> None:
    changed = random_unet()
    assert fingerprint(changed) == fingerprint(unet)
    changed.get_parameter("mid.attn_1.k.bias")[3] += 1e-6
    assert fingerprint(changed) != fingerprint(unet)

    elsewhere = build_unet(DDPMArchitecture(16, 32, (1, 2), 1, (8,)))
    elsewhere.load_state_dict(tensors)
    assert fingerprint(elsewhere) != fingerprint(unet)


def test_fingerprint_is_pinned() -> None:
    """Stored latents are keyed by it, so it may not change from one version to the next."""
    unet = build_unet(OTHER).requires_grad_(False)
    for i, (_, parameter) in enumerate(sorted(unet.named_parameters())):
        parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 128 - i)
    assert fingerprint(unet) == "ebb022ce12e443f5df7e6c1e994b0f2c"


def test_fingerprint_does_not_depend_on_memory_layout(unet: UNet) -> None:
    assert fingerprint(random_unet().to(memory_format=torch.channels_last)) == fingerprint(unet)


def test_a_short_type_keeps_the_files_fingerprint(unet: UNet, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    loaded = load_unet(saved(tmp_path, tensors), DDPM, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert loaded.fingerprint == fingerprint(unet) != fingerprint(loaded)


# Tensors that do not fit


def test_missing_tensors_are_counted_and_the_first_named(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    content = dict(tensors)
    for name in ("conv_in.bias", "norm_out.weight", "norm_out.bias", "conv_out.bias"):
        del content[name]
    path = saved(tmp_path, content)
    assert message_of(lambda: load_unet(path, DDPM)) == (
        f"{path} does not fit the ddpm architecture, of {len(tensors)} tensors: "
        "4 missing (conv_in.bias (32,), norm_out.weight (32,), norm_out.bias (32,), ...)"
    )


@pytest.mark.parametrize("name", ["extra", "mid.extra.weight"])
@pytest.mark.parametrize("value", [torch.zeros(5), torch.zeros(())], ids=["vector", "number"])
def test_one_surplus_tensor_is_refused(name: str, value: Tensor, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path, tensors | {name: value})
    assert message_of(lambda: load_unet(path, DDPM)) == (
        f"{path} does not fit the ddpm architecture, of {len(tensors)} tensors: 1 surplus ({name} {tuple(value.shape)})"
    )


def test_a_misshapen_tensor_is_named_with_both_shapes(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path, tensors | {"conv_in.weight": torch.zeros(32, 1, 3, 3)})
    assert message_of(lambda: load_unet(path, DDPM)) == (
        f"{path} does not fit the ddpm architecture, of {len(tensors)} tensors: "
        "1 misshapen (conv_in.weight (32, 1, 3, 3) for (32, 3, 3, 3))"
    )


@pytest.mark.parametrize("learned", [True, False])
def test_learned_variances_are_named_by_the_outputs_channels(learned: bool, tmp_path: Path) -> None:
    other = ADMArchitecture(8, 32, (1, 2), 1, (4,), 16, learn_sigma=not learned)
    path = saved(
        tmp_path, dict(random_unet(ADMArchitecture(8, 32, (1, 2), 1, (4,), 16, learn_sigma=learned)).state_dict())
    )
    text = message_of(lambda: load_unet(path, other))
    cure = f"say learn_sigma: {str(learned).lower()} in the model's architecture"
    assert text.endswith(f"; its output has {6 if learned else 3} channels: {cure}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    broken = tensors["conv_out.weight"].clone()
    broken[1, 2] = value
    path = saved(tmp_path, {"model": tensors, "ema": tensors | {"conv_out.weight": broken}})
    text = message_of(lambda: load_unet(path, DDPM))
    assert (
        f"1 of {len(tensors)} tensors hold NaN or infinity (conv_out.weight, 9 of 864 values) in the averaged" in text
    )
    assert load_unet(path, DDPM, key="model").weights == "weights 'model'"


def test_the_fitting_config_is_named(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path, tensors)
    known = {"celeba": DDPM, "ffhq": ADM, "small": OTHER}
    assert message_of(lambda: load_unet(path, OTHER, known)).endswith("; it fits 'celeba'")
    assert message_of(lambda: load_unet(path, ADM, known)).endswith("; it fits 'celeba'")
    assert message_of(lambda: load_unet(path, None, known)).endswith("name a config; it fits 'celeba'")
    del known["celeba"]
    assert message_of(lambda: load_unet(path, OTHER, known)).endswith("; it fits none of ffhq, small")


def test_a_lone_diffusers_file_is_recognised(tmp_path: Path) -> None:
    path = saved(tmp_path, {"conv_in.weight": torch.zeros(1), "down_blocks.0.resnets.0.conv1.bias": torch.zeros(1)})
    assert message_of(lambda: load_unet(path, DDPM)).endswith("give the folder with its config.json")


# Files that are not checkpoints


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><title>Google Drive</title>", "is a web page, not a checkpoint; download the file"),
        (b"<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer, not the checkpoint"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "get it again|check what it is"),
    ],
)
def test_impostors_are_named(suffix: str, content: bytes, fault: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    text = message_of(lambda: read_state_dict(path))
    assert text.startswith(f"{path} is ")
    assert any(one in text for one in fault.split("|"))


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "folder/model.ckpt"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    text = message_of(lambda: load_unet(tmp_path / name, DDPM))
    assert text == f"{tmp_path / name} does not exist; check the path, or download the checkpoint first"


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.98])
def test_a_cut_off_file_is_named(kind: str, part: float, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pt")
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    text = message_of(lambda: load_unet(path, DDPM))
    assert str(path) in text
    assert "again" in text


class Hostile:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1 + 1",)


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        ({"model": {}, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        ({"model": {}, "loss": np.float64(0.5)}, "multiarray.scalar"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (Hostile(), "eval"),
    ],
)
def test_refused_pickles_name_their_object(content: object, culprit: str, tmp_path: Path) -> None:
    text = message_of(lambda: read_state_dict(saved(tmp_path, content)))
    assert "holds Python objects besides tensors" in text
    assert f"{culprit}), which could run code" in text
    assert "save its state dict alone" in text


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({"a": np.ones(3)}))
    for protocol in range(2, 6):
        path.write_bytes(pickle.dumps({"a": np.ones(3)}, protocol=protocol))
        text = message_of(lambda: read_state_dict(path))
        assert "is a Python pickle that torch.save did not write" in text
        assert "save them with torch.save or as .safetensors" in text


def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "model.pt"))
    assert "TorchScript" in message_of(lambda: read_state_dict(tmp_path / "model.pt"))


@pytest.mark.parametrize(
    ("content", "outline"),
    [
        ({"epoch": 3, "optimizer": {}}, "a mapping of 2 entries ('epoch', 'optimizer')"),
        ({}, "an empty mapping"),
        ([1, "a"], "a list of 2 elements (int, str)"),
        (torch.zeros(2), "a Tensor"),
    ],
)
def test_files_without_weights_are_outlined(content: object, outline: str, tmp_path: Path) -> None:
    assert f"holds no state dict: {outline}; " in message_of(lambda: read_state_dict(saved(tmp_path, content)))
