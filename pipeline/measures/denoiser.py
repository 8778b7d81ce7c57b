"""What a diffusion model itself sees in a picture: its bottleneck h and its first skip features, at low noise.

No other weights are needed, and half a network call is all it costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from diffstyle.noise import seeded_noise
from diffstyle.schedule import a_at

if TYPE_CHECKING:
    from diffstyle.networks.unet import UNet


class DenoiserFeatures(NamedTuple):
    """Features of N pictures, in float32.

    Attributes:
        h: the bottleneck, (N, C, h, w).
        skips: the first skip features, the shallowest first, each (N, C, h, w).
    """

    h: Tensor
    skips: tuple[Tensor, ...]


@torch.inference_mode()
def denoiser_features(unet: UNet, x: Tensor, timestep: int, skips: int) -> DenoiserFeatures:
    """Encode pictures at a low noise level, all with the same noise, so that features differ by the pictures alone.

    Args:
        unet: the model.
        x: pictures, (N, 3, H, W) in [-1, 1], on the model's device.
        timestep: how noisy they are made, 0 to 999.
        skips: how many skip features are wanted.
    """
    a = a_at(timestep)
    noise = seeded_noise([0], timestep, x.shape[1:]).to(x.device)
    encoded = unet.encode(a**0.5 * x + (1 - a) ** 0.5 * noise, torch.full((len(x),), timestep, device=x.device))
    return DenoiserFeatures(encoded.h.float(), tuple(skip.float() for skip in encoded.skips[:skips]))
