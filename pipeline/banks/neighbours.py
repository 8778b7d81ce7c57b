"""First things to do with latents: nearest neighbours in h-space, and points between two entries."""

from __future__ import annotations

import dataclasses
import heapq

import numpy as np

from pipeline.banks.description import BankError, Latents
from pipeline.banks.reader import LatentBank


def similar(
    bank: LatentBank, query: str | np.ndarray, top: int = 10, timestep: int | None = None, batch: int = 64
) -> list[tuple[str, float]]:
    """The ``top`` entries nearest to ``query`` by the cosine between bottleneck tensors: (key, cosine), nearest first.

    ``query``: a key or image hash of the bank (itself left out), or an h of shape (K, C, h, w). Compared is the mean
    over the kept timesteps, or the one at ``timestep``. Streams through the bank's h, ``batch`` entries in memory at a
    time. An image with several names counts once. Raises BankError for a bank without h or a timestep not kept.
    """
    what = bank.description
    if not what.keeps_h:
        raise BankError(f"{bank.place}: a style bank keeps no h; ask a bank of role content or both")
    if timestep is not None and timestep not in what.h_timesteps:
        raise BankError(f"{bank.place}: h at timestep {timestep} is not kept; kept are {list(what.h_timesteps)}")
    chosen = None if timestep is None else what.h_timesteps.index(timestep)
    own = None
    if isinstance(query, str):
        (entry,) = bank.get_many([query], tensors=("h",))
        own, query = entry.image, _of(entry)
    target = _direction(np.asarray(query)[None], chosen)[0]
    best: list[tuple[float, str]] = []
    seen: set[bytes] = set()
    for entries in bank.batches(batch, tensors=("h",)):
        new = [one for one in entries if one.image != own and bytes.fromhex(one.image) not in seen]
        new = list({one.image: one for one in reversed(new)}.values())[::-1]
        if not new:
            continue
        seen.update(bytes.fromhex(one.image) for one in new)
        cosines = _direction(np.stack([_of(one) for one in new]), chosen) @ target
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


def _of(entry: Latents) -> np.ndarray:
    assert entry.h is not None
    return entry.h


def _direction(h: np.ndarray, chosen: int | None) -> np.ndarray:
    """(N, K, C, h, w) -> (N, C*h*w) float32 of length 1."""
    flat = h.astype(np.float32).reshape(len(h), h.shape[1], -1)
    vector = flat.mean(axis=1) if chosen is None else flat[:, chosen]
    return vector / np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-12)


def interpolate(a: Latents, b: Latents, amount: float) -> Latents:
    """The point between two entries of one bank: slerp of x_T, and of h at each timestep, in float32.

    ``amount`` 0 gives ``a``, 1 gives ``b``. What either lacks is None. Its image is no picture's hash: it must not be
    written to a bank of pictures. Raises BankError for entries of different shapes or timesteps.
    """
    if a.h_timesteps != b.h_timesteps:
        raise BankError(f"{a.key} and {b.key} keep h at different timesteps")
    x_t = h = None
    if a.x_t is not None and b.x_t is not None:
        x_t = _slerp(a.x_t[None], b.x_t[None], amount, a, b)[0]
    if a.h is not None and b.h is not None:
        h = _slerp(a.h, b.h, amount, a, b)
    return dataclasses.replace(a, key=f"{a.key}__{b.key}__{amount:g}", image="", x_t=x_t, h=h, row={})


def _slerp(u: np.ndarray, v: np.ndarray, amount: float, a: Latents, b: Latents) -> np.ndarray:
    """Over all axes but the first."""
    if u.shape != v.shape:
        raise BankError(f"{a.key} and {b.key} differ in shape: {u.shape} and {v.shape}")
    u, v = u.astype(np.float32), v.astype(np.float32)
    axes = tuple(range(1, u.ndim))
    dot = (u * v).sum(axes, keepdims=True, dtype=np.float64)
    norms = np.sqrt(
        (u * u).sum(axes, keepdims=True, dtype=np.float64) * (v * v).sum(axes, keepdims=True, dtype=np.float64)
    )
    angle = np.arccos(np.clip(dot / np.maximum(norms, 1e-12), -1, 1))
    sine = np.sin(angle)
    parallel = sine < 1e-4  # the formula divides by the sine: a straight line is the same there
    safe = np.where(parallel, 1, sine)
    left = np.where(parallel, 1 - amount, np.sin((1 - amount) * angle) / safe)
    right = np.where(parallel, amount, np.sin(amount * angle) / safe)
    return (left * u + right * v).astype(np.float32)
