"""Pictures drawn from the model itself, as a source of contents or styles: their x_T is known, so none is inverted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.banks.description import BankDescription, entry_of
from pipeline.banks.thumbnails import thumbnail
from pipeline.banks.writer import BankWriter
from pipeline.models.session import LoadedModel
from pipeline.stages.colours import colours_of
from pipeline.stages.walk import Walk
from pipeline.storage.identity import digest, image_hash, picture_key, source_text
from pipeline.storage.place import Place
from pipeline.workers.unit import halves


def sample_source(seed: int, number: int) -> str:
    """The ``source`` of a sampled picture."""
    return source_text(f"sample:{seed}", f"{number:06d}")


def sample_of(source: str) -> tuple[int, int] | None:
    """(seed, number) of a sampled picture by its ``source``; None for any other."""
    match = re.fullmatch(r"sample:(\d+)#(\d+)", source)
    return None if match is None else (int(match[1]), int(match[2]))


def draw_samples(
    context: LoadedModel, description: BankDescription, seed: int, numbers: Sequence[int]
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Draw samples from the model.

    Args:
        context: The model on its device.
        description: Of the bank that keeps them.
        seed: Of the samples.
        numbers: Which of them.

    Returns:
        The tensors, as :func:`~pipeline.stages.invert.invert_pictures` gives them, uint8 pixels (N, S, S, 3), and
        whether each is finite, (N,).
    """
    import torch

    from diffstyle.images import to_uint8
    from diffstyle.noise import seeded_noise

    walk = Walk.of_bank(description)
    seeds = [int(digest(str(seed), str(n))[:16], 16) >> 1 for n in numbers]
    x_T = seeded_noise(seeds, walk.t_0, (3, description.image_size, description.image_size))
    x_0, h = context.walk(x_T, walk.plan(keep=description.h_timesteps))
    pixels = to_uint8(torch.from_numpy(np.nan_to_num(x_0)))
    tensors = {"x_t": x_T.numpy(), "h": h[:, ::-1]}  # sampling descends
    if description.keeps("colours"):
        tensors["colours"] = colours_of(pixels)
    return tensors, pixels, np.isfinite(x_0).all((1, 2, 3))


@dataclass(frozen=True)
class SampleUnit:
    """Some samples of one seed, by number, to be drawn into one part of a bank."""

    bank: Place
    description: BankDescription
    seed: int
    numbers: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"sample-{digest(str(self.seed), *(str(n) for n in self.numbers))[:20]}"

    @property
    def network_calls(self) -> int:
        """On one picture each."""
        return Walk.of_bank(self.description).plan(keep=()).encodes * len(self.numbers)

    def load(self) -> None:
        return None

    def compute(self, context: LoadedModel, loaded: None) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        return draw_samples(context, self.description, self.seed, self.numbers)

    def save(
        self, computed: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]
    ) -> tuple[pa.Table | None, list[dict[str, Any]]]:
        tensors, pictures, are_finite = computed
        items = []
        for n, (number, pixels, finite) in enumerate(zip(self.numbers, pictures, are_finite, strict=True)):
            image = image_hash(pixels)
            source = sample_source(self.seed, number)
            key = picture_key(f"sample-{number:06d}", image)
            row = {"key": key, "image": image, "source": source, "width": pixels.shape[1], "height": pixels.shape[0]}
            problem = None if finite else f"{key}: the sample is not finite"
            own = {name: values[n] for name, values in tensors.items()}
            items.append((entry_of(self.description, row, thumbnail(pixels), **own), problem))
        return BankWriter.write_storable(self.bank, self.description, self.name, items)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What is known of the samples without drawing them, for a failure's rows."""
        return [
            {"key": f"sample-{n:06d}", "image": digest(str(self.seed), str(n)), "source": sample_source(self.seed, n)}
            for n in self.numbers
        ]

    def split(self) -> Sequence[SampleUnit]:
        return [replace(self, numbers=half) for half in halves(self.numbers)]
