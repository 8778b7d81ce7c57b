"""What lies in checkpoint files: their sets of weights, whatever layout they were published in.

Nothing but tensors and plain containers is unpickled.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffstyle.checkpoint_headers import METADATA_KEY, refuse_impostors
from diffstyle.diffusers_files import CONFIG, WEIGHTS, folder_weights
from diffstyle.diffusers_layout import architecture_from_diffusers, from_diffusers
from diffstyle.errors import CheckpointError, ConfigError, cut, one_line
from diffstyle.networks.architecture import Architecture, architecture_from_dict
from diffstyle.weight_sets import WeightSet, is_averaged, weight_sets

# What torch.load raises on cut-off and foreign files depends on the byte over which it stumbles.
_UNREADABLE = (
    *(RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError, AssertionError),
    *(MemoryError, OverflowError, struct.error),
)
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch.save began before they were zips
_SHOWN = 3  # entries named in a message


def read_weight_sets(path: Path) -> tuple[list[WeightSet], Architecture | None]:
    """The sets of weights of a file or diffusers folder, and its architecture where it states one.

    Raises:
        CheckpointError: the path is missing, unreadable, cut off, or not a checkpoint. One line, with the cure.
    """
    if path.is_dir():
        return _read_diffusers(path)
    if path.suffix == ".safetensors":
        tensors, stated = _read_safetensors(path)
        return weight_sets(tensors), stated
    content = _read_torch(path)
    sets = weight_sets(content)
    if not any(one.tensors for one in sets):
        raise CheckpointError(f"{path} holds no state dict: {_outline(content)}; save the network's state dict alone")
    return sets, None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or a state dict of ``torch.save``, under the names that they have there.

    Raises:
        CheckpointError: the file is missing, unreadable, cut off, or no flat state dict. One line, with the cure.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)[0]
    content = _read_torch(path)
    if not isinstance(content, Mapping) or not all(isinstance(one, Tensor) for one in content.values()):
        raise CheckpointError(f"{path} holds no state dict: {_outline(content)}; save the network's state dict alone")
    return {str(name): tensor for name, tensor in content.items()}


def _read_diffusers(folder: Path) -> tuple[list[WeightSet], Architecture]:
    roots = [root for root in (folder, folder / "unet_ema", folder / "unet") if (root / CONFIG).is_file()]
    if not roots:
        raise CheckpointError(
            f"{folder} is a folder without a config.json; give a checkpoint file or a diffusers folder"
        )
    architectures = {root: _diffusers_architecture(root / CONFIG) for root in roots}
    sets = []
    for root in roots:
        files = folder_weights(root)
        if not files:
            raise CheckpointError(f"{root} has a config.json but neither {' nor '.join(WEIGHTS)}; download one")
        tensors: dict[str, Tensor] = {}
        for file in files:
            if not file.is_file():
                raise CheckpointError(f"{root}: {file.name} is missing, a shard that the index names; download it")
            content: Any = _read_safetensors(file)[0] if file.suffix == ".safetensors" else _read_torch(file)
            if not isinstance(content, Mapping) or not all(isinstance(one, Tensor) for one in content.values()):
                raise CheckpointError(f"{file} holds no state dict: {_outline(content)}; download it again")
            tensors.update(content)
        key = "" if root == folder else root.name
        # One set in each folder, whatever its names: two networks in one would not be diffusers' layout.
        (whole, *_) = weight_sets(tensors) or [WeightSet(key, dict(tensors), False)]
        sets.append(WeightSet(key, from_diffusers(whole.tensors or {}), is_averaged(key), whole.prefix))
    return sets, architectures[roots[0]]


def _diffusers_architecture(config_path: Path) -> Architecture:
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{config_path} is not readable JSON ({_reason(error)})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{config_path} is not a diffusers config: it holds no fields")
    return architecture_from_diffusers(config, str(config_path))


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Architecture | None]:
    refuse_impostors(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a whole .safetensors file ({_reason(error)}); get it again") from error
    stated = metadata.get(METADATA_KEY)
    try:
        return tensors, None if stated is None else architecture_from_dict(json.loads(stated))
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"{path}: its metadata '{METADATA_KEY}' is not readable ({_reason(error)})") from error


def _read_torch(path: Path) -> Any:
    head = refuse_impostors(path)
    if head[:1] == b"\x80" and not head.startswith(_LEGACY_TORCH):
        raise CheckpointError(
            f"{path} is a Python pickle that torch.save did not write; unpickling could run code, so it is not loaded. "
            "If you trust its source, load it in Python, turn its arrays into tensors, and save them with torch.save "
            "or as .safetensors"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Pickles name what they would build or call; torch says that in several ways.
        refused = re.search(r"(?:GLOBAL|Unsupported class|instantiate|call) ([A-Za-z_][\w.]*)", str(error))
        if refused is None:
            raise CheckpointError(f"{path} is not a torch checkpoint ({_reason(error)}); check what it is") from error
        raise CheckpointError(
            f"{path} holds Python objects besides tensors ({refused[1]}), which could run code and are not loaded; "
            "if you trust its source, load it in Python with torch.load(..., weights_only=False), save its state dict "
            "alone into a new file, and use that"
        ) from error
    except _UNREADABLE as error:
        if head.startswith(b"PK\x03\x04") and "central directory" in str(error):
            raise CheckpointError(f"{path} is cut off: its end is missing; download or copy it again") from error
        if head.startswith(b"PK\x03\x04") and "constants.pkl" in str(error) + str(error.__cause__):
            raise CheckpointError(f"{path} is a TorchScript program; save its network's state dict") from error
        raise CheckpointError(f"{path} is not a whole torch checkpoint ({_reason(error)}); get it again") from error


def _outline(content: Any) -> str:
    """What an object is, in a few words."""
    if isinstance(content, Mapping):
        keys = ", ".join(repr(key) for key in list(content)[: 2 * _SHOWN])
        entries = "1 entry" if len(content) == 1 else f"{len(content)} entries"
        return f"a mapping of {entries} ({keys})" if content else "an empty mapping"
    if isinstance(content, list | tuple):
        elements = "1 element" if len(content) == 1 else f"{len(content)} elements"
        return f"a list of {elements} ({', '.join(type(item).__name__ for item in content[: 2 * _SHOWN])})"
    return f"a {type(content).__name__}"


def _reason(error: Exception) -> str:
    # Around the one fact, torch puts advice on how to unpickle everything.
    text = one_line(error, most=1 << 16).rpartition("WeightsUnpickler error: ")[2]
    return cut(text.partition(" Check the documentation of torch.load")[0], most=160)
