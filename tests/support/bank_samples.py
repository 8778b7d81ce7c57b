"""Small banks for the tests: random tensors that follow from the image's number alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.banks.description import BankDescription, Latents, part_name
from pipeline.banks.writer import BankWriter
from pipeline.storage.identity import digest, picture_key

FORMATS = ("parquet", "webdataset")


def describe(format: str = "parquet", role: str = "both", **changes: Any) -> BankDescription:
    values: dict[str, Any] = {
        "model_fingerprint": "f" * 32,
        "model_name": "tiny",
        "image_size": 8,
        "role": role,
        "format": format,
        "inversion": {"steps": 50, "t_0": 999, "plan": "grid"},
        "preprocessing": {"resize": "bilinear", "size": 8},
        "h_timesteps": () if role == "style" else (400, 999),
        "h_shape": (4, 2, 2),
    }
    return BankDescription(**{**values, **changes})


def latents(number: int, description: BankDescription, name: str | None = None) -> Latents:
    random = np.random.default_rng(number)
    image = digest(f"picture {number}")
    x_t = random.standard_normal(description.x_t_shape).astype(np.float32) if description.keeps_x_t else None
    h = random.standard_normal(description.h_stack_shape).astype(np.float32) if description.keeps_h else None
    row = {"source": f"photos/{number}.png", "source_hash": digest(str(number)), "width": 10, "height": 12}
    row |= {"label": "dog", "caption": None, "meta": '{"rating": 5}'}
    return Latents(picture_key(name or f"{number}.png", image), image, x_t, h, description.h_timesteps, row)


def fill(root: Path | str, description: BankDescription, numbers: range, part_size: int = 4) -> BankWriter:
    """A bank of these numbers, in parts of ``part_size``; what is committed already is left out."""
    writer = BankWriter.create_or_open(str(root), description, {"made_by": "test"})
    writer.remove_uncommitted()
    known = writer.known_images()
    for start in range(0, len(numbers), part_size):
        items = [latents(n, description) for n in numbers[start : start + part_size]]
        items = [item for item in items if item.image not in known]
        if items:
            part = part_name([item.image for item in items])
            writer.commit(part, writer.write_payload(str(root), description, part, items))
    return writer
