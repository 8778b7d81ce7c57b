"""Directions in h: what a bank's pictures differ by most, and what tells one label's pictures from another's.

A component is one for all timesteps: the h of a picture at all of its timesteps is one long vector, each timestep
scaled to the same total variance, and its principal components have a piece for each timestep. Components found for
each timestep by itself would come in another order, with other signs, from one timestep to the next.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.banks.columns import read_columns
from pipeline.banks.reader import LatentBank
from pipeline.banks.sketch import BUDGET, Sketch
from pipeline.banks.tensors import BankError
from pipeline.storage.counts import count
from pipeline.storage.identity import digest
from pipeline.storage.place import Place

DIRECTIONS_FORMAT_VERSION = 1

_KIND = "directions of h"
_TENSORS = ("components", "spreads", "label_means")
_BATCH = 16
_SAMPLE = 64  # pictures that the scales of the timesteps are judged by


@dataclass(frozen=True)
class Directions:
    """Directions of one bank's h, as a file holds them.

    Attributes:
        about: What they were made from, JSON-able: ``model_fingerprint``, ``model_name``, ``image_size``,
            ``inversion``, ``preprocessing``, ``h_timesteps`` (K of them), ``images``, ``explained`` (of each component
            its share of the variance, all timesteps weighing the same), ``explained_at`` (the same for each timestep),
            ``label_column``, ``labels`` (label -> pictures, in the order of ``label_means``) and ``unlabelled``.
        components: (M, K, C, h, w) float32; each (C, h, w) has length 1.
        spreads: (M, K) float32: how far one standard deviation of a component moves h at each timestep.
        label_means: (L, K, C, h, w) float32: the mean of each label's pictures, less the mean of all pictures.
    """

    about: Mapping[str, Any]
    components: np.ndarray
    spreads: np.ndarray
    label_means: np.ndarray

    @property
    def h_timesteps(self) -> tuple[int, ...]:
        """The timesteps that there are directions for."""
        return tuple(self.about["h_timesteps"])

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that there are means of."""
        return tuple(self.about["labels"])

    def component(self, number: int) -> np.ndarray:
        """What one standard deviation of a component adds to h, (K, C, h, w) float32.

        Raises:
            BankError: There are not so many components.
        """
        if not 0 <= number < len(self.components):
            raise BankError(f"there is no component {number}; there are {len(self.components)}, numbered from 0")
        return self.components[number] * self.spreads[number][:, None, None, None]

    def label(self, name: str, against: str | None = None) -> np.ndarray:
        """The mean h of a label's pictures less that of another's, (K, C, h, w) float32.

        Args:
            name: The label.
            against: The other label; None: all pictures that have another label.

        Raises:
            BankError: There is no such label.
        """
        for wanted in (name, against):
            if wanted is not None and wanted not in self.labels:
                known = ", ".join(self.labels[:8]) + (" ..." if len(self.labels) > 8 else "")
                raise BankError(f"there is no label {wanted!r}; there are {known or 'none: use --label COLUMN'}")
        counts = np.array(list(self.about["labels"].values()), np.float64)
        weights = np.zeros(len(counts))
        if against is None:
            others = np.array([label != name for label in self.labels])
            weights[others] = -counts[others] / counts[others].sum()
        else:
            weights[self.labels.index(against)] -= 1
        weights[self.labels.index(name)] += 1
        return np.tensordot(weights, self.label_means.astype(np.float64), 1).astype(np.float32)

    # ---- the file ----
    def save(self, path: str | os.PathLike[str] | Place) -> int:
        """Write the file, whole or not at all; the same directions give the same bytes. Returns how many."""
        tensors = {name: np.ascontiguousarray(getattr(self, name), np.float32) for name in _TENSORS}
        about = {**self.about, "kind": _KIND, "format_version": DIRECTIONS_FORMAT_VERSION}
        about["hash"] = _hash(about, tensors)
        data = save(tensors, {"diffstyle": json.dumps(about, ensure_ascii=False)})  # one text, so in one order
        Place.parse(path).write_bytes(data)
        return len(data)

    @classmethod
    def open(cls, path: str | os.PathLike[str] | Place) -> Directions:
        """Read the file at an address.

        Raises:
            BankError: There is none, it is none of directions, or it was changed since it was written.
        """
        place = Place.parse(path)
        cure = "make it with `diffstyle bank directions`"
        if not place.is_file():
            raise BankError(f"{place}: no such file; {cure}")
        data = place.read_bytes()
        try:
            tensors = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            about = json.loads(header["__metadata__"]["diffstyle"])
            kind, version = about["kind"], about["format_version"]
        except (SafetensorError, ValueError, KeyError, TypeError):
            raise BankError(f"{place}: not a file of directions; {cure}") from None
        if kind != _KIND or version != DIRECTIONS_FORMAT_VERSION:
            raise BankError(f"{place}: {kind!r} of format_version {version}, which this release does not read; {cure}")
        if sorted(tensors) != sorted(_TENSORS) or about.get("hash") != _hash(about, tensors):
            raise BankError(f"{place}: its bytes have changed since it was written; {cure}")
        return cls(about, **tensors)


def find_directions(
    bank: LatentBank,
    components: int = 8,
    label_column: str | None = None,
    *,
    budget: int = BUDGET,
    progress: Callable[[int, int], None] | None = None,
) -> Directions:
    """Principal directions of h over a bank, and the means of its labels' pictures.

    Each h is read once, a few pictures at a time, and a few of them twice. An image with several names counts once.

    Args:
        bank: A bank that keeps h.
        components: How many components; a bank of N images has N - 1 at most.
        label_column: A column of the index, or one computed later, whose values are labels; None: no labels.
        budget: Bytes that the sketch of the principal components may take, and those that the labels' sums may.
        progress: Hears how many images were read, and how many there are.

    Raises:
        BankError: The bank keeps no h, has fewer than two images, no such column, or too few or too many labels.
    """
    if not bank.description.keeps("h"):
        raise BankError(f"{bank.place}: keeps {' and '.join(bank.description.names)} and no h; take a content bank")
    spec = bank.description.tensor("h")
    timesteps = spec.timesteps or ()
    if not timesteps or len(spec.shape) != 3:
        raise BankError(f"{bank.place}: its h is kept as {spec}; directions need (C, h, w) for each timestep")
    numbers, labels = _entries(bank, label_column)
    if len(numbers) < 2:
        raise BankError(
            f"{bank.place}: {count(len(numbers), 'image')}; directions need two at least, and 100 to mean much"
        )
    counted = Counter(label for label in labels if label is not None)
    names = sorted(counted)
    row_of = {name: row for row, name in enumerate(names)}
    size, k = int(np.prod(spec.shape)), len(timesteps)
    most = max(2, budget // (8 * k * size))
    if label_column is not None and not 2 <= len(names) <= most:
        raise BankError(
            f"{bank.place}: column {label_column!r} has {count(len(names), 'label')}; differences need 2 to {most}. "
            "Choose another column with --label"
        )

    def read(chosen: Sequence[int]) -> np.ndarray:
        """(n, K, C * h * w) float32."""
        entries = bank.get_many(chosen, ("h",))
        return np.stack([entry.tensors["h"] for entry in entries]).astype(np.float32).reshape(len(chosen), k, size)

    scales = _scales(read, numbers, k)
    sketch = Sketch(k * size, components, _BATCH, budget)
    sums = np.zeros((len(names), k * size))
    for start in range(0, len(numbers), _BATCH):
        chosen = numbers[start : start + _BATCH]
        vectors = (read(chosen) / scales[:, None]).reshape(len(chosen), -1)
        sketch.add(vectors)
        for vector, label in zip(vectors, labels[start : start + _BATCH], strict=True):
            if label is not None:
                sums[row_of[label]] += vector
        if progress:
            progress(start + len(chosen), len(numbers))

    for total, name in zip(sums, names, strict=True):  # in place: a label's row may be large
        total /= counted[name]
        total -= sketch.mean
    vectors, variances = sketch.components(min(components, len(numbers) - 1))
    vectors *= np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], 1))
    pieces = vectors.reshape(len(vectors), k, size)
    lengths = np.linalg.norm(pieces, axis=2)
    pieces /= np.where(lengths == 0, 1, lengths)[:, :, None]
    # A component's share of a timestep's variance is what its score explains of it.
    total_at = sketch.variances().reshape(k, size).sum(1)
    moved = np.sqrt(variances)[:, None] * lengths
    explained_at = np.square(moved) / np.where(total_at == 0, 1, total_at)
    description = bank.description
    return Directions(
        {
            "model_fingerprint": description.model_fingerprint,
            "model_name": description.model_name,
            "image_size": description.image_size,
            "inversion": description.inversion,
            "preprocessing": description.preprocessing,
            "h_timesteps": list(timesteps),
            "h_shape": list(spec.shape),
            "images": len(numbers),
            "explained": _rounded(variances / max(float(total_at.sum()), np.finfo(np.float64).tiny)),
            "explained_at": [_rounded(one) for one in explained_at],
            "label_column": label_column,
            "labels": {name: counted[name] for name in names},
            "unlabelled": labels.count(None) if names else 0,
        },
        pieces.reshape(-1, k, *spec.shape).astype(np.float32),
        (moved * scales).astype(np.float32),
        sums.reshape(-1, k, *spec.shape).astype(np.float32) * scales[:, None, None, None].astype(np.float32),
    )


def _entries(bank: LatentBank, label_column: str | None) -> tuple[list[int], list[str | None]]:
    """The number of one entry for each image, in the order of the keys, and their labels."""
    index = bank.index
    _, first = np.unique(index["image"].to_numpy(zero_copy_only=False).astype(str), return_index=True)
    numbers = np.sort(first).tolist()
    if label_column is None:
        return numbers, [None] * len(numbers)
    values: list[Any]
    if label_column in index.column_names:
        values = index[label_column].take(pa.array(numbers, pa.int64())).to_pylist()
    else:
        later = read_columns(bank.place)
        if label_column not in later:
            known = ", ".join(["label", *sorted(later)])
            raise BankError(f"{bank.place}: no column {label_column!r} for --label; there are {known} and the index's")
        images = index["image"].take(pa.array(numbers, pa.int64())).to_pylist()
        values = [later[label_column].get(image) for image in images]
    return numbers, [None if value is None else str(value) for value in values]


def _scales(read: Callable[[Sequence[int]], np.ndarray], numbers: Sequence[int], k: int) -> np.ndarray:
    """Of each timestep, the root of the total variance of h over pictures spread evenly over the bank: (K,)."""
    chosen = np.unique(np.linspace(0, len(numbers) - 1, _SAMPLE).round().astype(int)).tolist()
    total, squares, n = np.zeros(0), np.zeros(k), len(chosen)
    mean: Any = 0.0
    for start in range(0, n, _BATCH):
        batch = read([numbers[i] for i in chosen[start : start + _BATCH]])
        mean = mean + batch.sum(0, dtype=np.float64) / n
        squares += np.square(batch, dtype=np.float64).sum((0, 2)) / n
    total = np.sqrt(np.maximum(squares - np.square(mean).sum(1), 0))
    return np.where(total == 0, 1, total)


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]


def _hash(about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """Over all that a file says, but for the hash itself."""
    text = json.dumps({name: value for name, value in about.items() if name != "hash"}, sort_keys=True)
    return digest(text, *(piece for name in _TENSORS for piece in (str(tensors[name].shape), tensors[name].tobytes())))
