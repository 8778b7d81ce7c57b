"""Picture <-> tensor: centre crop, resize, and the range [-1, 1] that the networks see.

The steps and their rounding are those of the reference implementation (a centre crop to the shorter side, Pillow's
bilinear filter, which averages when it shrinks), so that prepared pictures agree with it to the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch  # imported where tensors are made: to prepare pictures it is not needed, and takes a second to import


def prepare(image: Image.Image, size: int) -> Image.Image:
    """An RGB picture of ``size`` x ``size`` pixels: the centre square of the shorter side, resized bilinearly.

    A mode other than RGB is converted as Pillow does it: transparency, 16 bits and orientation are the business of
    whoever opened the file (``pipeline.shards.decode``).

    Args:
        image: a picture of any mode and size.
        size: the side, in pixels.

    Raises:
        ValueError: The size is below 1, or the picture is empty.
    """
    if size < 1 or 0 in image.size:
        raise ValueError(f"cannot prepare a picture of {image.width} x {image.height} at size {size}")
    if image.mode != "RGB":
        image = image.convert("RGB")
    width, height = image.size
    side = min(width, height)
    # Python's round (halves to the even number), as in the reference: (3 - 2) / 2 starts at 0, (5 - 2) / 2 at 2.
    left, top = round((width - side) / 2), round((height - side) / 2)
    if width != height:
        image = image.crop((left, top, left + side, top + side))
    return image if side == size else image.resize((size, size), Image.Resampling.BILINEAR)


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Pixels as the networks take them, x / 127.5 - 1.

    Args:
        pixels: uint8, (..., H, W, 3).

    Returns:
        float32, (..., 3, H, W), in [-1, 1].

    Raises:
        ValueError: The pixels are of another type or shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[-1] != 3:
        raise ValueError(f"expected uint8 pixels of shape (..., H, W, 3), got {pixels.dtype} {pixels.shape}")
    import torch

    # A copy: pixels from Pillow are read-only, which torch does not take.
    tensor = torch.from_numpy(np.array(pixels)).movedim(-1, -3).to(torch.float32)
    return (tensor / 127.5 - 1.0).contiguous()


def to_uint8(tensor: torch.Tensor) -> np.ndarray:
    """The inverse of :func:`to_tensor`: cut to [-1, 1], then the nearest grey level.

    Args:
        tensor: (..., 3, H, W), any floating type and device.

    Returns:
        uint8 pixels, (..., H, W, 3).

    Raises:
        ValueError: A value is not a number, or the shape is another.
    """
    if tensor.ndim < 3 or tensor.shape[-3] != 3:
        raise ValueError(f"expected a tensor of shape (..., 3, H, W), got {tuple(tensor.shape)}")
    import torch

    values = tensor.detach().to(device="cpu", dtype=torch.float32)
    if torch.isnan(values).any():
        raise ValueError("the tensor holds values that are not numbers")
    levels = ((values.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
    return levels.movedim(-3, -1).contiguous().numpy()
