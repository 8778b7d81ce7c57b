"""A model's network: its weights found, checked and loaded, or drawn at random for tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pipeline.models.config import RANDOM_WEIGHTS, ModelConfig, WeightsChoice, all_model_configs
from pipeline.models.weights import named_weights
from pipeline.models.weights_here import weights_here
from pipeline.storage.identity import digest

if TYPE_CHECKING:
    import torch

    from diffstyle.networks.architecture import Architecture
    from diffstyle.networks.unet import UNet


def load_model(
    config: ModelConfig,
    weights: str | os.PathLike[str] | WeightsChoice | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    fetch: bool = False,
) -> UNet:
    """The network of a model, frozen, with its fingerprint.

    Args:
        config: the model.
        weights: a path, or a path and the key of a set in it, or ``random`` or ``random:SEED``; None takes the
            config's own, see :func:`weights_place`.
        device: where the network goes.
        dtype: type of its weights, float32 by default.
        fetch: as :func:`pipeline.models.weights_here.weights_here` takes it.

    Raises:
        CheckpointError: there are no weights, they changed since they were fetched, or they don't fit.
        FetchError: weights that are named by address can't be fetched.
    """
    import torch

    from diffstyle.checkpoint import load_unet

    dtype = dtype or torch.float32
    file, key = named_weights(config, weights)
    random = RANDOM_WEIGHTS.fullmatch(os.fspath(file)) if file is not None else None
    if random:
        return random_unet(config.unet_architecture, int(random[1] or 0)).cast(dtype).to(device)
    place = weights_here(config, weights, fetch)
    assert place is not None  # they are not random
    others = {name: other.unet_architecture for name, other in all_model_configs().items()}
    return load_unet(place, config.unet_architecture, candidates=others, device=device, dtype=dtype, key=key)


def random_unet(architecture: Architecture, seed: int = 0) -> UNet:
    """The architecture with random weights that depend on the seed and the tensors' names alone.

    Every tensor is drawn afresh: a fresh network's zero-initialised convolutions would make its output zero.
    """
    import torch

    from diffstyle.checkpoint import fingerprint
    from diffstyle.networks.build import build_unet

    fresh = build_unet(architecture, "cpu")
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            generator = torch.Generator().manual_seed(int(digest(str(seed), name)[:15], 16))
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:  # linear layers carry the time embedding, which must not drown in the convolutions
                gain = 1.0 if parameter.ndim == 2 else 0.5
                parameter.copy_(noise * (gain / parameter[0].numel() ** 0.5))
            else:  # norms near 1 and biases near 0, so that activations neither vanish nor grow
                is_norm_weight = name.endswith("weight")
                parameter.copy_(noise * 0.02 + is_norm_weight)
    fresh.eval().requires_grad_(False)
    fresh.fingerprint = fingerprint(fresh)
    return fresh
