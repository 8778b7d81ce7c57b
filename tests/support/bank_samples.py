"""Small banks for the tests: random tensors that follow from the image's number alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.banks.description import BankDescription, Latents, entry_of, part_name
from pipeline.banks.tensors import TensorSpec, role_tensors
from pipeline.banks.writer import BankWriter
from pipeline.storage.identity import digest, picture_key

FORMATS = ("parquet", "webdataset")

#: Tensors of other methods: a latent model's codes, features per timestep, and whole numbers.
OTHER_TENSORS = (
    TensorSpec("z", "float16", (4, 8, 8)),
    TensorSpec("features", "float32", (6,), (10, 500, 999)),
    TensorSpec("codes", "int32", (2, 2)),
)


def describe(format: str = "parquet", role: str = "both", **changes: Any) -> BankDescription:
    """A bank's description; ``changes`` to its fields, or to the tensors of its role (h_shape, h_dtype, ...)."""
    image_size = changes.pop("image_size", 8)
    h = {"h_timesteps": () if role == "style" else (400, 999), "h_shape": (4, 2, 2)}
    h |= {name: changes.pop(name) for name in ("h_timesteps", "h_shape", "h_dtype", "x_t_dtype") if name in changes}
    values: dict[str, Any] = {
        "model_fingerprint": "f" * 32,
        "model_name": "tiny",
        "image_size": image_size,
        "format": format,
        "inversion": {"steps": 50, "t_0": 999, "plan": "grid"},
        "preprocessing": {"resize": "bilinear", "size": 8},
    }
    tensors = changes.pop("tensors", None) or role_tensors(role, image_size, **h)
    return BankDescription(**{**values, "tensors": tensors, **changes})


def latents(number: int, description: BankDescription, name: str | None = None) -> Latents:
    """The entry of this number, with random tensors in float32 (int64 where the bank keeps whole numbers)."""
    random = np.random.default_rng(number)
    image = digest(f"picture {number}")
    tensors = {
        one.name: random.standard_normal(one.stored_shape).astype(np.float32)
        if one.dtype.startswith("float")
        else random.integers(0, 100, one.stored_shape)
        for one in description.tensors
    }
    row = {"key": picture_key(name or f"{number}.png", image), "image": image}
    row |= {"source": f"photos/{number}.png", "source_hash": digest(str(number)), "width": 10, "height": 12}
    row |= {"label": "dog", "caption": None, "meta": '{"rating": 5}'}
    return entry_of(description, row, **tensors)


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
