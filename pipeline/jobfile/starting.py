"""Settings to begin with, where a job does not say any: those that suit a model, or its size of pictures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from diffstyle.errors import ConfigError
from pipeline.jobfile.fields import Strict
from pipeline.jobfile.injection import Injection
from pipeline.models.config import ModelConfig
from pipeline.storage.address import BASE
from pipeline.storage.yamlcore import inline
from pipeline.storage.yamlfile import Document

#: The model that needs no download: it comes with the code.
DEMO_MODEL = "shipped:demo/model/demo-64.yaml"

#: Side of a model's pictures, up to so many pixels -> t_edit. Small pictures keep their layout down to lower noise, by
#: the ratio of their sides in signal-to-noise amplitude to the 256 px for which the method takes 400.
_T_EDIT = {32: 80, 64: 160, 128: 260}

#: Models of up to so many pixels are small: all of the content's h goes in.
SMALL = 64


class _Suited(Strict):
    """What a model's config says of jobs."""

    injection: Injection


def starting_injection(model: ModelConfig) -> dict[str, Any]:
    """The fields of ``injection`` to begin with: what the model's config says, all else by the size of its pictures.

    Paths in them are absolute; relative ones start at the config's folder.

    Args:
        model: The config of the job's model.

    Raises:
        ConfigError: What the config says is no ``injection`` of a job; names the file, the line and the field.
    """
    t_edit = next((t for size, t in _T_EDIT.items() if model.size <= size), 400)
    # The plan is what docs/speed.md advises to begin with, whatever the size.
    by_size = {"gamma": 1.0 if model.size <= SMALL else 0.3, "t_edit": t_edit, "plan": "fast"}
    stated, folder = model.stated_injection
    lines = {loc: line for loc, line in stated.lines.items() if loc[:1] == ("injection",)}
    document = Document(stated.name, {"injection": by_size | dict(stated.get(("injection",)) or {})}, lines)
    suited = document.validate(_Suited, {BASE: folder}).injection
    return suited.model_dump(mode="json", by_alias=True, exclude_unset=True)


def unsuited(injection: Injection, model: ModelConfig) -> str | None:
    """A note where a job leaves at their defaults what other values suit, as when only its model was changed.

    The plan is not among them: `fast`, which new jobs begin with, is for looking.

    Args:
        injection: As the job has it.
        model: The config of the job's model.

    Returns:
        One line, or None. A mistake in what the model's file says is the line: it keeps no job from running.
    """
    stated = {"plan", *injection.model_dump(mode="json", by_alias=True, exclude_unset=True)}
    defaults = Injection().model_dump(mode="json", by_alias=True)
    try:
        starting = starting_injection(model)
    except ConfigError as error:
        return str(error)
    suited = {name: inline(value) for name, value in starting.items() if name not in stated and value != defaults[name]}
    if not suited:
        return None
    values = ", ".join(f"{name} {value}" for name, value in suited.items())
    options = " ".join(f"--set {shlex.quote(f'injection.{name}={value}')}" for name, value in suited.items())
    return f"{values} would suit {model.name}, and the job leaves the defaults; try {options}"


def starting_gammas(image_size: int) -> tuple[float, ...]:
    """Values of gamma that show its effect, from little to much.

    Those of small models are even steps to the eye: on five held-out pairs of the demo's model the style picture, 0.3,
    0.6 and 1 are 23.3, 23.4 and 23.2 dB from each other in their order.

    Args:
        image_size: The side of the model's pictures, in pixels.
    """
    return (0.3, 0.6, 1.0) if image_size <= SMALL else (0.2, 0.4, 0.6)


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
