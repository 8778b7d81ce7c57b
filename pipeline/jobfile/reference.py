"""What each field of a job means, read from the schema itself: its name, its default, and the docstring below it."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.jobfile.schema import Job
from pipeline.storage.mistakes import models_in


@dataclass(frozen=True)
class FieldOfJob:
    """One field of a job file.

    Attributes:
        path: Its dotted name, as ``--set`` takes it: ``injection.gamma``.
        default: Its default as YAML would have it, ``required``, or empty for a form that is chosen by being given.
        meaning: A phrase of Markdown, of several words.
    """

    path: str
    default: str
    meaning: str


def job_fields() -> list[FieldOfJob]:
    """Every field of a job, nested ones included, in the schema's order. ``style`` is like ``content``: only once."""
    return list(_fields(Job, "", ""))


def table(group: str) -> list[str]:
    """The fields of a group as a table in Markdown.

    Args:
        group: ``injection``, ``compute``, ...; or an empty text for the fields that are in no group.
    """
    rows = ["| field | default | meaning |", "| --- | --- | --- |"]
    for field in job_fields():
        top, _, below = field.path.partition(".")
        if (top if below and top in GROUPS else "") == group:
            default = f"`{field.default}`" if field.default not in ("", "required") else field.default
            rows.append(f"| `{field.path}` | {default} | {field.meaning} |")
    return rows


#: Fields of a job that hold fields, each with a table of its own.
GROUPS = ("content", "inversion", "injection", "pairs", "bank", "pictures", "compute")


def _fields(model: type[BaseModel], prefix: str, form: str) -> Iterator[FieldOfJob]:
    bases = [one for one in model.__mro__ if issubclass(one, BaseModel) and one.__module__ == model.__module__]
    meanings = {name: meaning for one in bases for name, meaning in _docstrings(one).items()}
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        if path == "style":
            meaning, nested = meanings[name], []
        else:
            meaning, nested = meanings.get(name, ""), _models(field)
        if meaning:
            yield FieldOfJob(path, _default(field, form), meaning)
        for inner in nested:
            yield from _fields(inner, f"{path}.", "form" if path not in _PLAIN else "")


#: Groups whose fields are given together; elsewhere a nested field is one of several forms.
_PLAIN = ("inversion", "injection", "bank", "pictures", "compute")


def _default(field: FieldInfo, form: str) -> str:
    if field.is_required():
        return "" if form else "required"
    value = field.default
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if form and value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        before.target.id: " ".join(str(after.value.value).split())
        for before, after in zip(body.body, body.body[1:], strict=False)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }


def _models(field: FieldInfo) -> list[type[BaseModel]]:
    """The models that a field's value may be, each once."""
    annotations = [field.annotation, *field.metadata]
    return list(dict.fromkeys(model for part in annotations for model in models_in(part)))
