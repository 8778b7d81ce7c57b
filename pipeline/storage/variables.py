"""Environment variables in the texts of a YAML file: ``${NAME}``, and texts that remember how they were written."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from diffstyle.errors import ConfigError
from pipeline.storage.masking import remember

# `${NAME}` or `$NAME`, with a second dollar sign in front where the text itself is meant.
_VARIABLE = re.compile(r"(\$?)\$(?:\{([^}]*)\}|([A-Za-z_]\w*))", re.ASCII)

#: The longest text that variables may make, in characters.
LONGEST = 65_536


class WrittenText(str):
    """A text that knows how it was written before its variables were replaced, and where its relative path starts.

    Attributes:
        written: the text as a job file would say it: with ``${NAME}``, and ``$$`` for a dollar sign before a name.
        replaced: whether anything was replaced.
        base: the folder that it is relative to if it is a path; None: the one of the file that it stands in.
        comment: what follows it on its line of the file, where that begins with `` #``; else empty.
    """

    written: str
    replaced: bool
    base: Path | None
    comment: str

    def __new__(cls, text: str, written: str | None = None, base: Path | None = None) -> WrittenText:
        self = super().__new__(cls, text)
        self.replaced = written is not None
        self.written = escape(text) if written is None else written
        self.base = base
        self.comment = ""
        return self


def expand(text: str, base: Path | None = None) -> WrittenText:
    """``text`` with each ``${NAME}`` replaced by the environment variable's value, and ``$${NAME}`` by ``${NAME}``.

    Raises:
        ConfigError: a variable is not set, or is written as ``$NAME``; or the text becomes too long.
    """
    size = len(text)

    def value_of(match: re.Match[str]) -> str:
        nonlocal size
        if match[1]:
            return match[0][1:]
        if match[3]:
            raise ConfigError(
                f"write ${{{match[3]}}} for the environment variable, or $${match[3]} for the text itself (in {text!r})"
            )
        if match[2] not in os.environ:
            raise ConfigError(f"the environment variable {match[2]} is not set (in {text!r})")
        value = os.environ[match[2]]
        remember(match[2], value)
        size += len(value)
        if size > LONGEST:
            raise ConfigError(f"becomes longer than {LONGEST:,} characters once its variables are replaced")
        return value

    expanded = _VARIABLE.sub(value_of, text)
    return WrittenText(expanded, text if expanded != text else None, base)


def plain_texts(value: Any) -> Any:
    """``value`` with plain texts in it, for a mapping that is handed on as it is."""
    if isinstance(value, Mapping):
        return {plain_texts(key): plain_texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_texts(item) for item in value]
    return str(value) if isinstance(value, WrittenText) else value


#: A mapping of any values, its texts plain.
AnyMapping = Annotated[dict[str, Any], AfterValidator(plain_texts)]


def escape(text: str) -> str:
    """How a YAML file says ``text``, so that no dollar sign in it begins a variable."""
    return re.sub(r"\$(?:\{[^}]*\}|[A-Za-z_]\w*)", r"$\g<0>", text, flags=re.ASCII)
