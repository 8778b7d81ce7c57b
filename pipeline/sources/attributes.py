"""What a source says of a picture besides its pixels: label, caption, and the rest as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

import numpy as np

_LABELS = ("label",)
_CAPTIONS = ("caption", "text")


@dataclass(frozen=True)
class Attributes:
    label: str | None
    caption: str | None
    meta: dict[str, Any] | None


@dataclass(frozen=True)
class Naming:
    """Which fields are the label and the caption. None: ``label``, and ``caption`` or ``text``, where they are.

    ``classes`` gives the names behind whole-number labels, by field.
    """

    label: str | None = None
    caption: str | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def sort(self, values: Mapping[str, Any], label: str | None = None, caption: str | None = None) -> Attributes:
        """Take label and caption out of ``values``; what remains is the meta.

        ``label`` and ``caption`` are those that the source gives in another way (class folder, ``.txt``): they stand
        before a field of the usual name, not before one that was asked for by name.
        """
        rest = dict(values)
        own_label = self._take(rest, self.label, _LABELS if label is None else ())
        own_caption = self._take(rest, self.caption, _CAPTIONS if caption is None else ())
        meta = {plain_text(str(name)): plain(value) for name, value in rest.items()}
        return Attributes(
            own_label if own_label is not None else label,
            own_caption if own_caption is not None else caption,
            meta or None,
        )

    def _take(self, rest: dict[str, Any], wanted: str | None, usual: tuple[str, ...]) -> str | None:
        for name in (wanted,) if wanted is not None else usual:
            value = plain(rest.get(name))
            if isinstance(value, int) and not isinstance(value, bool) and name in self.classes:
                names = self.classes[name]
                value = names[value] if 0 <= value < len(names) else value
            if value is not None and not isinstance(value, (dict, list)):
                del rest[name]
                return str(value)
        return None


def side_car(data: bytes, name: str) -> dict[str, Any]:
    """The fields of a side-car JSON. One that can't be read becomes a field that says so: the picture is whole."""
    try:
        value = json.loads(data)
    except ValueError as error:
        return {"side_car_error": f"{name}: not readable as JSON ({error})"}
    return value if isinstance(value, dict) else {"side_car": value}


def text_of(data: bytes) -> str | None:
    """A caption or class from a text file's bytes; None where it is empty."""
    return data.decode("utf-8-sig", errors="replace").strip() or None


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers that are not finite become null, dates ISO text, anything unknown its text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, Mapping):
        return {plain_text(str(name)): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return [plain(inner) for inner in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return plain_text(str(value))


def plain_text(text: str) -> str:
    r"""Text that UTF-8 can hold: what a file name has beyond it shows as ``\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode()
