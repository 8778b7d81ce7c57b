"""First things to do with latents: nearest neighbours in h-space, and points between two entries."""

from __future__ import annotations

import dataclasses
import heapq

import numpy as np
import torch

from diffstyle.blend import slerp
from pipeline.banks.description import Latents
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import BankError


def similar(
    bank: LatentBank,
    query: str | np.ndarray,
    top: int = 10,
    timestep: int | None = None,
    batch: int = 64,
    tensor: str = "h",
) -> list[tuple[str, float]]:
    """The entries nearest to ``query`` by the cosine between their tensors of one name.

    Streams through the bank, ``batch`` entries in memory at a time. An image with several names counts once.

    Args:
        bank: The bank to search.
        query: A key or image hash of the bank (itself left out), or an array of the tensor's stored shape, as of h
            (K, C, h, w).
        top: How many.
        timestep: Compare the slice at this timestep; None: the mean over the kept ones.
        batch: Entries read at a time.
        tensor: The tensor's name.

    Returns:
        (key, cosine), nearest first.

    Raises:
        BankError: The bank does not keep the tensor, or not at that timestep.
    """
    spec = bank.description.tensor(tensor)
    kept = spec.timesteps or ()
    if timestep is not None and timestep not in kept:
        raise BankError(f"{bank.place}: {tensor} at timestep {timestep} is not kept; kept are {list(kept)}")
    chosen = slice(None) if timestep is None else slice(kept.index(timestep), kept.index(timestep) + 1)

    def directions(arrays: list[np.ndarray]) -> np.ndarray:
        """(N, values) float32 of length 1."""
        slices = np.stack(arrays).astype(np.float32).reshape(len(arrays), len(spec.timesteps or (0,)), -1)
        vectors = slices[:, chosen].mean(axis=1)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    own = None
    if isinstance(query, str):
        (entry,) = bank.get_many([query], tensors=(tensor,))
        own, query = entry.image, entry.tensors[tensor]
    (target,) = directions([np.asarray(query)])
    best: list[tuple[float, str]] = []
    seen: set[bytes] = set()
    for entries in bank.batches(batch, tensors=(tensor,)):
        new = [one for one in entries if one.image != own and bytes.fromhex(one.image) not in seen]
        new = list({one.image: one for one in reversed(new)}.values())[::-1]
        if not new:
            continue
        seen.update(bytes.fromhex(one.image) for one in new)
        cosines = directions([one.tensors[tensor] for one in new]) @ target
        for one, cosine in zip(new, cosines.tolist(), strict=True):
            # Ties go to the key that sorts first, whatever the batch.
            heapq.heappush(best, (cosine, _Descending(one.key)))
            if len(best) > top:
                heapq.heappop(best)
    return [(str(key), cosine) for cosine, key in sorted(best, reverse=True)]


class _Descending(str):
    """A string that sorts the other way round."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)

    def __gt__(self, other: str) -> bool:
        return str.__lt__(self, other)


def interpolate(a: Latents, b: Latents, amount: float) -> Latents:
    """The point between two entries of one bank: slerp of each of their tensors, at each timestep, in float32.

    ``amount`` 0 gives ``a``, 1 gives ``b``. A tensor that either lacks is left out. Its image is no picture's hash: it
    must not be written to a bank of pictures. Raises BankError for entries of different shapes or timesteps, and for
    tensors of whole numbers, between which there is nothing.
    """
    tensors = {}
    for name in sorted(a.tensors.keys() & b.tensors.keys()):
        u, v = a.tensors[name], b.tensors[name]
        if a.timesteps.get(name) != b.timesteps.get(name):
            raise BankError(f"{a.key} and {b.key} keep {name} at different timesteps")
        if u.shape != v.shape:
            raise BankError(f"{a.key} and {b.key} differ in the shape of {name}: {u.shape} and {v.shape}")
        if u.dtype.kind != "f":
            raise BankError(f"{name} holds whole numbers ({u.dtype}); nothing lies between two of them")
        # An axis of slices to go over, as a tensor that is kept per timestep has.
        slices = (1, *u.shape) if a.timesteps.get(name) is None else u.shape
        pair = [torch.from_numpy(one.astype(np.float32)).reshape(slices) for one in (u, v)]
        tensors[name] = slerp(torch.full((slices[0],), float(amount)), *pair).numpy().reshape(u.shape)
    return dataclasses.replace(a, key=f"{a.key}__{b.key}__{amount:g}", image="", tensors=tensors, row={})
