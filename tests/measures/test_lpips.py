"""LPIPS against the numbers of its authors' own package (lpips 0.1.4), for weights that follow from a formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffstyle.errors import CheckpointError
from pipeline.measures.lpips import LPIPS, load_lpips

VGG = [(0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256)]
VGG += [(17, 256, 512), (19, 512, 512), (21, 512, 512), (24, 512, 512), (26, 512, 512), (28, 512, 512)]
LAYERS = {
    "vgg": [(*one, 3) for one in VGG],
    "alex": [(0, 3, 64, 11), (3, 64, 192, 5), (6, 192, 384, 3), (8, 384, 256, 3), (10, 256, 256, 3)],
}
CHANNELS = {"vgg": (64, 128, 256, 512, 512), "alex": (64, 192, 384, 256, 256)}
#: lpips.LPIPS(net=NET) with these weights on the two pictures below.
AUTHORS = {"vgg": [0.3197389841079712, 0.31921645998954773], "alex": [0.3852193355560303, 0.3845028281211853]}


def wave(*shape: int, step: float) -> torch.Tensor:
    return torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * step).float().reshape(shape)


def backbone(net: str) -> dict[str, torch.Tensor]:
    tensors = {}
    for number, into, out, kernel in LAYERS[net]:
        scale = 2 / (into * kernel**2) ** 0.5
        tensors[f"features.{number}.weight"] = wave(out, into, kernel, kernel, step=12.9898) * scale
        tensors[f"features.{number}.bias"] = wave(out, step=12.9898) * (2 / 4**0.5)
    return tensors


def linear(net: str) -> dict[str, torch.Tensor]:
    return {f"lin{n}.model.1.weight": wave(1, c, 1, 1, step=1.9).abs() for n, c in enumerate(CHANNELS[net])}


def saved(folder: Path, net: str, lin: dict[str, torch.Tensor] | None = None) -> tuple[Path, Path]:
    torch.save(backbone(net), folder / "backbone.pth")
    torch.save(linear(net) if lin is None else lin, folder / "linear.pth")
    return folder / "backbone.pth", folder / "linear.pth"


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_the_numbers_of_the_authors_package(net, tmp_path):
    x, y = wave(2, 3, 64, 64, step=0.7), wave(2, 3, 64, 64, step=1.3)
    lpips = load_lpips(*saved(tmp_path, net), "cpu")
    assert LPIPS.distance(lpips(x), lpips(y)).tolist() == pytest.approx(AUTHORS[net], abs=1e-5)
    assert LPIPS.distance(lpips(x), lpips(x)).tolist() == [0, 0]


def test_safetensors_and_the_convolutions_alone(tmp_path):
    first = load_lpips(*saved(tmp_path, "alex"), "cpu")
    features = {name.removeprefix("features."): tensor for name, tensor in backbone("alex").items()}
    save_file(features, tmp_path / "backbone.safetensors")
    second = load_lpips(tmp_path / "backbone.safetensors", tmp_path / "linear.pth", "cpu")
    x = wave(1, 3, 64, 64, step=0.7)
    assert all(torch.equal(a, b) for a, b in zip(first(x), second(x), strict=True))


@pytest.mark.parametrize(
    ("lin", "words"),
    [
        (linear("vgg"), "not LPIPS's five layers for alex"),
        ({}, "not LPIPS's five layers for alex"),
        ({name: -one for name, one in linear("alex").items()}, "negative weights"),
    ],
)
def test_weights_of_something_else_are_one_line(lin, words, tmp_path):
    with pytest.raises(CheckpointError, match=words) as caught:
        load_lpips(*saved(tmp_path, "alex", lin), "cpu")
    assert "linear.pth" in str(caught.value)


def test_a_backbone_of_something_else_is_one_line(tmp_path):
    _, lin = saved(tmp_path, "alex")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: neither torchvision's VGG16 nor its AlexNet"):
        load_lpips(tmp_path / "other.pth", lin, "cpu")
