"""Which weights a model would take, and where they lie on this machine."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from diffstyle.diffusers_files import folder_weights
from pipeline.models.config import HUB_ADDRESS, STORES, ModelConfig, Weights, WeightsChoice
from pipeline.storage.cache import cache_folder, cache_if_known
from pipeline.storage.paths import expand_home, join_address, split_address

_GivenWeights = str | os.PathLike[str] | WeightsChoice | None


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


@dataclass(frozen=True)
class Remote:
    """Weights at an address.

    weights  the address, and the hash if one is named
    place    where they belong in this machine's cache: a file, or a folder for a hub repository
    by_run   whether a run fetches them by itself: the user named them for it. What a config names on the web is fetched
             by `diffstyle models fetch` first, since it may be large and have terms to accept
    """

    weights: Weights
    place: Path
    by_run: bool


def remote_weights(config: ModelConfig, given: _GivenWeights = None) -> Remote | None:
    """The address that a model's weights come from; None where they are a local file, random, or fetched by hand.

    Args:
        config: the model.
        given: what the job says as ``weights``.
    """
    if given is None:
        if config.weights.path and _is_there(Path(config.weights.path)):
            return None
        own = config.weights
        by_run = (own.url or "").startswith(STORES)
        place = cache_place(config) if by_run else cache_place_if_known(config)
        return Remote(own, place, by_run) if place is not None and (own.url or own.hub) else None
    sha256 = given.sha256 if isinstance(given, WeightsChoice) else None
    text = os.fspath(given.path if isinstance(given, WeightsChoice) else given)
    if repository := HUB_ADDRESS.fullmatch(text):
        weights = Weights(hub=repository[1], revision=repository[2] or "main", sha256=sha256)
        name = repository[1].rpartition("/")[2]
    elif "://" in text and (parts := split_address(text))[0] != "file":
        name = text.rstrip("/").rpartition("/")[2]
        weights = Weights(url=join_address(*parts), file=name, sha256=sha256)
    else:
        return None
    # With its hash: another one named for the same address is fetched beside the first.
    of = "\0".join([weights.url or f"{weights.hub}@{weights.revision}", sha256 or ""])
    folder = cache_folder() / "models" / "by-address" / hashlib.sha256(of.encode()).hexdigest()[:16]
    return Remote(weights, folder / name, by_run=True)


def named_weights(config: ModelConfig, weights: _GivenWeights) -> tuple[str | os.PathLike[str] | None, str | None]:
    """What a job's ``weights`` names: the file (None: the model's own), and the key of the set in it (None: found)."""
    if isinstance(weights, WeightsChoice):
        return weights.path, weights.key
    return weights, config.weights.key if weights is None else None


def weights_place(config: ModelConfig, override: _GivenWeights = None) -> Path | None:
    """The weights that loading would take, or None where there are none: the override, the config's path, the cache."""
    if override is not None:
        remote = remote_weights(config, override)
        path = override.path if isinstance(override, WeightsChoice) else override
        candidates = [expand_home(path) if remote is None else remote.place]
    else:
        candidates = [Path(config.weights.path)] if config.weights.path else []
        if in_cache := cache_place_if_known(config):
            candidates.append(in_cache)
    return next((candidate for candidate in candidates if _is_there(candidate)), None)


def _is_there(place: Path) -> bool:
    roots = (place, place / "unet_ema", place / "unet")
    return place.is_file() or any(folder_weights(root) for root in roots)


def missing_weights(config: ModelConfig, override: _GivenWeights = None) -> str:
    """One line for weights that are not there: which, and how to get them."""
    if isinstance(override, WeightsChoice):
        override = override.path
    if override is not None:
        return f"weights of {config.name}: {override} is neither a checkpoint file nor a diffusers folder with weights"
    weights = config.weights
    if weights.path and not (weights.url or weights.hub or weights.page):
        return f"weights of {config.name}: {weights.path} does not exist; fix weights.path in its config"
    own = "or give your own file as `weights:` in the job"
    if weights.url or weights.hub:
        return f"weights of {config.name} are not here yet; run `diffstyle models fetch {config.name}`, {own}"
    note = f" ({weights.note})" if weights.note else ""
    return (
        f"weights of {config.name} are not here yet; download {weights.file} by hand from {weights.page}{note} "
        f"and put it at {cache_place(config)}, {own}"
    )
