"""A network from its architecture."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from diffstyle.networks.adm import ADMUNet
from diffstyle.networks.architecture import Architecture, DDPMArchitecture
from diffstyle.networks.ddpm import DDPMUNet
from diffstyle.networks.unet import UNet


def build_unet(a: Architecture, device: torch.device | str | None = None) -> UNet:
    """A fresh, trainable network with float32 weights.

    Weights get torch's default initialisation, except that the last convolution of every residual branch and of the
    network starts at zero, as in both papers' code; an untrained network's output is therefore exactly zero.

    Args:
        a: the architecture.
        device: where the weights are created; ``None`` means torch's current default, "meta" creates shapes only.
    """
    with nullcontext() if device is None else torch.device(device):
        return DDPMUNet(a) if isinstance(a, DDPMArchitecture) else ADMUNet(a)
