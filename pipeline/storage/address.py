"""Paths and addresses as fields of a pydantic model: absolute once validated, and they remember how they were written.

A relative path starts at the folder ``BASE`` of pydantic's validation context: the folder of the file that is read.
Without one, as for a model built in Python, and for texts that bring their own base (``--set``), it is the working
directory or that base. ``shipped:demo/contents`` is what travels with the code, to be read only. Under ``CHECK_INPUTS``
what is to be read must be there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, ValidationInfo, WrapValidator

from diffstyle.errors import ConfigError
from pipeline.storage.mistakes import shown
from pipeline.storage.paths import join_address, split_address
from pipeline.storage.shipped import SHIPPED, shipped_path
from pipeline.storage.variables import WrittenText, escape

#: Keys of the validation context: the folder that relative paths start from; whether inputs must be there.
BASE = "base"
CHECK_INPUTS = "check_inputs"

#: In the serialization context: texts are written as in a job file, with ``${NAME}`` where a variable was used.
AS_WRITTEN = "as_written"

_LONGEST_NAME = 255  # bytes, on every file system that matters


def _serialized(value: str, info: Any) -> str:
    if not (info.context or {}).get(AS_WRITTEN):
        return str(value)
    return value.written if isinstance(value, WrittenText) else escape(value)


_WRITTEN_AGAIN = PlainSerializer(_serialized, return_type=str)


def _keep_written(value: Any, handler: Callable[[Any], str]) -> str:
    text = handler(value)
    return value if isinstance(value, WrittenText) and value.replaced else str(text)


#: A text that is written again as it was written, its variables in place.
Text = Annotated[str, Field(min_length=1), WrapValidator(_keep_written), _WRITTEN_AGAIN]


def resolving(
    *,
    word: Callable[[str], Any] | None = None,
    reads: bool = False,
    pattern: bool = False,
    local: bool = False,
    writes: bool = False,
) -> WrapValidator:
    """What makes a text field an address.

    Args:
        word: which texts are words and no addresses (``random:3``); they stay as they are.
        reads: it is an input, which must be there under ``CHECK_INPUTS``.
        pattern: ``*``, ``?``, ``[...]`` and ``{...}`` may stand for several files; then nothing is looked for.
        local: it must be on a local disk.
        writes: it is written to, so it can't be what travels with the code.
    """

    def resolve(value: Any, handler: Callable[[Any], str], info: ValidationInfo) -> str:
        if isinstance(value, bool | int | float):
            raise ValueError(f"must be text, not {shown(value)}; for a path of that name, put it in quotes: '{value}'")
        text = str(handler(value))
        if not text.strip():
            raise ValueError("is empty; give a path or s3://bucket/folder")
        if word is not None and word(text):
            return _keep_written(value, handler)
        context = info.context or {}
        base = (value.base if isinstance(value, WrittenText) else None) or context.get(BASE) or Path.cwd()
        shipped = text.startswith(SHIPPED)
        comment = value.comment.strip() if isinstance(value, WrittenText) else ""
        if writes and re.fullmatch(r"#\d+", comment):  # else `run #1` and `run #2` would be one output
            raise ValueError(f"{text}: YAML takes {comment} for a comment; put a path with a # in quotes")
        if shipped and writes:
            raise ValueError(f"{text}: what comes with DiffStyle is only read; give a folder of your own")
        try:
            scheme, path = split_address(shipped_path(text) if shipped else text, base)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if scheme != "file" and local:
            raise ValueError(f"must be on a local disk, not {text}; copy it there")
        if scheme == "file" and not (pattern and any(sign in text for sign in "*?[{")):
            _check_names(path)
            if reads and context.get(CHECK_INPUTS):
                _check_presence(path, value)
        resolved = join_address(scheme, path)
        if not isinstance(value, WrittenText) or not value.replaced:
            return resolved
        # Written so that it means the same in a file in any folder.
        absolute = shipped or "://" in text or text.startswith(("/", "~"))
        return WrittenText(resolved, value.written if absolute else f"{escape(os.fspath(base))}/{value.written}")

    return WrapValidator(resolve)


def _check_names(path: str) -> None:
    for name in path.split("/"):
        size = len(os.fsencode(name))
        if size > _LONGEST_NAME:
            raise ValueError(f"{shown(name)} is {size} bytes long; the name of a file or folder has at most 255")


def _check_presence(path: str, written: Any) -> None:
    comment = written.comment if isinstance(written, WrittenText) else ""
    try:
        present = Path(path).exists()
        if comment and Path(f"{path}{comment}".rstrip()).exists():
            raise ValueError(
                f"{path}: YAML takes {comment.strip()} for a comment, but {path}{comment.rstrip()} is there too; put "
                "the path in quotes, or remove the comment"
            )
    except OSError as error:
        raise ValueError(f"{path}: can't be looked at ({error.strerror})") from None
    if present:
        return
    cure = ""
    if re.match(r"\s*#\S", comment):
        cure = f"; YAML takes {comment.strip()} for a comment: put a path with a # in quotes"
    elif "," in path:
        cure = "; a list is written [a, b]"
    raise ValueError(f"{path}: no such file or folder{cure}")


#: A file or folder, anywhere, that is written.
Address = Annotated[str, resolving(writes=True), _WRITTEN_AGAIN]
#: A file or folder that is read.
InputAddress = Annotated[str, resolving(reads=True), _WRITTEN_AGAIN]
#: A file or folder on a local disk.
LocalPath = Annotated[str, resolving(local=True), _WRITTEN_AGAIN]
#: The same, read by a job.
LocalInput = Annotated[str, resolving(local=True, reads=True), _WRITTEN_AGAIN]
#: Files or folders that are read; patterns are allowed.
InputPattern = Annotated[str, resolving(reads=True, pattern=True), _WRITTEN_AGAIN]


def local_or_word(word: Callable[[str], Any], reads: bool = False) -> tuple[WrapValidator, PlainSerializer]:
    """The two pieces for ``Annotated`` that make a text a local path, or one of the words that are none."""
    return resolving(word=word, reads=reads, local=True), _WRITTEN_AGAIN


def address_or_word(word: Callable[[str], Any], reads: bool = False) -> tuple[WrapValidator, PlainSerializer]:
    """As :func:`local_or_word`, where an address of a store will do too."""
    return resolving(word=word, reads=reads), _WRITTEN_AGAIN
