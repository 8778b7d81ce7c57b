"""Licences and attributions of sources, as their own metadata states them, and which of them are allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from diffstyle.errors import ConfigError

#: The fields of a source's metadata that are looked at, whatever their case, the first that says something.
LICENCE_FIELDS = ("licence", "license", "rights")
ATTRIBUTION_FIELDS = ("attribution", "creator", "artist", "author")

_VERSION = re.compile(r"-\d+(\.\d+)*")
_ADDRESS = re.compile(r"creativecommons\.org/(licenses|publicdomain)/([a-z+-]+)/(\d+(?:\.\d+)*)?")
_WORDS = {"universal", "international", "generic", "unported", "licence", "license", "deed", "public", "domain"}
_LONG = {
    "attribution": "by",
    "noncommercial": "nc",
    "sharealike": "sa",
    "noderivatives": "nd",
    "noderivs": "nd",
    "zero": "zero",
}


def rights_of(meta: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """Licence and attribution of each row, as written; null where a source says none.

    Args:
        meta: The JSON that the sources say of themselves, a text or null in each row.
    """
    coded = pc.dictionary_encode(meta).combine_chunks()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.chunk(0) if coded.num_chunks else pa.array([], pa.string()).dictionary_encode()
    stated = [_fields(text) for text in coded.dictionary.to_pylist()]
    licences = pa.array([licence for licence, _ in stated], pa.string())
    attributions = pa.array([attribution for _, attribution in stated], pa.string())
    return licences.take(coded.indices), attributions.take(coded.indices)


def _fields(text: str) -> tuple[str | None, str | None]:
    try:
        values = json.loads(text)
    except ValueError:
        return None, None
    if not isinstance(values, dict):
        return None, None
    lower = {str(name).lower(): value for name, value in values.items()}
    return _first(lower, LICENCE_FIELDS), _first(lower, ATTRIBUTION_FIELDS)


def _first(values: dict[str, object], names: Collection[str]) -> str | None:
    for name in names:
        value = values.get(name)
        if isinstance(value, list):
            value = ", ".join(str(one) for one in value)
        if isinstance(value, str | int | float) and str(value).strip():
            return str(value).strip()
    return None


def licence_ids(text: str) -> list[str]:
    """The licences of a text in their short form: ``CC BY 4.0`` and its address are ``cc-by-4.0``.

    Several where the text has the addresses of several.
    """
    lower = text.strip().lower()
    addresses = [_of_address(*address.groups()) for address in _ADDRESS.finditer(lower)]
    return list(dict.fromkeys(addresses)) or [_of_words(lower)]


def _of_address(kind: str, name: str, version: str | None) -> str:
    short = {"zero": "cc0", "mark": "pdm"}.get(name, name) if kind == "publicdomain" else f"cc-{name}"
    return f"{short}-{version}" if version else short


def _of_words(lower: str) -> str:
    lower = lower.replace("creative commons", "cc")
    words = re.split(r"[^a-z0-9.+]+", lower)
    if words[0] == "cc":
        words = [_LONG.get(word, word) for word in words if word not in _WORDS]
        words = ["cc0", *words[2:]] if words[1:2] in (["zero"], ["0"]) else words
        words = words[1:] if words[1:2] == ["cc0"] else words
    elif words[0] == "cc0":
        words = [word for word in words if word not in _WORDS]
    return "-".join(dict.fromkeys(word for word in words if word))


def allowed_list(text: str) -> tuple[str, ...]:
    """The licences of ``--licence``, a list with commas. ConfigError where it names none."""
    pieces = [piece for piece in text.split(",") if piece.strip()]
    allowed = tuple(dict.fromkeys(one for piece in pieces for one in licence_ids(piece)))
    if not allowed:
        raise ConfigError("--licence: names no licence; for example cc0,cc-by")
    return allowed


def is_allowed(licence: str | None, allowed: Collection[str]) -> bool:
    """Whether a source's licence is one of those; ``cc-by`` allows each version of it, but not ``cc-by-nc``.

    Of a source that names several, each must be: nothing says which of them holds for the picture.
    """
    return licence is not None and all(
        any(named == one or (named.startswith(one) and _VERSION.fullmatch(named[len(one) :])) for one in allowed)
        for named in licence_ids(licence)
    )
