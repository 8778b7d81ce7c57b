"""Checkpoint files to networks: whatever layout the weights were published in, read strictly and named by content."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffstyle.diffusers_layout import architecture_from_diffusers, from_diffusers, is_diffusers_layout
from diffstyle.errors import CheckpointError, ConfigError
from diffstyle.networks.architecture import Architecture, architecture_from_dict, architecture_to_dict
from diffstyle.networks.build import build_unet
from diffstyle.networks.unet import UNet

#: Keys under which training code wraps weights, in the order in which they are tried.
_EMA_KEYS = ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "params_ema", "shadow")
_MODEL_KEYS = ("state_dict", "model", "model_state_dict", "model_state", "unet", "net", "params")
_PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile
_DIFFUSERS_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_METADATA_KEY = "diffstyle.architecture"
# What torch.load raises on cut-off and foreign files depends on the byte over which it stumbles.
_UNREADABLE = (
    *(RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError, AssertionError),
    *(MemoryError, OverflowError, struct.error),
)
_SHOWN = 3  # tensors of each kind named in a message

_Path = str | os.PathLike[str]


def read_state_dict(path: _Path) -> dict[str, Tensor]:
    """Read the weights of one network, on the CPU in the file's own types, under the original code base's names.

    Accepted: ``.safetensors``; anything that ``torch.load`` reads (``.ckpt``, ``.pt``, ``.pth``, ``.bin``); a folder in
    diffusers' layout (``config.json`` beside ``diffusion_pytorch_model.safetensors`` or ``.bin``, there or in its
    ``unet/``), whose tensors are renamed to DDPM's. Nothing but tensors and plain containers is unpickled.

    A torch file may wrap its weights: in a mapping (``state_dict``, ``model``, ``ema``, ...), or in a list whose first
    element holds them, as DDPM training states do. Where such a file has both plain and averaged (EMA) weights under
    the same names, the averaged ones are taken: they are what the papers sample with. In a list that is the last
    element that fits. A ``module.`` prefix on every name is removed.

    Raises:
        CheckpointError: the path is missing, unreadable, cut off, or not a checkpoint. One line, with the mend.
    """
    return _read(Path(path))[0]


def load_unet(
    path: _Path,
    architecture: Architecture | None = None,
    candidates: Mapping[str, Architecture] = MappingProxyType({}),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> UNet:
    """Read a checkpoint into a frozen network: in eval mode, without gradients, with its ``fingerprint`` set.

    Args:
        path: see :func:`read_state_dict`.
        architecture: what the weights belong to. ``None`` where the file says so itself: a diffusers folder, or a file
            written by :func:`save_unet`.
        candidates: known architectures by name; where the given one does not fit, the message names those that do.
        device: where the network goes.
        dtype: type of its weights. The fingerprint is of the weights as the file has them, whatever this type is.

    Raises:
        CheckpointError: the file cannot be read, or tensors are missing, surplus or misshapen, or the file states
            another architecture than the given one. One line, with counts and the first few tensors of each kind.
    """
    path = Path(path)
    tensors, stated = _read(path)
    if architecture is None:
        if stated is None:
            raise CheckpointError(f"{path} does not say its architecture; name a config{_fitting(tensors, candidates)}")
        architecture = stated
    elif stated is not None and stated != architecture:
        raise CheckpointError(
            f"{path} states another architecture than the given one: {_differing(stated, architecture)}"
        )
    unet = build_unet(architecture, "meta")
    _check_fit(path, tensors, unet, candidates)
    # Copies, since torch's CPU kernels round differently on memory that is aligned or strided as some file had it:
    # the same weights shall give the same images. Popped, so that the file's own tensors are freed on the way.
    fresh = {name: tensors.pop(name).to(torch.float32, copy=True).contiguous() for name in list(tensors)}
    unet.load_state_dict(fresh, assign=True)
    unet.eval().requires_grad_(False)
    unet.fingerprint = fingerprint(unet)
    return unet.cast(dtype).to(device)


def save_unet(unet: UNet, path: _Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the weights as ``.safetensors`` with the architecture in the metadata; ``load_unet(path, None)`` reads it.

    The file appears whole or not at all. float16 halves its size and rounds the weights, which changes the fingerprint.

    Args:
        unet: the network, on any device.
        path: the file to write; its folder is made where missing.
        dtype: ``torch.float32`` or ``torch.float16``.

    Raises:
        ValueError: another dtype.
    """
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"weights are saved as float32 or float16, not {dtype}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in unet.state_dict().items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial, metadata={"format": "pt", _METADATA_KEY: _canonical(unet.architecture)})
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def fingerprint(unet: UNet) -> str:
    """32 hex digits that name a network by content: its architecture and every weight.

    The blake2b digest (16 bytes) of the architecture as canonical JSON, then for each tensor in the order of the names:
    the name, the shape, and the values as little-endian float32. The same weights have the same fingerprint whatever
    file they came from; a network that was cast to a shorter type has another one.
    """
    digest = hashlib.blake2b(_canonical(unet.architecture).encode(), digest_size=16)
    for name, tensor in sorted(unet.state_dict().items()):
        digest.update(f"\n{name} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(values.astype("<f4", copy=False).data)
    return digest.hexdigest()


def _canonical(architecture: Architecture) -> str:
    return json.dumps(architecture_to_dict(architecture), sort_keys=True, separators=(",", ":"))


# Reading


def _read(path: Path) -> tuple[dict[str, Tensor], Architecture | None]:
    """The tensors of a checkpoint, and its architecture where the checkpoint states it."""
    if path.is_dir():
        return _read_diffusers(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path), None


def _read_diffusers(folder: Path) -> tuple[dict[str, Tensor], Architecture]:
    root = next((root for root in (folder, folder / "unet") if (root / "config.json").is_file()), None)
    if root is None:
        raise CheckpointError(
            f"{folder} is a folder without a config.json; give a checkpoint file or a diffusers folder"
        )
    config_path = root / "config.json"
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{config_path} is not readable JSON ({_one_line(error)})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{config_path} is not a diffusers config: it holds no fields")
    architecture = architecture_from_diffusers(config, str(config_path))
    weights = next((root / name for name in _DIFFUSERS_WEIGHTS if (root / name).is_file()), None)
    if weights is None:
        raise CheckpointError(f"{root} has a config.json but neither {' nor '.join(_DIFFUSERS_WEIGHTS)}; download one")
    tensors = _read_safetensors(weights)[0] if weights.suffix == ".safetensors" else _read_torch(weights)
    return from_diffusers(tensors), architecture


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Architecture | None]:
    _refuse_impostors(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a whole .safetensors file ({_one_line(error)}); get it again") from error
    stated = metadata.get(_METADATA_KEY)
    try:
        return _stripped(tensors), None if stated is None else architecture_from_dict(json.loads(stated))
    except (ConfigError, ValueError) as error:
        raise CheckpointError(f"{path}: its metadata '{_METADATA_KEY}' is not readable ({_one_line(error)})") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    head = _refuse_impostors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", str(error))
        if refused is None:
            raise CheckpointError(f"{path} is not a torch checkpoint ({_one_line(error)}); check what it is") from error
        raise CheckpointError(
            f"{path} holds Python objects besides tensors ({refused[1]}), which could run code and are not loaded; "
            "if you trust its source, save its state dict alone into a new file and use that"
        ) from error
    except _UNREADABLE as error:
        if head.startswith(b"PK\x03\x04") and "central directory" in str(error):
            raise CheckpointError(f"{path} is cut off: its end is missing; download or copy it again") from error
        raise CheckpointError(f"{path} is not a whole torch checkpoint ({_one_line(error)}); get it again") from error
    tensors = _unwrapped(content)
    if tensors is None:
        raise CheckpointError(f"{path} holds no state dict: {_outline(content)}; save the network's state dict alone")
    return tensors


def _refuse_impostors(path: Path) -> bytes:
    """The first bytes of a file, unless it is missing or what often lies under a checkpoint's name instead of one."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; check the path, or download the checkpoint first") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    if not head:
        raise CheckpointError(f"{path} is empty; download or copy it again")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint; download the file itself, not the page about it"
        )
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the checkpoint; fetch it with `git lfs pull`")
    return head


def _unwrapped(content: Any) -> dict[str, Tensor] | None:
    """The weights in what a torch file holds, see :func:`read_state_dict`; ``None`` where there are none."""
    averaged = plain = None
    if isinstance(content, Mapping):
        if content and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
            return _stripped(content)
        averaged = next((found for key in _EMA_KEYS if (found := _unwrapped(content.get(key)))), None)
        plain = next((found for key in _MODEL_KEYS if (found := _unwrapped(content.get(key)))), None)
    elif isinstance(content, list | tuple) and content:
        plain = _unwrapped(content[0])
        others = [found for item in content[:0:-1] if (found := _unwrapped(item))]
        averaged = next((found for found in others if plain is not None and found.keys() == plain.keys()), None)
    if averaged is not None and (plain is None or averaged.keys() == plain.keys()):
        return averaged
    return plain


def _stripped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that wrappers of a module put before every name."""
    names = list(tensors)
    for prefix in _PREFIXES:
        while names and all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, tensors.values(), strict=True))


def _outline(content: Any) -> str:
    """What an object is, in a few words."""
    if isinstance(content, Mapping):
        keys = ", ".join(repr(key) for key in list(content)[: 2 * _SHOWN])
        return f"a mapping of {len(content)} entries ({keys})" if content else "an empty mapping"
    if isinstance(content, list | tuple):
        return f"a list of {len(content)} elements ({', '.join(type(item).__name__ for item in content[: 2 * _SHOWN])})"
    return f"a {type(content).__name__}"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # Around the one fact, torch puts advice on how to unpickle everything.
    text = text.rpartition("WeightsUnpickler error: ")[2].partition(" Check the documentation of torch.load")[0]
    return text if len(text) <= 160 else text[:157] + "..."


# Fitting tensors to an architecture


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _check_fit(path: Path, tensors: dict[str, Tensor], unet: UNet, candidates: Mapping[str, Architecture]) -> None:
    expected, found = _shapes(unet.state_dict()), _shapes(tensors)
    if found == expected:
        return
    kinds = {
        "missing": [f"{name} {shape}" for name, shape in expected.items() if name not in found],
        "surplus": [f"{name} {shape}" for name, shape in found.items() if name not in expected],
        "misshapen": [
            f"{name} {found[name]} for {shape}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    }
    counts = ", ".join(
        f"{len(items)} {kind} ({', '.join(items[:_SHOWN])}{', ...' if len(items) > _SHOWN else ''})"
        for kind, items in kinds.items()
        if items
    )
    if is_diffusers_layout(found) and not is_diffusers_layout(expected):
        mend = "; it is in diffusers' layout: give the folder with its config.json"
    else:
        mend = _fitting(tensors, candidates)
    raise CheckpointError(
        f"{path} does not fit the {unet.architecture.family} architecture, of {len(expected)} tensors: {counts}{mend}"
    )


def _fitting(tensors: Mapping[str, Tensor], candidates: Mapping[str, Architecture]) -> str:
    """The end of a message: which of the known architectures the tensors fit exactly. Nothing is allocated."""
    found = _shapes(tensors)
    names = [name for name, a in candidates.items() if _shapes(build_unet(a, "meta").state_dict()) == found]
    if names:
        return f"; it fits {' and '.join(repr(name) for name in names)}"
    return f"; it fits none of {', '.join(candidates)}" if candidates else ""


def _differing(stated: Architecture, given: Architecture) -> str:
    a, b = architecture_to_dict(stated), architecture_to_dict(given)
    if stated.family != given.family:
        return f"family {stated.family} for {given.family}"
    return ", ".join(f"{field} {a[field]} for {b[field]}" for field in a if a[field] != b[field])
