"""YAML files that people write: read with the line of every value, so that a mistake is reported where it stands.

Used for job files and model configs. A mistake is one line: where (``job.yaml:7`` or ``--set injection.gamma``), the
field, what is wrong, and for an unknown name the nearest known one.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from diffstyle.errors import ConfigError

#: The way to a value: keys of mappings and indexes of lists.
Loc = tuple[str | int, ...]

Model = TypeVar("Model", bound=BaseModel)

_VARIABLE = re.compile(r"\$(\$)?\{([^}]*)\}")


class MistakesError(ConfigError):
    """One or more mistakes in a file. ``mistakes`` has a line for each; ``str()`` is the first and how many follow."""

    def __init__(self, mistakes: list[str]) -> None:
        more = len(mistakes) - 1
        super().__init__(mistakes[0] + (f" (and {more} more mistake{'s' * (more > 1)})" if more else ""))
        self.mistakes = mistakes

    def __reduce__(self) -> tuple[type[MistakesError], tuple[list[str]]]:
        return type(self), (self.mistakes,)  # as an exception is rebuilt in another process


@dataclass
class Document:
    """A YAML file's plain value and where each part of it was written."""

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

    def mistake(self, loc: Loc, what: str) -> str:
        """The line that reports a mistake at ``loc``."""
        where, path = self.where(loc), dotted(loc)
        return f"{where}: {what}" if not path or where == f"--set {path}" else f"{where}: {path}: {what}"

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
        """Apply ``a.b=value``, the value read as YAML. Mappings on the way are made where they are absent.

        Args:
            shorthand: turns a short form that the path goes through into a mapping: (loc, value, next key) -> value.

        Raises:
            ConfigError: it is no assignment, its value is no YAML, or the path leads through something else.
        """
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"--set {assignment}: not an assignment; write --set a.b=value")
        origin = f"--set {path.strip()}"
        given = parse_yaml(text, origin, empty=None)
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
        target[keys[-1]] = given.value
        for known in [known for known in self.lines if known[: len(loc)] == loc]:
            del self.lines[known]
        self.sets[loc] = origin

    def validate(self, model: type[Model]) -> Model:
        """Build ``model`` from the value.

        Raises:
            MistakesError: with a line for each mistake, in the order of the file.
        """
        try:
            return model.model_validate(self.value)
        except ValidationError as error:
            found = [self._explained(model, item) for item in error.errors(include_url=False)]
        # One message for a place: of several about one value the first is the nearest to what was meant.
        at = dict(reversed(found))
        raise MistakesError(self.report(at))

    def report(self, found: Mapping[Loc, str]) -> list[str]:
        """The line for each mistake, in the order of the file; those without a place in it come last."""
        order = sorted(found, key=lambda loc: (loc not in self.lines, self.lines.get(loc, 0)))
        return [self.mistake(loc, found[loc]) for loc in order]

    def _explained(self, model: type[BaseModel], item: Any) -> tuple[Loc, str]:
        loc: Loc = ()
        for step in item["loc"]:  # pydantic's path also names the branch of a union it was in; that is left out
            inside = self.get(loc)
            if (isinstance(inside, dict) and step in inside) or (isinstance(inside, list) and isinstance(step, int)):
                loc = (*loc, step)
        if item["type"] == "missing":
            return (*loc, item["loc"][-1]), "is required"
        if item["type"] == "extra_forbidden":
            return loc, unknown("field", str(loc[-1]), _fields_at(model, item["loc"][:-1]))
        return loc, _phrase(item)


def read_yaml(path: str | os.PathLike[str]) -> Document:
    """Read a YAML file whose top is a mapping. ``${NAME}`` in its texts becomes the environment variable's value.

    Raises:
        ConfigError: the file is missing, unreadable, no YAML or no mapping; a key stands twice; a variable is unset.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, not a YAML file") from None
    except PermissionError:
        raise ConfigError(f"{path}: no permission to read it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file (byte {error.start} is not UTF-8)") from None
    document = parse_yaml(text, str(path))
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}: must be a mapping of fields (name: value), not {shown(document.value)}")
    return document


def parse_yaml(text: str, name: str, empty: Any = ...) -> Document:
    """Parse YAML text; ``name`` is what errors call it. Without ``empty``, a text that holds nothing is an error."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: not text: it holds the character {error.character:#06x}") from None
    try:
        node = loader.get_single_node()
        document = Document(name, empty)
        if node is not None:
            document.value = _Reader(loader, document).read(node, (), frozenset())
        elif empty is ...:
            raise ConfigError(f"{name}: is empty")
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{place}: not valid YAML: {reason}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()


class _Reader:
    """From YAML nodes to plain values, noting lines in the document on the way."""

    def __init__(self, loader: yaml.SafeLoader, document: Document) -> None:
        self.loader = loader
        self.document = document

    def read(self, node: yaml.Node, loc: Loc, around: frozenset[int]) -> Any:
        self.document.lines[loc] = node.start_mark.line + 1
        if id(node) in around:
            raise ConfigError(self.document.mistake(loc, "an alias (*name) leads back into itself"))
        around |= {id(node)}
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc, around)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*loc, i), around) for i, item in enumerate(node.value)]
        value = self.loader.construct_object(node)  # type: ignore[no-untyped-call]
        return self._expanded(value, loc) if isinstance(value, str) else value

    def _mapping(self, node: yaml.MappingNode, loc: Loc, around: frozenset[int]) -> dict[str, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = str(getattr(key_node, "value", "")), key_node.start_mark.line + 1
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                self.document.lines[(*loc, key)] = line
                raise ConfigError(self.document.mistake((*loc, key), f"stands twice, first in line {seen[key]}"))
            seen[key] = line
        self.loader.flatten_mapping(node)  # "<<: *name": what it brings comes first, so that own keys win
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(
                    f"{self.document.name}:{key_node.start_mark.line + 1}: a field's name must be plain text"
                )
            inner = (*loc, key_node.value)
            values[key_node.value] = self.read(value_node, inner, around)
            self.document.lines[inner] = key_node.start_mark.line + 1
        return values

    def _expanded(self, text: str, loc: Loc) -> str:
        def value_of(match: re.Match[str]) -> str:
            if match[1]:
                return match[0][1:]  # $${NAME} is the text ${NAME}
            if match[2] not in os.environ:
                raise ConfigError(
                    self.document.mistake(loc, f"the environment variable {match[2]} is not set (in {text!r})")
                )
            return os.environ[match[2]]

        return _VARIABLE.sub(value_of, text)


def dotted(loc: Iterable[str | int]) -> str:
    """``injection.gamma[1].linear``: a path as people write it."""
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    """``unknown field 'gama'; did you mean 'gamma'?``, or the allowed names where none is near."""
    names = sorted(allowed)
    begun = [known for known in names if len(name) > 2 and known.startswith(name.lower())]
    near = begun[:1] or difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(names)}" if names else "none is allowed here"
    return f"unknown {what} '{name}'; {hint}"


def shown(value: Any) -> str:
    """A value as an error message quotes it: short, in YAML's words for nothing, true and false."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict | list | tuple):
        kind = "a mapping" if isinstance(value, dict) else "a list"
        return f"{kind} ({_cut(str(value))})" if value else f"an empty {kind[2:]}"
    return _cut(repr(value) if isinstance(value, str) else str(value))


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


def _phrase(item: Any) -> str:
    """What a pydantic error says, in the words of a job file."""
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
        return f"must have {'at least' if kind == 'too_short' else 'at most'} {wanted} items, not {shown(value)}"
    wanted = _WANTED.get(kind.partition("_")[0])
    return f"must be {wanted}, not {shown(value)}" if wanted else str(item["msg"])


def _fields_at(model: type[BaseModel], loc: Iterable[str | int]) -> list[str]:
    """The names that are allowed in the mapping at ``loc``, for suggestions."""
    models = [model]
    for step in loc:
        inner = [
            m
            for owner in models
            for name, f in owner.model_fields.items()
            if step in (name, f.alias)
            for m in _models_in(f.annotation) + [x for extra in f.metadata for x in _models_in(extra)]
        ]
        tagged = [m for m in models if isinstance(step, str) and step == f"<{m.__name__}>"]
        models = inner or tagged or models
    return [f.alias or name for m in models for name, f in m.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for piece in get_args(annotation) for model in _models_in(piece)]
