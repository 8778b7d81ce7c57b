"""The settings of results in words, from the manifest's columns: titles of contact sheets, labels of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.jobfile.edit import EditPoint

#: The manifest's columns that say how a pair was made. The page of a report shows them all.
PARAMETERS = (
    *("gamma", "gamma_schedule", "t_edit", "t_boost", "events", "dt_lambda", "dt_end", "omega", "mask", "edit"),
    *("plan", "network_calls", "seed", "inversion", "precision", "model", "model_fingerprint", "algorithm"),
    *("format", "width", "height"),
)
#: Those that tell one point of a sweep from another, after gamma, in the order in which they are said.
_TELLING = (
    *("t_edit", "t_boost", "events", "dt_lambda", "dt_end", "omega", "mask", "edit", "plan", "inversion"),
    *("precision", "model", "model_fingerprint", "format"),
)
_ALWAYS = ("t_edit", "omega", "mask", "edit")


def setting_words(settings: Sequence[Mapping[str, Any]], all_of_one: bool = False) -> list[str]:
    """What tells each of some settings from the others: ``gamma 0.6, mask {rectangle: [0.5, 0, 1, 1]}``.

    Args:
        settings: A row of the manifest for each setting; columns that are missing are not said.
        all_of_one: Say the main fields too where all settings agree on them.

    Returns:
        A text for each, in their order: gamma, then each field in which they differ.
    """
    differing = [name for name in _TELLING if len({_plain(row.get(name)) for row in settings}) > 1]
    if all_of_one:
        differing = [name for name in _TELLING if name in differing or name in _ALWAYS]
    return [
        ", ".join(
            [_gamma(row), *(f"{name} {_value(name, row[name])}" for name in differing if row.get(name) is not None)]
        )
        for row in settings
    ]


def _gamma(row: Mapping[str, Any]) -> str:
    gamma = row.get("gamma")
    return f"gamma {_plain(row.get('gamma_schedule')) if gamma is None else format(gamma, 'g')}"


def _value(name: str, value: Any) -> str:
    return str(EditPoint.model_validate_json(value)) if name == "edit" else _plain(value)


def _plain(value: Any) -> str:
    """A value of the manifest without the marks of JSON."""
    if isinstance(value, float):
        return format(value, "g")
    if isinstance(value, str) and value[:1] in "{[":
        try:
            value = json.dumps(json.loads(value), ensure_ascii=False)
        except ValueError:  # a text that only looks like JSON
            return value
        return value.replace('"', "")
    return str(value)


def short_name(key: str) -> str:
    """A key without its digits of the picture's hash."""
    stem, _, digits = key.rpartition("-")
    return stem if stem and len(digits) == 12 else key
