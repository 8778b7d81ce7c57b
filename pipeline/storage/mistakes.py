"""Mistakes in the words of a YAML file: where, what is wrong, and for an unknown name the nearest known one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_args

from pydantic import AfterValidator, BaseModel

from pipeline.storage.counts import count
from pipeline.storage.variables import WrittenText

#: The way to a value: keys of mappings and indexes of lists.
Loc = tuple[str | int, ...]


def dotted(loc: Iterable[str | int]) -> str:
    """``injection.gamma[1].linear``: a path as people write it."""
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def unknown(
    kind: str,
    name: str,
    allowed: Iterable[str],
    elsewhere: Sequence[str] = (),
    other_names: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """``unknown field 'gama'; did you mean 'gamma'?``, or the allowed names where none is near.

    What may be in its place comes before what has just that name elsewhere, unless it is only somewhat near.

    Args:
        kind: what kind of name it is.
        name: the unknown one.
        allowed: the names that may be in its place.
        elsewhere: dotted paths of names that may be in other places, such as ``injection.gamma``.
        other_names: what people call some of the allowed ones, see :func:`other_names_at`.
    """
    names = sorted(allowed)
    word = name.lower()
    begun = [known for known in names if len(name) > 2 and known.startswith(word)]
    called = [other_names[word]] if other_names.get(word) in names else []
    moved = [path for path in elsewhere if path.rpartition(".")[2] == word]
    near = begun[:1] or called or difflib.get_close_matches(word, names, n=1, cutoff=0.75)
    near = near or moved[:3] or difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not near:
        lasts = difflib.get_close_matches(word, {path.rpartition(".")[2] for path in elsewhere}, n=1, cutoff=0.75)
        near = [path for path in elsewhere if path.rpartition(".")[2] in lasts][:3]
    allowed_names = f"allowed: {', '.join(names)}" if names else "no name is allowed here"
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else allowed_names
    return f"unknown {kind} {shown(name)}; {hint}"


def shown(value: Any) -> str:
    """A value as an error message quotes it: short, as it was written, in YAML's words for nothing, true and false."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict | list | tuple):
        kind = "a mapping" if isinstance(value, dict) else "a list"
        return f"{kind} ({_cut(str(value))})" if value else f"an empty {kind[2:]}"
    if isinstance(value, str):
        return _cut(repr(value.written if isinstance(value, WrittenText) and value.replaced else str(value)))
    return _cut(str(value))


def _cut(text: str, limit: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "model": "a mapping of fields",
    "dict": "a mapping of fields",
}
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def hint(value: Any) -> str:
    """What may have been meant by a text that is not what a field takes: a list, or a mapping; begins with "; "."""
    text = str(value).strip() if isinstance(value, str) else ""
    if text[:1] in _ENDS and not text.endswith(_ENDS[text[:1]]):
        return f"; what begins with {text[0]} ends with {_ENDS[text[0]]}"
    if text[:1] == "{" and re.search(r":\S", text):
        spaced = re.sub(r":(?=\S)", ": ", text)
        return f"; with a space after the colon, {spaced} is a mapping"
    parts = [part.strip() for part in text.strip("()").split(",")]
    if len(parts) > 1 and all(re.fullmatch(r"[-+.\deE]+", part) for part in parts):
        return f"; a list is written [{', '.join(parts)}]"
    return ""


_ENDS = {"[": "]", "{": "}"}


def phrase(item: Any) -> str:
    """What a pydantic error says, in the words of a job file."""
    return _phrase(item) + hint(item["input"])


def _phrase(item: Any) -> str:
    kind, context, value = item["type"], item.get("ctx", {}), item["input"]
    if kind in _LIMITS:
        word, key = _LIMITS[kind]
        return f"must be {word} {context[key]}, not {shown(value)}"
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", context["expected"])
        near = difflib.get_close_matches(str(value).lower(), names, n=1) if isinstance(value, str) else []
        return f"must be {context['expected']}, not {shown(value)}" + (f"; did you mean '{near[0]}'?" if near else "")
    if kind in ("value_error", "assertion_error"):
        return str(item["msg"]).partition(", ")[2] or str(item["msg"])
    if kind in ("too_short", "too_long"):
        wanted = context.get("min_length", context.get("max_length"))
        bound = f"{'at least' if kind == 'too_short' else 'at most'} {count(wanted, 'item')}"
        return f"must have {bound}, not {shown(value)}"
    wanted = _WANTED.get(kind.partition("_")[0])
    return f"must be {wanted}, not {shown(value)}" if wanted else str(item["msg"])


def matching(pattern: str, words: str) -> AfterValidator:
    """Metadata of a text field: it must match a regular expression, which a mistake says in ``words``."""

    def check(text: str) -> str:
        if re.search(pattern, text) is None:
            raise ValueError(f"must be {words}, not {shown(text)}")
        return text

    return AfterValidator(check)


def fields_at(model: type[BaseModel], loc: Iterable[str | int]) -> list[str]:
    """The names that are allowed in the mapping at ``loc``, for suggestions."""
    return [field.alias or name for one in _models_at(model, loc) for name, field in one.model_fields.items()]


def _models_at(model: type[BaseModel], loc: Iterable[str | int]) -> list[type[BaseModel]]:
    models = [model]
    for step in loc:
        inner = [
            m
            for owner in models
            for name, f in owner.model_fields.items()
            if step in (name, f.alias)
            for m in models_in(f.annotation) + [x for extra in f.metadata for x in models_in(extra)]
        ]
        tagged = [m for m in models if isinstance(step, str) and step == f"<{m.__name__}>"]
        models = inner or tagged or models
    return models


def other_names_at(model: type[BaseModel], loc: Iterable[str | int]) -> dict[str, str]:
    """What people call the fields in the mapping at ``loc``: the ``OTHER_NAMES`` of its models, which they may have."""
    return {word: name for one in _models_at(model, loc) for word, name in getattr(one, "OTHER_NAMES", {}).items()}


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for piece in get_args(annotation) for model in models_in(piece)]


def field_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted path of every field, nested ones after the one around them. A model must not hold itself."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        yield path
        for inner in models_in(field.annotation) + [model for extra in field.metadata for model in models_in(extra)]:
            yield from field_paths(inner, f"{path}.")
