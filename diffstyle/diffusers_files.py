"""Which files of a diffusers folder hold its weights; looked at without reading them."""

from __future__ import annotations

import json
from pathlib import Path

from diffstyle.errors import CheckpointError

CONFIG = "config.json"
_STEM = "diffusion_pytorch_model"
#: Names of the weights, the preferred one first; each may also be of half precision, and in shards.
WEIGHTS = (f"{_STEM}.safetensors", f"{_STEM}.bin")


def weight_names() -> list[str]:
    """Every name that whole weights or the index of their shards may have, the preferred one first."""
    names = []
    for variant in ("", "fp16", "bf16"):
        dotted = f".{variant}" if variant else ""
        for ending in ("safetensors", "bin"):
            names += [f"{_STEM}{dotted}.{ending}", f"{_STEM}.{ending}.index{dotted}.json"]
            names += [f"{_STEM}{dotted}.{ending}.index.json"] if variant else []
    return names


def folder_weights(folder: Path) -> list[Path]:
    """The files with the weights of a folder, in the order of their names, missing shards too; empty where none are.

    Raises:
        CheckpointError: the index of the shards is not readable.
    """
    for name in weight_names():
        file = folder / name
        if file.is_file():
            return shards_of(file) if name.endswith(".json") else [file]
    return []


def shards_of(index: Path) -> list[Path]:
    """The files that the index of a sharded checkpoint names. CheckpointError where it is not readable."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not a readable index of shards; download it again") from error
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise CheckpointError(f"{index} names shards that are no plain file names; download it again")
    return [index.with_name(name) for name in sorted(names)]
