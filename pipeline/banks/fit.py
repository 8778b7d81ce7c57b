"""Does a bank serve a job? And if not, what differs, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from pipeline.banks.description import BankDescription
from pipeline.banks.tensors import TensorSpec
from pipeline.storage.differences import differences

# What is said in a sentence of its own; all other fields of a description are compared by name.
_SAID = {"model_fingerprint", "model_name", "image_size", "format", "inversion", "tensors"}


def misfits(stored: BankDescription, asked: BankDescription) -> list[str]:
    """What a bank lacks for a job that asks for another: a clause for each, as the end of "the bank ..., but it ...".

    A bank that keeps more than is asked for (h at more timesteps, further tensors) serves as well.

    Args:
        stored: The bank that is kept.
        asked: The bank that the job would make.

    Returns:
        One clause for each reason why the bank can't serve; [] where it does.
    """
    clauses = []
    if stored.model_fingerprint != asked.model_fingerprint:
        clauses.append(
            f"was made with another model ({stored.model_name}, fingerprint {stored.model_fingerprint[:8]}; this job's "
            f"is {asked.model_name}, {asked.model_fingerprint[:8]})"
        )
    if stored.image_size != asked.image_size:
        clauses.append(f"has pictures of {stored.image_size} px (this job's have {asked.image_size})")
    clauses += _walk_clauses(stored.inversion, asked.inversion)
    for tensor in asked.tensors:
        clauses += _tensor_clauses(stored, tensor)
    if stored.format != asked.format:
        clauses.append(f"is stored as {stored.format} (this job's bank.format is {asked.format})")
    others = [one.name for one in fields(BankDescription) if one.name not in _SAID]
    has, wanted = ({name: getattr(one, name) for name in others} for one in (stored, asked))
    return clauses + [f"differs: {phrase}" for phrase in differences(has, wanted)]


def serves(stored: BankDescription, asked: BankDescription) -> bool:
    """Whether a job that asks for one bank can use, and grow, another."""
    return not misfits(stored, asked)


def missing_timesteps(needed: Iterable[int], kept: Iterable[int]) -> str:
    """The timesteps that are needed and not kept, in words: ``timesteps 40 and 61``; "" where none is missing."""
    missing = sorted(set(needed) - set(kept))
    if not missing:
        return ""
    if len(missing) == 1:
        return f"timestep {missing[0]}"
    if len(missing) <= 4:
        return f"timesteps {in_words(missing)}"
    return f"{len(missing)} timesteps ({missing[0]}, {missing[1]} ... {missing[-1]})"


def in_words(values: Sequence[Any]) -> str:
    """``40``, ``40 and 61``, ``40, 61 and 82``."""
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last


def _walk_clauses(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    clauses = []
    for name in sorted(set(stored) | set(asked)):
        has, wanted = stored.get(name), asked.get(name)
        if has == wanted:
            continue
        if name == "steps":
            clauses.append(f"was inverted in {has} steps (this job's inversion.steps is {wanted})")
        elif name == "t_0":
            clauses.append(f"was inverted up to timestep {has} (this job's inversion.t_0 is {wanted})")
        elif name == "precision":
            clauses.append(f"was made in {has or 'float32'} (this job's compute.precision is {wanted})")
        elif name == "plan":
            clauses.append(f"was inverted by plan {has or 'grid'} (this job's inversion.plan is {wanted or 'grid'})")
        elif name == "sampled":
            kinds = ("samples of the model", "pictures of a data set")
            clauses.append(f"holds {kinds[not has]} (this job's has {kinds[not wanted]})")
        elif name != "seed":
            clauses.append(f"says inversion.{name} {has} (this job's is {wanted})")
        elif stored.get("sampled") and asked.get("sampled"):
            clauses.append(f"was sampled with seed {has} (this job's is {wanted})")
    return clauses


def _tensor_clauses(stored: BankDescription, tensor: TensorSpec) -> list[str]:
    if not stored.keeps(tensor.name):
        return [f"keeps no {tensor.name}"]
    kept = stored.tensor(tensor.name)
    clauses = []
    if kept.shape != tensor.shape:
        clauses.append(f"keeps {tensor.name} of shape {kept.shape} (this job's is {tensor.shape})")
    if kept.dtype != tensor.dtype:
        clauses.append(f"keeps {tensor.name} as {kept.dtype} (this job's bank.{tensor.name} is {tensor.dtype})")
    if missing := missing_timesteps(tensor.timesteps or (), kept.timesteps or ()):
        clauses.append(f"doesn't have {tensor.name} at {missing}, which this job needs")
    return clauses
