"""YAML files that people write: read with the line of every value, so that a mistake is reported with its place.

Used for job files and model configs. A mistake is one line: where (``job.yaml:7`` or ``--set injection.gamma``), the
field, what is wrong, and for an unknown name the nearest known one.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from diffstyle.errors import ConfigError
from pipeline.storage.counts import count
from pipeline.storage.masking import masked
from pipeline.storage.mistakes import Loc, dotted, field_paths, fields_at, other_names_at, phrase, shown, unknown
from pipeline.storage.variables import WrittenText, expand
from pipeline.storage.yamlcore import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_VALUES,
    MERGE,
    TOO_MANY,
    ScalarError,
    compose,
    kind_of,
    plain,
    scalar,
)

Model = TypeVar("Model", bound=BaseModel)

_QUOTED = re.compile(r"'(?:[^']|'')*'")
_HOW_TO_QUOTE = "between single quotes, write '' for each single quote"
_MISSING = "is required"


class MistakesError(ConfigError):
    """One or more mistakes in a file. ``mistakes`` has a line for each; ``str()`` is the first and how many follow."""

    def __init__(self, mistakes: list[str]) -> None:
        more = len(mistakes) - 1
        super().__init__(mistakes[0] + (f" (and {count(more, 'more mistake')})" if more else ""))
        self.mistakes = mistakes

    def __reduce__(self) -> tuple[type[MistakesError], tuple[list[str]]]:
        return type(self), (self.mistakes,)  # as an exception is rebuilt in another process


@dataclass
class Document:
    """A YAML file's plain value and where each part of it was written; ``name`` is empty where there is no file."""

    name: str
    value: Any
    lines: dict[Loc, int] = field(default_factory=dict)
    sets: dict[Loc, str] = field(default_factory=dict)

    def where(self, loc: Loc) -> str:
        """``name:line`` of the value at ``loc`` or of the nearest one around it; ``--set a.b`` if that gave it."""
        for end in range(len(loc), 0, -1):
            if loc[:end] in self.sets:
                return self.sets[loc[:end]]
            if loc[:end] in self.lines:
                return f"{self.name}:{self.lines[loc[:end]]}"
        return self.name

    def mistake(self, loc: Loc, message: str) -> str:
        """The line that reports a mistake at ``loc``."""
        where, path = self.where(loc), dotted(loc)
        pieces = [where, "" if where == f"--set {path}" else path, message]
        return masked(": ".join(filter(None, pieces)))

    def get(self, loc: Loc) -> Any:
        """The value at ``loc``, or None where there is none."""
        value = self.value
        for step in loc:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return value

    def override(self, assignment: str, shorthand: Callable[[Loc, Any, str], Any] | None = None) -> None:
        """Apply ``a.b=value``. Mappings on the way are made where they are absent.

        The value is a plain word, text or number, taken as it is (a ``#`` or ``*`` in it means nothing); or YAML in
        quotes, ``[...]`` or ``{key: value}``. Its relative paths start at the working directory.

        Args:
            shorthand: turns a short form that the path goes through into a mapping: (loc, value, next key) -> value.

        Raises:
            ConfigError: not of the form FIELD=VALUE, an unreadable value, or a path that leads through something else.
        """
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"--set {shown(assignment)[1:-1]}: not an assignment; write --set a.b=value")
        origin = f"--set {path.strip()}"
        if len(keys) > MAX_DEPTH:
            raise ConfigError(f"--set {shown(path)[1:-1]}: nested more than {MAX_DEPTH} deep")
        given = _parse_assigned(text, origin)
        target: Any = self.value
        loc: Loc = ()
        for key, following in itertools.pairwise(keys):
            loc = (*loc, key)
            value = target.get(key)
            value = shorthand(loc, value, following) if shorthand else value
            if value is None:
                value = {}
                self.sets[loc] = origin
            if not isinstance(value, dict):
                raise ConfigError(f"{origin}: {dotted(loc)} is not a mapping here, but {shown(value)}")
            target[key] = value
            target = value
        loc = (*loc, keys[-1])
        target[keys[-1]] = given
        for known in [known for known in self.lines if known[: len(loc)] == loc]:
            del self.lines[known]
        self.sets[loc] = origin

    def validate(self, model: type[Model], context: Mapping[str, Any] | None = None) -> Model:
        """Build ``model`` from the value.

        Args:
            model: what the document should be.
            context: handed to the model's validators; see :mod:`pipeline.storage.address`.

        Raises:
            MistakesError: with a line for each mistake, in the order of the file.
        """
        try:
            return model.model_validate(self.value, context=dict(context or {}))
        except ValidationError as error:
            mistakes = [self._explained(model, item) for item in error.errors(include_url=False)]
        first: dict[Loc, str] = {}  # one for a place: of several about one value the first is nearest to what was meant
        for loc, message in mistakes:
            first.setdefault(loc, message)
        raise MistakesError(self.report(first))

    def report(self, mistakes: Mapping[Loc, str]) -> list[str]:
        """The line for each mistake, in the order of the file; those without a place in it come last.

        What is missing comes after what is wrong: a misspelt field is often both.
        """

        def place(loc: Loc) -> tuple[bool, int, bool]:
            return loc not in self.lines, self.lines.get(loc, 0), mistakes[loc] == _MISSING

        order = sorted(mistakes, key=place)
        return [self.mistake(loc, mistakes[loc]) for loc in order]

    def _explained(self, model: type[BaseModel], item: Any) -> tuple[Loc, str]:
        loc: Loc = ()
        for step in item["loc"]:  # pydantic's path also names the branch of a union it was in; that is left out
            inside = self.get(loc)
            if (isinstance(inside, dict) and step in inside) or (isinstance(inside, list) and isinstance(step, int)):
                loc = (*loc, step)
        if item["type"] == "missing":
            return (*loc, item["loc"][-1]), _MISSING
        if item["type"] == "extra_forbidden":
            around = item["loc"][:-1]
            paths = sorted(field_paths(model), key=lambda path: path.count("."))
            names, others = fields_at(model, around), other_names_at(model, around)
            return loc, unknown("field", str(loc[-1]), names, paths, others)
        return loc, phrase(item)


def read_yaml(path: str | os.PathLike[str]) -> Document:
    """Read a YAML file whose top is a mapping. ``${NAME}`` in its texts becomes the environment variable's value.

    Raises:
        ConfigError: the file is missing, unreadable, too large, no YAML or no mapping; a key is given twice; a variable
            is not set.
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, not a YAML file") from None
    except PermissionError:
        raise ConfigError(f"{path}: no permission to read it") from None
    except (OSError, ValueError) as error:  # a name that is too long, a NUL in it
        raise ConfigError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES >> 20} MiB; for many files, name a folder or a pattern")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file (byte {error.start} is not UTF-8)") from None
    document = parse_yaml(text, str(path))
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}: must be a mapping of fields (name: value), not {shown(document.value)}")
    return document


def parse_yaml(text: str, name: str) -> Document:
    """Parse YAML text; ``name`` is what errors call it.

    Raises:
        ConfigError: as for :func:`read_yaml`.
    """
    try:
        node = compose(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: not text: it holds the character {error.character:#06x}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{place}: not valid YAML: {reason}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    if node is None:
        raise ConfigError(f"{name}: is empty")
    document = Document(name, None)
    document.value = _Reader(document, text=text).read(node, (), frozenset())
    return document


def _parse_assigned(text: str, origin: str) -> Any:
    """The value of ``--set a.b=TEXT``.

    A list ``[...]``, a mapping ``{key: value}`` and a text in double quotes are read as YAML. A text in single quotes
    is what stands between them (``''`` for one ``'``). All else is a plain word or number, in which no character has a
    meaning: ``*.tar``, ``run #1``, ``{000..009}.tar``, ``a: b``.
    """
    text = text.strip()
    document = Document(origin, None)
    if _QUOTED.fullmatch(text):  # not by YAML, which folds line ends and refuses control characters
        return _Reader(document, Path.cwd()).text(text[1:-1].replace("''", "'"), ())
    if text[:1] + text[-1:] in ("[]", "{}", "''", '""') and len(text) > 1:
        try:
            node = compose(text)
        except yaml.YAMLError as error:
            if text[0] in "'\"" or isinstance(error, yaml.reader.ReaderError):
                raise ConfigError(f"{origin}: the quotes can't be read: {shown(text)}; {_HOW_TO_QUOTE}") from None
            node = None  # a pattern such as [ab][cd] or {a}{b}
        if node is not None and not _is_braces(node):
            return _Reader(document, Path.cwd()).read(node, (), frozenset())
    try:
        value = plain(text)
    except ScalarError as error:
        raise ConfigError(f"{origin}: {error}") from None
    return _Reader(document, Path.cwd()).text(value, ()) if isinstance(value, str) else value


def _is_braces(node: yaml.Node) -> bool:
    """Whether ``{...}`` holds no ``key: value``: braces of a pattern (``{a,b}``), not a mapping."""
    if not isinstance(node, yaml.MappingNode) or not node.value:
        return False
    return all(value.start_mark.index == value.end_mark.index for _, value in node.value)


class _Reader:
    """From YAML nodes to plain values, noting lines in the document on the way."""

    def __init__(self, document: Document, base: Path | None = None, text: str = "") -> None:
        self.document = document
        self._base = base
        self._values = 0
        self._lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", text)  # as PyYAML counts them

    def read(self, node: yaml.Node, loc: Loc, around: frozenset[int]) -> Any:
        self.document.lines[loc] = node.start_mark.line + 1
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._mistake(loc, TOO_MANY)
        if id(node) in around:
            raise self._mistake(loc, "an alias (*name) contains itself")
        if len(loc) > MAX_DEPTH:
            raise self._mistake(loc, f"nested more than {MAX_DEPTH} deep")
        around |= {id(node)}
        kind = kind_of(node)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, loc, around)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.read(item, (*loc, i), around) for i, item in enumerate(node.value)]
        try:
            value = scalar(kind, str(node.value) if isinstance(node, yaml.ScalarNode) else "")
        except ScalarError as error:
            raise self._mistake(loc, str(error)) from None
        if not isinstance(value, str):
            return value
        written = self.text(value, loc)
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            written.comment = self._comment(node.end_mark)
        return written

    def _comment(self, end: yaml.Mark) -> str:
        """What follows a plain text on its line, with the space before it, where that is a comment."""
        line = self._lines[end.line] if end.line < len(self._lines) else ""
        rest = line[end.column :]
        return rest if rest.lstrip().startswith("#") else ""

    def _mapping(self, node: yaml.MappingNode, loc: Loc, around: frozenset[int]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        values: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{self.document.name}:{line}: a field's name must be plain text")
            if key_node.tag == MERGE:
                merged = self._merged(value_node, loc, around) | merged
                continue
            key, inner = key_node.value, (*loc, key_node.value)
            if key in first_lines:
                self.document.lines[inner] = line
                raise self._mistake(inner, f"is given twice, first in line {first_lines[key]}")
            first_lines[key] = line
            values[key] = self.read(value_node, inner, around)
            self.document.lines[inner] = line
        return merged | values

    def _merged(self, node: yaml.Node, loc: Loc, around: frozenset[int]) -> dict[str, Any]:
        """What ``<<: *name`` or ``<<: [*one, *other]`` brings. Own fields win over it, the first over the others."""
        merged: dict[str, Any] = {}
        line = self.document.lines[loc]
        for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(part, yaml.MappingNode):
                raise ConfigError(f"{self.document.name}:{part.start_mark.line + 1}: << takes mappings (<<: *name)")
            merged = self.read(part, loc, around) | merged
        self.document.lines[loc] = line
        return merged

    def text(self, value: str, loc: Loc) -> WrittenText:
        """A text with its variables replaced; it remembers how it was written."""
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self._mistake(loc, "holds bytes or characters that are no text (not UTF-8)") from None
        try:
            return expand(value, self._base)
        except ConfigError as error:
            raise self._mistake(loc, str(error)) from None

    def _mistake(self, loc: Loc, message: str) -> ConfigError:
        return ConfigError(self.document.mistake(loc, message))
