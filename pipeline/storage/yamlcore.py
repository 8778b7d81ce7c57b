"""YAML text to nodes and back: plain words and numbers as in YAML 1.2, and bounds on what a text may ask for.

PyYAML reads YAML 1.1, where ``010`` is 8, ``1:30`` is 90, ``no`` is false and ``2024-01-01`` is a date. Here a plain
scalar is what YAML 1.2's core schema says: null, true, false, a decimal, ``0o`` or ``0x`` number, else text. What
is written is quoted so that readers of either version agree.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

_PREFIX = "tag:yaml.org,2002:"

#: Bounds on a YAML text. Far above what a job needs, and low enough to be refused at once.
MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_VALUES = 20_000
MAX_DIGITS = 100
TOO_MANY = f"more than {MAX_VALUES:,} values by here (those of an alias *name count again)"

#: Kind of scalar -> how it is written.
_CORE = {
    "null": re.compile(r"null|Null|NULL|~|", re.ASCII),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE", re.ASCII),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII),
    "float": re.compile(
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", re.ASCII
    ),
}
_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "null": "null"}
#: The merge key `<<` is from YAML 1.1, and too useful to lose.
MERGE = f"{_PREFIX}merge"
_RESOLVED = {**_CORE, "merge": re.compile("<<")}


class ScalarError(ValueError):
    """A scalar that can't be read; ``str(error)`` says why."""


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way; filled below

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        self._nodes += 1
        if self._depth > MAX_DEPTH or self._nodes > 2 * MAX_VALUES:  # twice: keys are nodes too
            limit = f"nested more than {MAX_DEPTH} deep" if self._depth > MAX_DEPTH else TOO_MANY
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(None, None, limit, mark)
        node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self._depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes a text that either version of YAML would take for something else."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Other quotes would fold line ends such as U+0085 into something else.
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar(f"{_PREFIX}str", text, style=style)


_Dumper.add_representer(str, _text)
for _kind, _pattern in _RESOLVED.items():
    # PyYAML matches from the start only; None: whatever the first character is.
    _anchored = re.compile(rf"(?:{_pattern.pattern})\Z", re.ASCII)
    _Loader.add_implicit_resolver(_PREFIX + _kind, _anchored, None)  # type: ignore[no-untyped-call]
    _Dumper.add_implicit_resolver(_PREFIX + _kind, _anchored, None)  # type: ignore[no-untyped-call]


def compose(text: str) -> yaml.Node | None:
    """The node tree of a YAML text with one document; None where it is empty.

    Raises:
        yaml.reader.ReaderError: it holds a character that is no text.
        yaml.MarkedYAMLError: it is no YAML, or nested too deep.
    """
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()  # type: ignore[no-untyped-call]
        return node
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def kind_of(node: yaml.Node) -> str:
    """``str``, ``int``, ``map``, ...: the tag of a node; as written where it is none of YAML's own."""
    return str(node.tag).removeprefix(_PREFIX)


def scalar(kind: str, text: str) -> Any:
    """The value of a scalar of a kind.

    Raises:
        ScalarError: the text is not of that kind, is too long a number, or the kind is unknown.
    """
    if kind in ("str", "merge"):
        return text
    if kind not in _CORE:
        raise ScalarError(f"the tag {kind if kind.startswith('!') else '!!' + kind} is not known here; omit it")
    if not _CORE[kind].fullmatch(text):
        raise ScalarError(f"is marked as {_KINDS[kind]} (!!{kind}), but is not written as one")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if len(text) > MAX_DIGITS:
        raise ScalarError(f"is a number of {len(text):,} characters; at most {MAX_DIGITS} are read")
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def plain(text: str) -> Any:
    """The value of ``text`` as a plain scalar: null, true, false, a number, else the text itself.

    Raises:
        ScalarError: it is too long a number.
    """
    kind = next((kind for kind, pattern in _CORE.items() if pattern.fullmatch(text)), "str")
    return scalar(kind, text)


def dump(values: Any) -> str:
    """Plain values as YAML text, in their own order."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def inline(value: Any) -> str:
    """A plain value as YAML on one line, to stand behind ``field: ``."""
    nested = isinstance(value, dict | list)
    text: str = yaml.dump(
        {"x": value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9, default_flow_style=nested
    )
    text = text.strip()
    return (text[1:-1] if nested else text).partition(":")[2].strip()
