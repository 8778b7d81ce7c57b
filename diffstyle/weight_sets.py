"""The sets of weights in what a checkpoint holds: the network as trained, averages of it, and which to take.

Training code wraps weights in every way: in mappings and lists, beside counters, behind prefixes, as lists of
parameters without names. Each set has a *key*, its way into the file (``ema.ema_model``, ``4``), by which it can be
chosen, and counts as averaged where that way says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffstyle.errors import CheckpointError

#: Single numbers that training code keeps among the weights.
_COUNTERS = {"num_updates", "decay", "initted", "step", "n_averaged", "collected", "optimization_step", "ema_decay"}
_COUNTERS |= {"ema_step", "epoch", "global_step", "iteration", "power", "min_decay", "inv_gamma"}
_OPTIMIZER = re.compile(r"(^|_)(opt|optim\w*|scheduler\w*|lr_\w+|scaler)(_|$)")
_AVERAGED = re.compile(r"(^|[._/])(\w*_)?(ema|swa|shadow|averaged?|average)(_\w+)?($|[._/])|(^|\.)0\.\d+($|\.)|^ema")
_DEPTH = 5


@dataclass(frozen=True)
class WeightSet:
    """One network's weights.

    ``tensors`` is None for a list of parameters that no other set lends its names. ``part``: other networks lie beside
    it, so that it is taken only where its key is given.
    """

    key: str
    tensors: dict[str, Tensor] | None
    averaged: bool
    prefix: str = ""
    parameters: tuple[Tensor, ...] = ()
    part: bool = False

    def described(self, sets: list[WeightSet]) -> str:
        """Which set this is, "" where the file holds no other."""
        others = [one for one in sets if one is not self and not one.part]
        return str(self) if others or self.part or self.averaged else ""

    def __str__(self) -> str:
        kind = "averaged weights" if self.averaged else "weights"
        return f"{kind} '{self.key}'" if self.key else kind


def weight_sets(content: Any) -> list[WeightSet]:
    """Every set of weights in what a file holds, in the file's order."""
    sets = list(_sets(content, (), _DEPTH))
    if isinstance(content, list | tuple):  # DDPM's training states: the network, its optimizer, ..., its average
        first = next((one for one in sets if one.tensors and not one.part), None)
        sets = [replace(one, averaged=one.averaged or (one is not first and _same_names(one, first))) for one in sets]
    return [_named(one, sets) for one in sets]


def choose(
    path: Path, sets: Sequence[WeightSet], key: str | None, fits: Callable[[dict[str, Tensor]], bool]
) -> WeightSet:
    """The set to load: the one with the key, else the averaged one that fits, else the only one that fits.

    Where none fits, the one that would have been taken, for the caller to say what is wrong with it.

    Args:
        path: the file, for messages.
        sets: what :func:`weight_sets` found; at least one of them has tensors.
        key: the key of the wanted set, or None.
        fits: whether tensors are those of the wanted network.

    Raises:
        CheckpointError: no set has the key; or several could be meant; or only the average does not fit. The message
            names the keys.
    """
    fitting = [one for one in sets if one.tensors and fits(one.tensors)]
    whole = [one for one in sets if not one.part]
    if key is not None:
        chosen = next((one for one in sets if one.key == key), None)
        if chosen is None:
            keys = _listed([one for one in sets if one in whole or one in fitting])
            raise CheckpointError(f"{path} has no weights under the key '{key}'; it has {keys}")
        if chosen.tensors is None:
            raise CheckpointError(
                f"{path}: '{key}' is a list of {len(chosen.parameters)} parameters without names, and no other set of "
                "the file has as many of the same shapes; save the averaged state dict by itself"
            )
        return chosen
    wanted = [one for one in fitting if not one.part]
    averaged = [one for one in wanted if one.averaged]
    unfit = [one for one in whole if one.averaged and one not in wanted]
    if wanted and not averaged and unfit:
        raise CheckpointError(
            f"{path} holds {_listed(unfit)} that can't be used, beside {_listed(wanted)}; to take "
            f"'{wanted[0].key}' all the same, say weights: {{path: ..., key: {wanted[0].key}}}"
        )
    distinct = _distinct(averaged or wanted)
    if len(distinct) > 1:
        raise CheckpointError(
            f"{path} holds several sets of weights that could be meant: {_listed(distinct)}; choose one, as in "
            f"weights: {{path: ..., key: {distinct[0].key}}}"
        )
    if distinct:
        return distinct[0]
    if fitting:
        raise CheckpointError(
            f"{path} holds more than one network; {_listed(fitting)} would fit: say "
            f"weights: {{path: ..., key: {fitting[0].key}}}"
        )
    named = [one for one in whole if one.tensors]
    return next((one for one in named if one.averaged), named[0])


def _listed(sets: Sequence[WeightSet]) -> str:
    return (
        ", ".join(f"'{one.key or 'the whole file'}' ({'averaged' if one.averaged else 'not averaged'})" for one in sets)
        or "no other"
    )


def _distinct(sets: list[WeightSet]) -> list[WeightSet]:
    """Without sets that are equal to an earlier one, tensor by tensor."""
    kept: list[WeightSet] = []
    for one in sets:
        if not any(_equal(one.tensors or {}, other.tensors or {}) for other in kept):
            kept.append(one)
    return kept


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]) for name, tensor in one.items()
    )


def _same_names(one: WeightSet, other: WeightSet | None) -> bool:
    return bool(one.tensors and other is not None and other.tensors and one.tensors.keys() == other.tensors.keys())


def is_averaged(key: str) -> bool:
    """Whether a way into a file says that what lies there is an average."""
    return _AVERAGED.search(key.lower()) is not None


def _sets(content: Any, way: tuple[str, ...], depth: int) -> Iterator[WeightSet]:
    key = ".".join(way)
    if isinstance(content, Mapping):
        if "param_groups" in content:  # an optimizer's state
            return
        tensors = {name: one for name, one in content.items() if isinstance(name, str) and isinstance(one, Tensor)}
        if any("." in name for name in tensors):
            yield from _split(tensors, key, is_averaged(key) or "n_averaged" in tensors)
        inner: Any = content.items()
    elif isinstance(content, list | tuple):
        if content and all(isinstance(one, Tensor) for one in content):
            if is_averaged(key):
                yield WeightSet(key, None, True, parameters=tuple(content))
            return
        inner = enumerate(content)
    else:
        return
    if depth:
        for name, one in inner:
            if not isinstance(one, Tensor) and not _OPTIMIZER.search(str(name).lower()):
                yield from _sets(one, (*way, str(name)), depth - 1)


def _split(tensors: dict[str, Tensor], key: str, averaged: bool) -> Iterator[WeightSet]:
    """One mapping of tensors, or several networks of the same names behind prefixes (``ema_model.``)."""
    tensors = {name: one for name, one in tensors.items() if name not in _COUNTERS or one.numel() != 1}
    groups: dict[str, dict[str, Tensor]] = {}
    for name, one in tensors.items():
        first, dot, rest = name.partition(".")
        if dot:
            groups.setdefault(first, {})[rest] = one
    networks = {first: group for first, group in groups.items() if any("." in name for name in group)}
    # An average whose names have lost their dots, since the module that held it takes none.
    for first, group in groups.items():
        plain = {name: one for name, one in group.items() if name not in _COUNTERS}
        for other in list(networks.values()) if is_averaged(first) else ():
            dotless = {name.replace(".", ""): name for name in other}
            if dotless.keys() == plain.keys():
                networks[first] = {dotless[name]: one for name, one in plain.items()}
    alike = [first for first, group in networks.items() if sum(g.keys() == group.keys() for g in networks.values()) > 1]
    if 2 * sum(len(networks[first]) for first in alike) > len(tensors):
        for first in alike:
            inner = f"{key}.{first}" if key else first
            stripped, prefix = _stripped(networks[first])
            yield WeightSet(inner, stripped, is_averaged(first), f"{first}.{prefix}")
        return
    stripped, prefix = _stripped(tensors)
    yield WeightSet(key, stripped, averaged or is_averaged(prefix), prefix)
    if not prefix:
        for first, group in networks.items() if len(networks) > 1 else ():
            stripped, prefix = _stripped(group)
            way = f"{key}.{first}" if key else first
            yield WeightSet(way, stripped, averaged or is_averaged(first), f"{first}.{prefix}", part=True)


def _stripped(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Without the prefix before every name, and the prefix; then also without a wrapper's tables (``betas``)."""
    dotted = [name for name in tensors if "." in name]
    if len(dotted) < 2 or any(tensors[name].ndim > 1 for name in tensors.keys() - set(dotted)):
        return tensors, ""
    parts = [name.split(".")[:-1] for name in dotted]
    common = 0
    while all(len(one) > common + 1 and one[common] == parts[0][common] for one in parts):
        common += 1
    if not common:
        return tensors, ""
    prefix = ".".join(parts[0][:common]) + "."
    return {name.removeprefix(prefix): tensors[name] for name in dotted}, prefix


def _named(one: WeightSet, others: list[WeightSet]) -> WeightSet:
    """A list of parameters under the names of a set that has as many, of the same shapes, in the same order."""
    if one.tensors is not None:
        return one
    shapes = [tuple(tensor.shape) for tensor in one.parameters]
    for other in others:
        if other.tensors and [tuple(tensor.shape) for tensor in other.tensors.values()] == shapes:
            return WeightSet(one.key, dict(zip(other.tensors, one.parameters, strict=True)), True, other.prefix)
    return one
