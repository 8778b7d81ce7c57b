"""Models that were loaded before on this machine: what a driver needs to know of them, without torch and the weights.

To learn a fingerprint is to read a whole checkpoint. A file that is where it was, with the size and the times it had,
holds what it held; workers load it strictly all the same, and compare.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffstyle
from diffstyle.networks.architecture import architecture_to_dict
from pipeline.models.config import RANDOM_WEIGHTS, ModelConfig, WeightsChoice
from pipeline.models.weights import named_weights, weights_place
from pipeline.models.weights_here import weights_here
from pipeline.storage.cache_table import CacheTable
from pipeline.storage.identity import digest_of

_KNOWN = CacheTable("fingerprints.json", without="models are loaded to learn their fingerprints")

# A file that changed so lately may change again within the same tick of its file system's clock.
_SETTLED = 2.0


def recalled(config: ModelConfig, weights: str | os.PathLike[str] | WeightsChoice | None) -> dict[str, str] | None:
    """What was remembered of a model with these weights; None where it has to be loaded.

    Args:
        config: the model.
        weights: as for :func:`pipeline.models.load.load_model`.

    Raises:
        CheckpointError: the weights changed since they were fetched, on this machine or at their address.
    """
    key = _key(config, weights)
    entry = _KNOWN.get(key) if key else None
    if entry is None or not all(isinstance(value, str) for value in entry.values()):
        return None
    weights_here(config, weights)
    return entry


def remember(
    config: ModelConfig, weights: str | os.PathLike[str] | WeightsChoice | None, facts: Mapping[str, str]
) -> None:
    """Keep what loading a model told, for :func:`recalled`.

    Args:
        config: the model.
        weights: those that were loaded.
        facts: what to keep.
    """
    if key := _key(config, weights):
        _KNOWN.put(key, facts)


def _key(config: ModelConfig, weights: str | os.PathLike[str] | WeightsChoice | None) -> str | None:
    """What a model is remembered under; None where its weights are not there, or changed just now."""
    file, chosen = named_weights(config, weights)
    random = RANDOM_WEIGHTS.fullmatch(os.fspath(file)) if file is not None else None
    facts: list[Any] = [str(random and random[0])]
    if not random:
        place = weights_place(config, weights)
        if place is None:
            return None
        roots = [place] if place.is_file() else [place, place / "unet_ema", place / "unet"]
        files = [one for root in roots for one in ([root] if root.is_file() else _files(root))]
        for one in files:
            state = one.stat()
            if time.time() - max(state.st_mtime, state.st_ctime) < _SETTLED:
                return None
            facts.append([str(one.absolute()), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino])
    facts += [diffstyle.__version__, importlib.metadata.version("torch")]
    return digest_of({"architecture": architecture_to_dict(config.unet_architecture), "key": chosen, "of": facts})


def _files(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_file()) if folder.is_dir() else []
