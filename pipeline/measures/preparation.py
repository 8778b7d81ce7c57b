"""What networks of the user's want and give, without torch: files of them are read before anything computes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffstyle.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

#: What a network gives: a vector of a picture; feature maps of it; the distance of two pictures; LPIPS's distance.
Gives = Literal["embedding", "features", "distance", "lpips"]

#: The endings of files that hold a network with its code.
EXPORTED = (".pt2",)
TORCHSCRIPT = (".pt", ".ts", ".torchscript", ".jit")


@dataclass(frozen=True)
class Preparation:
    """How a network wants its pictures.

    Attributes:
        size: The side in pixels; None: as they are.
        crop: What is cut out before resizing: top, left, bottom, right in fractions of the side.
        mean: Of each channel, subtracted, in the order of ``colours``; pictures are in [0, 1] then.
        std: Of each channel, divided by.
        resize: ``bicubic`` or ``bilinear``, with anti-aliasing.
        colours: ``rgb`` or ``bgr``.
    """

    size: int | None = None
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resize: str = "bicubic"
    colours: str = "rgb"

    def __call__(self, x: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) in [-1, 1] as the network wants them."""
        import torch
        import torch.nn.functional as F

        top, left, bottom, right = (round(end * x.shape[2 + n % 2]) for n, end in enumerate(self.crop))
        x = x[:, :, top:bottom, left:right]
        if self.size is not None and x.shape[2:] != (self.size, self.size):
            x = F.interpolate(x, size=(self.size, self.size), mode=self.resize, antialias=True)
        x = (x.clamp(-1, 1) + 1) / 2
        x = x.flip(1) if self.colours == "bgr" else x
        mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (x - mean) / std


def better(gives: Gives, side: str) -> bool:
    """Whether more of :meth:`ScoringNetwork.compare` is nearer."""
    return gives == "embedding" or (gives == "features" and side == "content")


def says(gives: Gives, side: str) -> str:
    """What :meth:`ScoringNetwork.compare` is, in words."""
    return {
        "embedding": f"cosine between the embeddings of the result and of the {side}",
        "features": "correlation of the last feature maps with the content's"
        if side == "content"
        else "distance of the feature maps' Gram matrices to the style's; 0 is the same texture",
        "distance": f"distance to the {side}, as the network gives it",
        "lpips": f"LPIPS distance to the {side}",
    }[gives]


def stated_preparation(folder: Path) -> Preparation | None:
    """What a folder of transformers says of its pictures; None where it says nothing."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_bytes())
        size, cut = _side(values["size"]), _side(values.get("crop_size", values["size"]))
        mean, std = (tuple(float(one) for one in values[name]) for name in ("image_mean", "image_std"))
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{file}: does not say size, image_mean and image_std; give them as `input`") from error
    edge = (1 - cut / size) / 2 if values.get("do_center_crop") and cut < size else 0.0
    return Preparation(
        size=cut if values.get("do_center_crop") else size,
        crop=(edge, edge, 1 - edge, 1 - edge),
        mean=mean,  # type: ignore[arg-type]
        std=std,  # type: ignore[arg-type]
        resize="bilinear" if values.get("resample") == 2 else "bicubic",
    )


def _side(size: Any) -> int:
    if isinstance(size, dict):
        size = size["shortest_edge"] if "shortest_edge" in size else size["height"]
    return int(size)
