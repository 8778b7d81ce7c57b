"""Checkpoint files to networks: whatever layout the weights were published in, read strictly and named by content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffstyle.checkpoint_files import read_weight_sets
from diffstyle.checkpoint_headers import METADATA_KEY
from diffstyle.diffusers_layout import is_diffusers_layout
from diffstyle.errors import CheckpointError
from diffstyle.networks.architecture import Architecture, architecture_to_dict
from diffstyle.networks.build import build_unet
from diffstyle.networks.unet import UNet
from diffstyle.weight_sets import WeightSet, choose

_SHOWN = 3  # tensors of each kind named in a message

_Path = str | os.PathLike[str]


def read_state_dict(path: _Path, key: str | None = None) -> dict[str, Tensor]:
    """Read the weights of one network, on the CPU in the file's own types, under the original code base's names.

    Accepted: ``.safetensors``; anything that ``torch.load`` reads (``.ckpt``, ``.pt``, ``.pth``, ``.bin``); a folder in
    diffusers' layout (``config.json`` beside its weights, of any precision and in shards or not, there or in its
    ``unet_ema/`` or ``unet/``), whose tensors are renamed to DDPM's. Nothing but tensors and plain containers is
    unpickled.

    A file may wrap its weights, and hold more than one set of them: in mappings (``state_dict``, ``model``, ``ema``),
    in a list, as DDPM's training states do, behind prefixes, or as a list of parameters (``shadow_params``). Of
    several sets the averaged one (EMA) is taken: it is what the papers sample with. A prefix before every name is
    removed.

    Args:
        path: the file or folder.
        key: which set, as a message that asks for it names them. By default the averaged one, else the only one.

    Raises:
        CheckpointError: the path is missing, unreadable, cut off, or not a checkpoint; or it holds several averaged
            sets, or several and none averaged. One line, with the cure.
    """
    tensors = choose(Path(path), read_weight_sets(Path(path))[0], key, lambda _: True).tensors
    assert tensors is not None
    return tensors


def load_unet(
    path: _Path,
    architecture: Architecture | None = None,
    candidates: Mapping[str, Architecture] = MappingProxyType({}),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    key: str | None = None,
) -> UNet:
    """Read a checkpoint into a frozen network: in eval mode, without gradients.

    Its ``fingerprint`` is set, and ``weights`` says which of the file's sets of weights it has.

    Args:
        path: see :func:`read_state_dict`.
        architecture: what the weights belong to. ``None`` where the file says so itself: a diffusers folder, or a file
            written by :func:`save_unet`.
        candidates: known architectures by name; where the given one does not fit, the message names those that do.
        device: where the network goes.
        dtype: type of its weights. The fingerprint is of the weights as the file has them, whatever this type is.
        key: which of the file's sets of weights, see :func:`read_state_dict`.

    Raises:
        CheckpointError: the file cannot be read, or does not say which of its sets of weights to take, or tensors are
            missing, surplus, misshapen or not finite, or the file states another architecture than the given one. One
            line, with counts and the first few tensors of each kind.
    """
    path = Path(path)
    sets, stated = read_weight_sets(path)
    if architecture is None:
        if stated is None:
            tensors = choose(path, sets, key, lambda _: True).tensors or {}
            raise CheckpointError(f"{path} does not say its architecture; name a config{_fitting(tensors, candidates)}")
        architecture = stated
    elif stated is not None and stated != architecture:
        raise CheckpointError(
            f"{path} states another architecture than the given one: {_differing(stated, architecture)}"
        )
    unet = build_unet(architecture, "meta")
    expected = _shapes(unet.state_dict())
    chosen = choose(path, sets, key, lambda tensors: _shapes(tensors) == expected)
    tensors = dict(chosen.tensors or {})
    _check_fit(path, tensors, unet, candidates, chosen if chosen.described(sets) else None)
    # Copies, since torch's CPU kernels round differently on memory that is aligned or strided as some file had it:
    # the same weights shall give the same images. Popped, so that the file's own tensors are freed on the way.
    note = chosen.described(sets)
    del sets, chosen
    fresh = {name: tensors.pop(name).to(torch.float32, copy=True).contiguous() for name in list(tensors)}
    _check_finite(path, fresh, note)
    unet.load_state_dict(fresh, assign=True)
    unet.eval().requires_grad_(False)
    unet.fingerprint, unet.weights = fingerprint(unet), note
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
        save_file(tensors, partial, metadata={"format": "pt", METADATA_KEY: _canonical(unet.architecture)})
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


# Fitting tensors to an architecture


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _check_finite(path: Path, tensors: Mapping[str, Tensor], note: str) -> None:
    broken = {name: int((~one.isfinite()).sum()) for name, one in tensors.items() if not one.isfinite().all()}
    if not broken:
        return
    named = [f"{name}, {count} of {tensors[name].numel()} values" for name, count in list(broken.items())[:_SHOWN]]
    more = "; ..." if len(broken) > _SHOWN else ""
    raise CheckpointError(
        f"{path}: {len(broken)} of {len(tensors)} tensors hold NaN or infinity ({'; '.join(named)}{more})"
        f"{f' in the {note}' if note else ''}; the training diverged or the file is damaged: take an earlier "
        "checkpoint, or get the file again"
    )


def _check_fit(
    path: Path,
    tensors: dict[str, Tensor],
    unet: UNet,
    candidates: Mapping[str, Architecture],
    chosen: WeightSet | None,
) -> None:
    expected, actual = _shapes(unet.state_dict()), _shapes(tensors)
    if actual == expected:
        return
    kinds = {
        "missing": [f"{name} {shape}" for name, shape in expected.items() if name not in actual],
        "surplus": [f"{name} {shape}" for name, shape in actual.items() if name not in expected],
        "misshapen": [
            f"{name} {actual[name]} for {shape}"
            for name, shape in expected.items()
            if name in actual and actual[name] != shape
        ],
    }
    counts = ", ".join(
        f"{len(items)} {kind} ({', '.join(items[:_SHOWN])}{', ...' if len(items) > _SHOWN else ''})"
        for kind, items in kinds.items()
        if items
    )
    if is_diffusers_layout(actual) and not is_diffusers_layout(expected):
        cure = "; it is in diffusers' layout: give the folder with its config.json"
    else:
        cure = _output_channels(actual, expected) or _fitting(tensors, candidates)
    subject = f"{path} ({chosen})" if chosen else str(path)
    raise CheckpointError(
        f"{subject} does not fit the {unet.architecture.family} architecture, "
        f"of {len(expected)} tensors: {counts}{cure}"
    )


def _output_channels(actual: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str:
    """The end of a message where the output's channels tell that only ``learn_sigma`` is wrong."""
    outputs = {"out.2.weight", "out.2.bias", "conv_out.weight", "conv_out.bias"} & expected.keys()
    if actual.keys() != expected.keys() or {name for name in actual if actual[name] != expected[name]} != outputs:
        return ""
    has, wanted = (shapes[min(outputs)][0] for shapes in (actual, expected))
    if "out.2.bias" in outputs and {has, wanted} == {3, 6}:
        return f"; its output has {has} channels: say learn_sigma: {str(has == 6).lower()} in the model's architecture"
    return f"; its output has {has} channels and not {wanted}"


def _fitting(tensors: Mapping[str, Tensor], candidates: Mapping[str, Architecture]) -> str:
    """The end of a message: which of the known architectures the tensors fit exactly. Nothing is allocated."""
    shapes = _shapes(tensors)
    names = [name for name, a in candidates.items() if _shapes(build_unet(a, "meta").state_dict()) == shapes]
    if names:
        return f"; it fits {' and '.join(repr(name) for name in names)}"
    return f"; it fits none of {', '.join(candidates)}" if candidates else ""


def _differing(stated: Architecture, given: Architecture) -> str:
    a, b = architecture_to_dict(stated), architecture_to_dict(given)
    if stated.family != given.family:
        return f"family {stated.family} for {given.family}"
    return ", ".join(f"{field} {a[field]} for {b[field]}" for field in a if a[field] != b[field])
