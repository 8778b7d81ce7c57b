"""Settings to begin with, where a job does not say any: those that suit a model's size of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffstyle.errors import ConfigError

#: The model that needs no download: it comes with the code.
DEMO_MODEL = "shipped:demo/model/demo-64.yaml"

#: Models of up to so many pixels are small: 50 steps are enough, and all of the content's h.
SMALL = 64


def starting_injection(image_size: int) -> dict[str, Any]:
    """The fields of ``injection`` to begin with.

    Small pictures keep their layout down to lower noise than large ones, by the ratio of their sides in signal-to-noise
    amplitude: the method's ``t_edit`` of 400 at 256 px is some 160 at 64 px and 80 at 32 px.

    Args:
        image_size: The side of the model's pictures, in pixels.
    """
    if image_size <= SMALL:
        return {"gamma": 1.0, "t_edit": 80 if image_size <= SMALL // 2 else 160, "plan": {"grid": 50}}
    return {"gamma": 0.3, "t_edit": 400, "plan": "balanced"}


def starting_gammas(image_size: int) -> tuple[float, ...]:
    """Values of gamma that show its effect, from little to much.

    Args:
        image_size: The side of the model's pictures, in pixels.
    """
    return (0.1, 0.4, 1.0) if image_size <= SMALL else (0.2, 0.4, 0.6)


def numbers(text: str | float | Sequence[float], field: str) -> list[float]:
    """``0.2,0.4`` as numbers; numbers as they are.

    Raises:
        ConfigError: Names the field and the part that is no number.
    """
    if isinstance(text, int | float):
        return [float(text)]
    values = []
    for part in text.strip("[] ").split(",") if isinstance(text, str) else text:
        try:
            values.append(float(part))
        except (TypeError, ValueError):
            raise ConfigError(f"{field}: {str(part).strip()!r} is not a number; write it as 0.2,0.4,0.6") from None
    return values


def mask_field(mask: Any) -> Any:
    """``injection.mask`` as a job file has it, from a short form.

    Args:
        mask: ``reference``; four numbers, as ``0.5,0,1,1`` or a sequence: the rectangle from top, left, to bottom,
            right, in fractions of the side; another text: the path of a picture whose white is where content goes; a
            mapping: as it is.
    """
    if mask is None or isinstance(mask, Mapping) or mask == "reference":
        return mask
    if not isinstance(mask, str):
        return {"rectangle": list(mask)}
    parts = mask.split(",")
    try:
        return {"rectangle": [float(part) for part in parts]} if len(parts) == 4 else {"picture": mask}
    except ValueError:
        return {"picture": mask}
