"""The two U-Nets: parity with the reference, the two halves of a call, and architectures as plain values."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffstyle.errors import ConfigError
from diffstyle.networks.architecture import (
    ADMArchitecture,
    Architecture,
    DDPMArchitecture,
    architecture_from_dict,
    architecture_to_dict,
)
from diffstyle.networks.build import build_unet
from diffstyle.networks.unet import UNet, attention, timestep_sinusoids

DDPM = DDPMArchitecture(image_size=16, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,))
ADM = ADMArchitecture(
    image_size=16,
    num_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(8,),
    num_head_channels=16,
    learn_sigma=True,
)
CELEBA = DDPMArchitecture(256, 128, (1, 1, 2, 2, 4, 4), 2, (16,))
FFHQ = ADMArchitecture(256, 128, (1, 1, 2, 2, 4, 4), 1, (16,), 64, True)
IMAGENET = ADMArchitecture(256, 256, (1, 1, 2, 2, 4, 4), 2, (32, 16, 8), 64, True)


def random_unet(architecture: Architecture) -> UNet:
    """A network without the zeros of a fresh one, so that every weight matters."""
    torch.manual_seed(0)
    unet = build_unet(architecture).eval().requires_grad_(False)
    for parameter in unet.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return unet


def inputs(unet: UNet) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, unet.image_size, unet.image_size, generator=generator), torch.tensor([17, 803])


def relative(actual: Tensor, expected: Tensor) -> float:
    """The largest error relative to the largest value."""
    return float((actual - expected).abs().max() / expected.abs().max())


# Against the reference


@pytest.mark.parametrize("name", ["ddpm_a", "adm_a"])
def test_one_call_equals_the_reference(golden: Path, name: str) -> None:
    description = json.loads((golden / name / "golden.json").read_text())
    unet = build_unet(architecture_from_dict(description["arch"])).eval().requires_grad_(False)
    unet.load_state_dict(torch.load(golden / name / "checkpoint.pt", weights_only=True))
    call = {key: torch.from_numpy(array) for key, array in np.load(golden / name / "forward.npz").items()}

    assert relative(unet.encode(call["x"], call["t"]).h, call["h"]) < 1e-5
    assert relative(unet(call["x"], call["t"]), call["out"]) < 1e-5


# The two halves of a call


@pytest.mark.parametrize("architecture", [DDPM, ADM])
def test_decode_of_encode_is_forward(architecture: Architecture) -> None:
    unet = random_unet(architecture)
    x, t = inputs(unet)

    encoded = unet.encode(x, t)
    whole = unet(x, t)

    assert encoded.h.shape == (2, *unet.h_shape)
    assert whole.shape == (2, 6 if architecture is ADM else 3, 16, 16)
    torch.testing.assert_close(unet.decode(*encoded), whole[:, :3], rtol=0, atol=0)


@pytest.mark.parametrize("architecture", [DDPM, ADM])
def test_one_encode_serves_several_decodes(architecture: Architecture) -> None:
    unet = random_unet(architecture)
    encoded = unet.encode(*inputs(unet))

    first = unet.decode(*encoded)
    other = unet.decode(1.5 * encoded.h, encoded.skips, encoded.emb)
    again = unet.decode(*encoded)

    assert not torch.equal(first, other)
    assert torch.equal(first, again)


class NewMaps(TorchDispatchMode):
    """Counts the activations and sums of whole feature maps that ask for new memory."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].ndim == 4:
            self.operations[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", [DDPM, ADM, replace(ADM, use_scale_shift_norm=False, resblock_updown=False)])
def test_maps_are_written_over_where_no_gradient_is_wanted(architecture: Architecture, dtype: torch.dtype) -> None:
    unet = random_unet(architecture).cast(dtype)
    x, t = inputs(unet)
    given = x.clone()
    with NewMaps() as with_gradients:
        wanted = unet(x, t)
    with torch.no_grad(), NewMaps() as without:
        encoded = unet.encode(x, t)
        skips = [skip.clone() for skip in encoded.skips]
        answer = unet._decode_all(*encoded)
    assert torch.equal(answer, wanted)  # to the last bit
    assert torch.equal(x, given)
    assert all(torch.equal(skip, before) for skip, before in zip(encoded.skips, skips, strict=True))
    blocks = sum(hasattr(module, "emb_layers") or hasattr(module, "temb_proj") for module in unet.modules())
    assert blocks > 4
    assert with_gradients.operations["aten.silu.default"] >= 2 * blocks
    assert without.operations["aten.silu.default"] <= 1  # the network's end
    assert without.operations["aten.silu_.default"] >= 2 * blocks
    assert without.operations["aten.add_.Tensor"] >= blocks


@pytest.mark.parametrize("architecture", [DDPM, ADM])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_types_take_and_give_float32(architecture: Architecture, dtype: torch.dtype) -> None:
    unet = random_unet(architecture)
    x, t = inputs(unet)
    exact = unet.decode(*unet.encode(x, t))

    unet.cast(dtype)
    h, skips, emb = unet.encode(x, t)
    estimate = unet.decode(h.float(), skips, emb)  # a blended h may come in float32

    assert {tensor.dtype for tensor in (h, emb, *skips)} == {dtype}
    assert estimate.dtype == torch.float32
    assert relative(estimate, exact) < 0.03


@pytest.mark.parametrize("architecture", [DDPM, ADM])
def test_fractional_and_whole_timesteps_agree(architecture: Architecture) -> None:
    unet = random_unet(architecture)
    x, t = inputs(unet)
    assert torch.equal(unet(x, t), unet(x, t.double()))
    assert not torch.equal(unet(x, t), unet(x, t + 0.5))


@pytest.mark.parametrize("architecture", [DDPM, ADM])
def test_each_image_of_a_batch_is_by_itself(architecture: Architecture) -> None:
    unet = random_unet(architecture)
    x, t = inputs(unet)
    assert relative(unet(x[1:], t[1:]), unet(x, t)[1:]) < 1e-5


@pytest.mark.parametrize("architecture", [DDPM, ADM])
def test_a_fresh_network_gives_zero_and_learns(architecture: Architecture) -> None:
    unet = build_unet(architecture)
    x, t = inputs(unet)
    out = unet(x, t)
    assert torch.equal(out, torch.zeros_like(out))

    (out - 1).square().mean().backward()
    last = list(unet.parameters())[-1]
    assert last.grad is not None
    assert last.grad.abs().sum() > 0
    assert unet.fingerprint == ""


@pytest.mark.parametrize(
    "change", [{"use_scale_shift_norm": False}, {"resblock_updown": False}, {"learn_sigma": False}]
)
def test_adm_variants_run(change: dict[str, bool]) -> None:
    unet = random_unet(architecture_from_dict(architecture_to_dict(ADM) | change))
    assert unet.decode(*unet.encode(*inputs(unet))).shape == (2, 3, 16, 16)


def test_adm_without_updown_blocks_has_guided_diffusions_names() -> None:
    names = dict(
        build_unet(architecture_from_dict(architecture_to_dict(ADM) | {"resblock_updown": False})).named_parameters()
    )
    assert "input_blocks.2.0.op.weight" in names
    assert "output_blocks.1.2.conv.weight" in names


def test_ddpm_without_resampling_convolutions() -> None:
    unet = random_unet(architecture_from_dict(architecture_to_dict(DDPM) | {"resamp_with_conv": False}))
    assert not [name for name, _ in unet.named_parameters() if "sample" in name]
    assert unet.decode(*unet.encode(*inputs(unet))).shape == (2, 3, 16, 16)


# The pieces


def test_sinusoids_span_the_frequencies_of_each_family() -> None:
    sin, cos = timestep_sinusoids(torch.tensor([1.0]), 8, denominator=3)  # DDPM: the last frequency is 1/10000
    torch.testing.assert_close(sin[0], torch.sin(10000 ** (-torch.arange(4) / 3)))
    torch.testing.assert_close(cos[0], torch.cos(10000 ** (-torch.arange(4) / 3)))


def test_attention_equals_its_formula() -> None:
    q, k, v = torch.randn(3, 2, 4, 16, 9, generator=torch.Generator().manual_seed(0))
    weights = torch.einsum("bhcq,bhck->bhqk", q, k).div(16**0.5).softmax(-1)
    torch.testing.assert_close(attention(q, k, v), torch.einsum("bhqk,bhck->bhcq", weights, v))


# The models of the paper, on the meta device: known facts about the published checkpoints


@pytest.mark.parametrize(
    ("architecture", "h_shape", "parameters"),
    [
        (CELEBA, (512, 8, 8), 113_673_219),
        (FFHQ, (512, 8, 8), 93_563_910),
        (IMAGENET, (1024, 8, 8), 552_814_086),
    ],
    ids=["celeba", "ffhq", "imagenet"],
)
def test_published_models_have_their_known_sizes(
    architecture: Architecture, h_shape: tuple[int, int, int], parameters: int
) -> None:
    unet = build_unet(architecture, "meta")
    encoded = unet.encode(torch.empty(1, 3, 256, 256, device="meta"), torch.empty(1, device="meta"))
    assert unet.h_shape == architecture.h_shape == h_shape
    assert encoded.h.shape == (1, *h_shape)
    assert unet.decode(*encoded).shape == (1, 3, 256, 256)
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters


def test_attention_sits_at_the_asked_resolutions() -> None:
    unet = build_unet(IMAGENET, "meta")
    attended = [name for name, _ in unet.named_parameters() if name.endswith("qkv.weight")]
    # 2 a level down and 3 a level up, at 32, 16 and 8 pixels, and the middle one
    assert len(attended) == 3 * (2 + 3) + 1


# Architectures as plain values


@pytest.mark.parametrize("architecture", [DDPM, ADM, CELEBA, FFHQ, IMAGENET])
def test_architecture_round_trip_through_json(architecture: Architecture) -> None:
    assert architecture_from_dict(json.loads(json.dumps(architecture_to_dict(architecture)))) == architecture


@pytest.mark.parametrize("written", ["32,16,8", "32, 16, 8", [32, 16, 8], (32, 16, 8)])
def test_lists_and_comma_strings_are_alike(written: Any) -> None:
    values = architecture_to_dict(IMAGENET) | {"attention_resolutions": written, "class_cond": False}
    assert architecture_from_dict(values) == IMAGENET


@pytest.mark.parametrize(("written", "read"), [("16", (16,)), (16, (16,)), ([], ())])
def test_short_lists(written: Any, read: tuple[int, ...]) -> None:
    architecture = architecture_from_dict(architecture_to_dict(CELEBA) | {"attn_resolutions": written})
    assert isinstance(architecture, DDPMArchitecture)
    assert architecture.attn_resolutions == read


DDPM_FIELDS = "image_size, ch, ch_mult, num_res_blocks, attn_resolutions, in_channels, resamp_with_conv"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chanels": 3}, f"unknown ddpm architecture field 'chanels'; allowed: {DDPM_FIELDS}"),
        ({"ch": None}, "ddpm architecture field 'ch' must be a whole number of at least 1, not None"),
        ({"ch": "128"}, "ddpm architecture field 'ch' must be a whole number of at least 1, not '128'"),
        ({"ch": True}, "ddpm architecture field 'ch' must be a whole number of at least 1, not True"),
        ({"ch": 48}, "ch 48 is not a multiple of 32, the number of GroupNorm groups"),
        ({"image_size": 12.0}, "ddpm architecture field 'image_size' must be a whole number of at least 1, not 12.0"),
        ({"image_size": 17}, "image_size 17 cannot be halved 1 times, as ch_mult (1, 2) asks"),
        ({"in_channels": 4}, "in_channels must be 3 (RGB images), not 4"),
        ({"ch_mult": []}, "ch_mult must name at least one level"),
        (
            {"ch_mult": "1,a"},
            "ddpm architecture field 'ch_mult' must be a list of whole numbers, each at least 1, not '1,a'",
        ),
        ({"resamp_with_conv": 1}, "ddpm architecture field 'resamp_with_conv' must be true or false, not 1"),
        ({"family": "vdm"}, "architecture field 'family' 'vdm' is unknown; allowed: ddpm, adm"),
        ({"family": None}, "architecture field 'family' is missing; allowed: ddpm, adm"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        architecture_from_dict(architecture_to_dict(DDPM) | change)
    assert str(caught.value) == message


def test_missing_fields_are_named() -> None:
    values = architecture_to_dict(DDPM)
    del values["ch"], values["attn_resolutions"], values["in_channels"]
    with pytest.raises(
        ConfigError, match=r"^ddpm architecture lacks the field 'ch', 'attn_resolutions'; allowed: image"
    ):
        architecture_from_dict(values)


def test_a_mapping_is_needed() -> None:
    with pytest.raises(ConfigError, match="not list"):
        architecture_from_dict(["ddpm"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_cond": True}, "class_cond must be false: only unconditional models are supported"),
        (
            {"num_head_channels": 48},
            "num_head_channels 48 does not divide the 64 channels of level 1, which has an attention",
        ),
    ],
)
def test_wrong_adm_fields_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        architecture_from_dict(architecture_to_dict(ADM) | change)
    assert str(caught.value) == message
