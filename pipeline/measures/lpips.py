"""LPIPS (Zhang et al. 2018): the distance of two pictures in the layers of a classifier, weighted as people judged.

Weights are the user's: the classifier's as torchvision publishes it, and the five layers of weights as the authors do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffstyle.checkpoint_files import read_tensors
from diffstyle.errors import CheckpointError

#: Of the authors: the classifiers' normalisation, for pictures in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

# Convolutions by their number in torchvision's ``features``: (channels in, out, kernel, stride, padding); a pooling
# before those in _POOLED, and what leaves those in _TAPS (after its ReLU) is compared.
_VGG: Mapping[int, tuple[int, ...]] = {
    **{0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)},
    **{17: (256, 512), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512)},
}
_ALEX: Mapping[int, tuple[int, ...]] = {
    0: (3, 64, 11, 4, 2),
    3: (64, 192, 5, 1, 2),
    6: (192, 384),
    8: (384, 256),
    10: (256, 256),
}
_TAPS: Mapping[str, tuple[int, ...]] = {"vgg": (2, 7, 14, 21, 28), "alex": (0, 3, 6, 8, 10)}
_POOLED = {"vgg": (5, 10, 17, 24), "alex": (3, 6)}
_POOLING = {"vgg": (2, 2), "alex": (3, 2)}
_LAYERS: Mapping[str, Mapping[int, tuple[int, ...]]] = {"vgg": _VGG, "alex": _ALEX}


class LPIPS(nn.Module):
    """Feature maps whose squared distance, summed, is LPIPS.

    Args:
        backbone: ``vgg`` or ``alex``.
        convolutions: Of torchvision's ``features``: number and name -> tensor.
        weights: The authors' five layers, (1, C, 1, 1) each.
    """

    def __init__(self, backbone: str, convolutions: Mapping[str, Tensor], weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.taps, self.pooled, self.pooling = _TAPS[backbone], _POOLED[backbone], _POOLING[backbone]
        self.layers = nn.ModuleDict()
        for number, (into, out, *rest) in _LAYERS[backbone].items():
            kernel, stride, padding = rest or (3, 1, 1)
            layer = nn.Conv2d(into, out, kernel, stride, padding)
            layer.load_state_dict({name: convolutions[f"{number}.{name}"] for name in ("weight", "bias")})
            self.layers[str(number)] = layer
        self.roots = nn.ParameterList([weight.float().clamp_min(0).sqrt() for weight in weights])
        self.shift = nn.Buffer(torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.scale = nn.Buffer(torch.tensor(_SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Of pictures (N, 3, H, W) in [-1, 1], five maps (N, C, h, w)."""
        z, maps = (x - self.shift) / self.scale, list[Tensor]()
        for number, layer in ((int(name), layer) for name, layer in self.layers.items()):
            if number in self.pooled:
                z = F.max_pool2d(z, *self.pooling)
            z = F.relu(layer(z))
            if number in self.taps:
                unit = z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10)
                maps.append(unit * self.roots[len(maps)])
        return maps

    @staticmethod
    def distance(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
        """LPIPS (N,) of the maps of N pictures and of N others."""
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in zip(x, y, strict=True)]).sum(0)


def load_lpips(backbone_file: Path, weights_file: Path, device: str) -> LPIPS:
    """LPIPS with the backbone that the first file holds.

    Args:
        backbone_file: torchvision's weights of VGG16 or AlexNet.
        weights_file: The authors' weights for it (version 0.1), of the package lpips or elsewhere.
        device: Where it computes.

    Raises:
        CheckpointError: A file is missing, or holds something else.
    """
    given = read_tensors(weights_file)
    convolutions = {name.removeprefix("features."): tensor for name, tensor in read_tensors(backbone_file).items()}
    backbone = next((name for name in _LAYERS if _fits(convolutions, _LAYERS[name])), None)
    if backbone is None:
        raise CheckpointError(
            f"{backbone_file}: neither torchvision's VGG16 nor its AlexNet (features.0.weight and so on)"
        )
    weights = [tensor for name, tensor in sorted(given.items()) if name.startswith("lin") and name.endswith("weight")]
    channels = [_LAYERS[backbone][number][1] for number in _TAPS[backbone]]
    if [tuple(weight.shape) for weight in weights] != [(1, n, 1, 1) for n in channels]:
        raise CheckpointError(f"{weights_file}: not LPIPS's five layers for {backbone} (lin0.model.1.weight and so on)")
    if any(bool((weight < 0).any()) for weight in weights):
        raise CheckpointError(f"{weights_file}: has negative weights, which LPIPS never has")
    return LPIPS(backbone, convolutions, weights).to(device)


def _fits(convolutions: Mapping[str, Tensor], layers: Mapping[int, tuple[int, ...]]) -> bool:
    for number, (into, out, *rest) in layers.items():
        kernel = rest[0] if rest else 3
        weight, bias = (convolutions.get(f"{number}.{name}") for name in ("weight", "bias"))
        if weight is None or bias is None or weight.shape != (out, into, kernel, kernel) or bias.shape != (out,):
            return False
    return True
