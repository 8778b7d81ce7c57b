"""Secrets stay out of what is said and written: the one place that knows which texts are secret, and hides them.

Two kinds are known: the value of an environment variable that a job or config used and whose name says that it is
secret (``${STORE_TOKEN}`` is then shown in its place), and a login in front of a host or bucket (``s3://***@bucket``).
"""

from __future__ import annotations

import functools
import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TextIO, TypeVar, cast

from pipeline.storage.visible import visible

P = ParamSpec("P")
T = TypeVar("T")

#: Names of variables whose values are never shown.
SECRET_NAME = re.compile(r"secret|token|passw|passphrase|pwd|key|credential|auth(?!or)|signature|login", re.IGNORECASE)

# A shorter value would be found in every other word.
_SHORTEST = 4

# `user@`, `user:password@` (a password may hold slashes); `host:8000/a@b` has a port and no login.
_LOGIN = re.compile(r"(?<=://)[^\s/@:]+(?::(?!\d+/)[^\s@]*)?@")

_SECRETS: dict[str, str] = {}


def remember(name: str, value: str) -> None:
    """Note that the variable ``name`` was used; if its name says that it is secret, its value is masked from now on."""
    if SECRET_NAME.search(name) and len(value) >= _SHORTEST:
        from pipeline.storage.identity import source_text  # it imports numpy, which the help should not wait for

        # Also as a path has it (`a//b` is `a/b`) and as a table's column `source` has it (`#` is `%23`).
        plain = posixpath.normpath(value)
        for form in (value, plain, source_text(value), source_text(plain)):
            if len(form) >= _SHORTEST:
                _SECRETS[form] = f"${{{name}}}"


def without_variables(text: str) -> str:
    """``text`` with ``${NAME}`` in place of each secret variable's value."""
    if _SECRETS:
        for value in sorted(_SECRETS, key=len, reverse=True):  # a value may hold another one
            text = text.replace(value, _SECRETS[value])
    return text


def masked(text: str) -> str:
    """``text`` as it may be said or logged: no values of secret variables, no logins in addresses."""
    text = without_variables(text)
    return _LOGIN.sub("***@", text) if "://" in text else text


def has_login(address: str) -> bool:
    """Whether an address holds a user name or password in front of its host or bucket."""
    return _LOGIN.search(address) is not None


class _MaskedStream:
    """A text stream that masks what is written to it, and writes control characters out. All else is the stream's own.

    ``unescaped`` is the same stream for what may give orders to a terminal: colours, bars.
    """

    def __init__(self, stream: TextIO, shown: Callable[[str], str] = visible) -> None:
        self._stream = stream
        self._shown = shown

    @property
    def unescaped(self) -> _MaskedStream:
        return _MaskedStream(self._stream, str)

    def write(self, text: str) -> int:
        self._stream.write(self._shown(masked(text)))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def masking_errors(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates what a program calls: an error that leaves it, and those that caused it, hold no secrets.

    The command line masks all that it says; elsewhere whoever called prints the error.
    """

    @functools.wraps(function)
    def call(*values: P.args, **options: P.kwargs) -> T:
        try:
            return function(*values, **options)
        except Exception as error:
            _mask_error(error, set())
            raise

    return call


def _mask_error(error: BaseException | None, seen: set[int]) -> None:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    error.args = tuple(_mask_value(value) for value in error.args)
    for name, value in vars(error).items():
        if isinstance(value, str | list | tuple):
            setattr(error, name, _mask_value(value))
    if isinstance(error, OSError) and isinstance(error.filename, str):
        error.filename = masked(error.filename)
    _mask_error(error.__cause__, seen)
    _mask_error(error.__context__, seen)


def _mask_value(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    return type(value)(map(_mask_value, value)) if type(value) in (list, tuple) else value


def unescaped(stream: TextIO) -> TextIO:
    """The stream for what may give orders to a terminal, where :func:`masked_output` writes them out."""
    return cast(TextIO, getattr(stream, "unescaped", stream))


@contextmanager
def masked_output() -> Iterator[None]:
    """While inside, stdout and stderr of this process mask what is written, and write control characters out."""
    before = sys.stdout, sys.stderr
    own = tuple(cast(TextIO, _MaskedStream(stream)) for stream in before)
    sys.stdout, sys.stderr = own
    try:
        yield
    finally:  # somebody may have replaced them since, and that stays
        sys.stdout = before[0] if sys.stdout is own[0] else sys.stdout
        sys.stderr = before[1] if sys.stderr is own[1] else sys.stderr
