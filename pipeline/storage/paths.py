"""The text of a path or address, as a scheme and an absolute path. Nothing here looks at a disk or a store."""

from __future__ import annotations

import os
from pathlib import Path

from diffstyle.errors import ConfigError
from pipeline.storage.masking import has_login, masked

_NO_LOGIN = "an address holds no login; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and give s3://bucket/folder"


def split_address(address: str | os.PathLike[str], base: str | os.PathLike[str] | None = None) -> tuple[str, str]:
    """``("file", absolute path)``, ``("s3", "bucket/key")`` or ``("gs", "bucket/key")``.

    Args:
        address: a path, where ``~`` is the home folder, or ``file://``, ``s3://``, ``gs://`` or ``gcs://``.
        base: the folder that a relative path starts from; by default the working directory.

    Raises:
        ConfigError: another scheme; a login inside the address; a path that no disk can have; a home folder that is not
            known.
    """
    if not isinstance(address, str | os.PathLike):
        raise ConfigError(f"{address!r}: give a path or an address as text, not {type(address).__name__}")
    text = os.fspath(address)
    if "\0" in text:
        raise ConfigError(f"{text!r}: a path can't hold the character NUL")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return "file", os.path.abspath(Path(base or ".") / expand_home(text))  # noqa: PTH100 - no resolving of links
    if has_login(text):
        raise ConfigError(f"{masked(text)}: {_NO_LOGIN}")
    if scheme == "file":
        return "file", os.path.abspath(rest)  # noqa: PTH100
    if scheme in ("s3", "gs", "gcs") and rest.strip("/"):
        return "gs" if scheme == "gcs" else scheme, rest.strip("/")
    if scheme == "hf":
        raise ConfigError(f"{text}: a hub's address is hf://OWNER/NAME or hf://OWNER/NAME@REVISION, for weights alone")
    raise ConfigError(f"{text}: not an address; use a path, s3://bucket/folder or gs://bucket/folder")


def join_address(scheme: str, path: str) -> str:
    """The text of what :func:`split_address` gives."""
    return path if scheme == "file" else f"{scheme}://{path}"


def expand_home(path: str | os.PathLike[str]) -> Path:
    """``path`` with ``~`` or ``~name`` at its start replaced by that home folder.

    Raises:
        ConfigError: that home folder is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0]
        cure = (
            "set HOME or write the path in full" if user == "~" else f"write the path in full (or ./{user} for a name)"
        )
        raise ConfigError(f"{os.fspath(path)}: the home folder {user} is not known; {cure}") from None
