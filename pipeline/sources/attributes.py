"""What a source says of a picture besides its pixels: label, caption, and the rest as JSON.

Nothing here costs a picture: what can't be read becomes null, and a field that ends in ``_error`` says what and why.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

import numpy as np
import pyarrow as pa

from diffstyle.errors import one_line
from pipeline.storage.counts import count
from pipeline.storage.identity import digest

_LABELS = ("label",)
_CAPTIONS = ("caption", "text")

# A side-car above this, or one text, is none: reading a million of them would only fill the memory and the index.
MAX_TEXT = 4 << 20
# Lists and mappings inside one another beyond this are cut off.
MAX_DEPTH = 64

SIDE_CAR_ERROR = "side_car_error"
METADATA_ERROR = "metadata_error"


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
        errors: list[str] = []
        meta = {
            plain_text(str(name)): _bounded(plain(value, errors, str(name)), errors, str(name))
            for name, value in rest.items()
        }
        _note(meta, METADATA_ERROR, *errors)
        return Attributes(
            own_label if own_label is not None else label,
            own_caption if own_caption is not None else caption,
            meta or None,
        )

    def _take(self, rest: dict[str, Any], wanted: str | None, usual: tuple[str, ...]) -> str | None:
        for name in (wanted,) if wanted is not None else usual:
            if name not in rest or isinstance(rest[name], (Mapping, list, tuple, set, np.ndarray, bytes)):
                continue
            errors: list[str] = []
            value = plain(rest[name], errors, name)
            if isinstance(value, int) and not isinstance(value, bool) and name in self.classes:
                names = self.classes[name]
                value = names[value] if 0 <= value < len(names) else value
            if value is not None and not errors:
                del rest[name]
                return str(value)
        return None


def _bounded(value: Any, errors: list[str], name: str) -> Any:
    """The value of a field; None, with a reason, for lists and mappings that are too large for an index."""
    if isinstance(value, (list, dict)) and len(json.dumps(value)) > MAX_TEXT:
        errors.append(f"{name}: a list of over {MAX_TEXT:,} letters as JSON")
        return None
    return value


def _note(values: dict[str, Any], name: str, *reasons: str) -> None:
    """Say in ``values`` what could not be read, beside what is said there already."""
    if reasons:
        earlier = [values[name]] if isinstance(values.get(name), str) else []
        values[name] = plain_text("; ".join([*earlier, *reasons]))


def version_with(version: str, *texts: str | Mapping[str, Any] | None) -> str:
    """The version of a picture's file, and after a ``+`` a digest of what is said of it elsewhere.

    So a corrected caption makes another version, as another picture does.

    Args:
        version: of the file.
        texts: versions of its side-cars, and the values of its row in a list. Where there is nothing, none is added.
    """
    pieces = [
        text if isinstance(text, str) else json.dumps(text, sort_keys=True, default=str) for text in texts if text
    ]
    return f"{version}+{digest(*pieces)[:12]}" if pieces else version


def file_version(version: str) -> str:
    """What :func:`version_with` was given as the file's version."""
    return version.partition("+")[0]


class SideCars:
    """The fields, caption and label that the side-cars of one picture give, read one after the other."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self.values = dict(values or {})
        self.caption: str | None = None
        self.label: str | None = None

    def failed(self, name: str, reason: str) -> None:
        """Say that a side-car can't be read."""
        _note(self.values, SIDE_CAR_ERROR, f"{name}: {reason}")

    def add(self, name: str, suffix: str, data: bytes) -> None:
        """Read a side-car: ``json``, ``txt`` (the caption) or ``cls`` (the label)."""
        if len(data) > MAX_TEXT:
            self.failed(name, f"over {MAX_TEXT:,} bytes")
            return
        try:
            if suffix == "json":
                value = json.loads(data)
                self.values |= value if isinstance(value, dict) else {"side_car": value}
            elif suffix == "txt":
                self.caption = _text_of(data)
            else:
                self.label = _text_of(data)
        except UnicodeDecodeError:
            self.failed(name, "not readable as UTF-8")
        except (ValueError, RecursionError) as error:
            self.failed(name, f"not readable as JSON ({one_line(error, most=200)})")


def _text_of(data: bytes) -> str | None:
    """A caption or class from a text file's bytes, UTF-8 or marked UTF-16; None where it is empty."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return plain_text(data.decode("utf-16" if wide else "utf-8-sig")).strip() or None


def arrow_values(scalars: Mapping[str, pa.Scalar]) -> dict[str, Any]:
    """The values of a table's row for Python; one that Python can't hold is null, with a note."""
    values: dict[str, Any] = {}
    errors = []
    for name, scalar in scalars.items():
        try:
            values[name] = scalar.as_py()
        except UnicodeDecodeError:
            values[name] = None
            errors.append(f"{name}: not readable as UTF-8")
        # Dates beyond year 9999 (OverflowError), unknown time zones, what no Arrow type of this version covers.
        except (
            OverflowError,
            ValueError,
            LookupError,
            NotImplementedError,
            RecursionError,
            pa.ArrowException,
        ) as error:
            values[name] = None
            errors.append(f"{name}: a {scalar.type} that can't be read ({one_line(error, most=200)})")
    _note(values, METADATA_ERROR, *errors)
    return values


def plain(value: Any, errors: list[str], name: str, depth: int = 0) -> Any:
    """A value as JSON has it: numbers that are not finite become null, dates ISO text, anything unknown its text.

    Args:
        value: what a source says.
        errors: receives a reason where a part of the value becomes null because it is too large or too deep.
        name: the field, for the reasons.
        depth: how many lists and mappings it lies in.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (Mapping, list, tuple, set, np.ndarray)) and depth >= MAX_DEPTH:
        errors.append(f"{name}: more than {MAX_DEPTH} levels deep")
        return None
    if isinstance(value, Mapping):
        return {plain_text(str(key)): plain(inner, errors, name, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return [plain(inner, errors, name, depth + 1) for inner in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        errors.append(f"{name}: {count(len(value), 'byte', 'is/are')} no text")
        return None
    text = value.isoformat() if isinstance(value, (datetime, date, time)) else str(value)
    if len(text) > MAX_TEXT:
        errors.append(f"{name}: a text of {len(text):,} letters")
        return None
    return plain_text(text)


def plain_text(text: str) -> str:
    r"""Text that UTF-8 can hold: what a file name has beyond it shows as ``\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode()
