"""Which weights a model would take, and where they lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from diffstyle.diffusers_files import folder_weights
from pipeline.models.config import ModelConfig, WeightsChoice
from pipeline.storage.cache import cache_folder, cache_if_known
from pipeline.storage.paths import expand_home


def cache_place(config: ModelConfig) -> Path:
    """Where this model's weights belong in the cache, there or not: a file, or a folder for a hub repository."""
    return _place_in(cache_folder(), config)


def cache_place_if_known(config: ModelConfig) -> Path | None:
    """As :func:`cache_place`, and None where no folder for a cache is known."""
    cache = cache_if_known()
    return _place_in(cache, config) if cache else None


def _place_in(cache: Path, config: ModelConfig) -> Path:
    folder = cache / "models" / config.name
    return folder / config.weights.file if config.weights.file else folder


def named_weights(
    config: ModelConfig, weights: str | os.PathLike[str] | WeightsChoice | None
) -> tuple[str | os.PathLike[str] | None, str | None]:
    """What a job's ``weights`` names: the file (None: the model's own), and the key of the set in it (None: found)."""
    if isinstance(weights, WeightsChoice):
        return weights.path, weights.key
    return weights, config.weights.key if weights is None else None


def weights_place(config: ModelConfig, override: str | os.PathLike[str] | None = None) -> Path | None:
    """The weights that loading would take, or None where there are none: the override, the config's path, the cache."""
    if override is not None:
        candidates = [expand_home(override)]
    else:
        candidates = [Path(config.weights.path)] if config.weights.path else []
        if in_cache := cache_place_if_known(config):
            candidates.append(in_cache)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
        if any(folder_weights(root) for root in (candidate, candidate / "unet_ema", candidate / "unet")):
            return candidate
    return None


def missing_weights(config: ModelConfig, override: str | os.PathLike[str] | None = None) -> str:
    """One line for weights that are not there: which, and how to get them."""
    if override is not None:
        return f"weights of {config.name}: {override} is neither a checkpoint file nor a diffusers folder with weights"
    weights = config.weights
    if weights.path and not (weights.url or weights.hub or weights.page):
        return f"weights of {config.name}: {weights.path} does not exist; fix weights.path in its config"
    own = "or give your own file as `weights:` in the job"
    if weights.url or weights.hub:
        return f"weights of {config.name} are not here yet; run `diffstyle models fetch {config.name}`, {own}"
    return (
        f"weights of {config.name} are not here yet; download {weights.file} by hand from {weights.page} "
        f"and put it at {cache_place(config)}, {own}"
    )
