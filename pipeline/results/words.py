"""The settings of results in words, from the manifest's columns: titles of contact sheets, labels of the report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.jobfile.edit import EditPoint
from pipeline.storage.identity import source_stem

#: The manifest's columns that say how a pair was made. The page of a report shows them all.
PARAMETERS = (
    *("gamma", "gamma_schedule", "t_edit", "t_start", "t_boost", "events", "dt_lambda", "dt_end", "omega", "mask"),
    *(
        "edit",
        "start_from_content",
        "match_colours",
        "plan",
        "network_calls",
        "seed",
        "inversion",
        "precision",
        "model",
        "model_fingerprint",
        "algorithm",
    ),
    *("format", "width", "height"),
)
#: Those that tell one point of a sweep from another, after gamma, in the order in which they are said.
_TELLING = (
    *("t_edit", "t_start", "t_boost", "events", "dt_lambda", "dt_end", "omega", "mask", "edit", "start_from_content"),
    *("match_colours", "plan", "inversion", "precision", "model", "model_fingerprint", "format", "seed"),
)
_ALWAYS = ("t_edit", "t_start", "omega", "mask", "edit", "start_from_content", "match_colours")


def setting_words(settings: Sequence[Mapping[str, Any]], all_of_one: bool = False) -> list[str]:
    """What tells each of some settings from the others: ``gamma 0.6, mask rectangle 0.5, 0, 1, 1``.

    Args:
        settings: A row of the manifest for each setting; columns that are missing are not said.
        all_of_one: Say the main fields too where all settings agree on them, but for what is off in all.

    Returns:
        A text for each, in their order: the fields in which they differ, gamma first (``no mask`` for one without);
        gamma alone where they differ in nothing that has words. Rows that this does not tell apart get the start of
        their digest, as it is in the names of folders, where they have the column ``settings``.
    """
    gammas = {_gamma(row) for row in settings}
    differing = [name for name in _TELLING if len({_plain(row.get(name)) for row in settings}) > 1]
    named = [name for name in _TELLING if name in differing or (all_of_one and name in _ALWAYS)]
    with_gamma = all_of_one or len(gammas) > 1 or not differing
    texts = [
        ", ".join(
            [
                *([_gamma(row)] if with_gamma else ()),
                *(_field(name, row.get(name)) for name in named if name in differing or not _is_off(row.get(name))),
            ]
        )
        for row in settings
    ]
    digests: dict[str, set[str | None]] = {}
    for text, row in zip(texts, settings, strict=True):
        digests.setdefault(text, set()).add(row.get("settings"))
    return [
        f"{text}, settings {row['settings'][:8]}" if len(digests[text]) > 1 and row.get("settings") else text
        for text, row in zip(texts, settings, strict=True)
    ]


def settings_order(settings: Sequence[Mapping[str, Any]]) -> list[int]:
    """The places of some settings in the order in which people look at them.

    By gamma, then by the fields that tell them apart, numbers by size; what is off comes before what is on, so no mask
    before a mask.

    Args:
        settings: A row of the manifest for each setting; columns that are missing count as off.
    """
    return sorted(range(len(settings)), key=lambda n: _rank(settings[n]))


def _rank(row: Mapping[str, Any]) -> list[tuple[int, float, str]]:
    fields = [row.get(name) for name in (*_TELLING, "settings")]
    gamma = row.get("gamma")
    by_gamma = (1, 0.0, str(row.get("gamma_schedule"))) if gamma is None else (0, float(gamma), "")
    return [by_gamma, *map(_field_rank, fields)]


def _field_rank(value: Any) -> tuple[int, float, str]:
    if _is_off(value):
        return 0, 0.0, ""
    try:
        return 1, float(value), ""
    except ValueError:
        return 2, 0.0, str(value)


def _is_off(value: Any) -> bool:
    """Whether a main field does nothing: no mask, no edit, omega 0."""
    return value is None or value == 0


def _field(name: str, value: Any) -> str:
    return f"no {name}" if value is None else f"{name} {_value(name, value)}"


def _gamma(row: Mapping[str, Any]) -> str:
    gamma = row.get("gamma")
    return f"gamma {_plain(row.get('gamma_schedule')) if gamma is None else format(gamma, 'g')}"


def _value(name: str, value: Any) -> str:
    if name == "edit":
        return str(EditPoint.model_validate_json(value))
    if name == "mask":
        mask = json.loads(value)
        if not isinstance(mask, Mapping):
            return str(mask)
        if "rectangle" in mask:
            return f"rectangle {', '.join(format(edge, 'g') for edge in mask['rectangle'])}"
        return " ".join(f"{kind} {str(path).rstrip('/').rpartition('/')[2]}" for kind, path in mask.items())
    return _plain(value)


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


#: The manifest's columns that name a recipe's folder and sheet, with its digest.
NAMING = (
    *("settings", "gamma", "gamma_schedule", "omega", "mask", "edit", "start_from_content", "match_colours"),
    "seed",
)


def name_words(row: Mapping[str, Any]) -> str:
    """What besides gamma tells a recipe from others, as a piece of a file's name: ``masked-0.5-0-1-1-omega-0.5``.

    Args:
        row: The columns NAMING of the manifest, those that are not null.

    Returns:
        Letters, digits, dots, hyphens and underscores; nothing without a mask, an edit, calibration, the extensions
        beyond the paper, or noise.
    """
    pieces = []
    if row.get("mask") is not None:
        pieces.append(f"masked-{_mask_name(json.loads(row['mask']))}".removesuffix("-"))
    if row.get("edit") is not None:
        point = EditPoint.model_validate_json(row["edit"])
        name = f"component-{point.component}" if point.label is None else point.label
        pieces.append(f"edit-{name}-{'minus' if point.strength < 0 else 'plus'}-{abs(point.strength):g}")
    if row.get("omega"):
        pieces.append(f"omega-{row['omega']:g}")
    if row.get("start_from_content"):
        pieces.append(f"start-{row['start_from_content']:g}")
    if row.get("match_colours"):
        pieces.append("colours-matched")
    if row.get("seed") is not None:
        pieces.append(f"seed-{row['seed']}")
    return "-".join(re.sub(r"[^A-Za-z0-9._-]+", "_", piece)[:48] for piece in pieces)


def _mask_name(mask: Any) -> str:
    if isinstance(mask, Mapping) and "rectangle" in mask:
        return "-".join(format(edge, "g") for edge in mask["rectangle"])
    if isinstance(mask, Mapping) and "picture" in mask:
        return source_stem(mask["picture"])
    return "each" if isinstance(mask, Mapping) else ""  # the paper's own needs no name


def shared_words(settings: Sequence[Mapping[str, Any]]) -> str:
    """The main fields in which some settings agree, gamma among them, without what is off: ``gamma 1, t_edit 80``."""
    same = [name for name in _ALWAYS if len({_plain(row.get(name)) for row in settings}) == 1]
    gammas = {_gamma(row) for row in settings}
    fields = [_field(name, settings[0][name]) for name in same if not _is_off(settings[0].get(name))]
    return ", ".join([*(gammas if len(gammas) == 1 else ()), *fields])


def short_name(key: str) -> str:
    """A key without its digits of the picture's hash."""
    stem, _, digits = key.rpartition("-")
    return stem if stem and len(digits) == 12 else key
