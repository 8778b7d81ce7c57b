"""How a download ends that does not end well."""

from __future__ import annotations

from diffstyle.errors import DiffStyleError


class FetchError(DiffStyleError):
    """A download that did not end well; one line, with what is kept."""


class InterruptedFetchError(FetchError):
    """The part is kept and the same command goes on from there."""

    exit_code = 4


class FullDiskError(InterruptedFetchError):
    """Trying again at once would not help."""


class RefusedError(FetchError):
    """The server gives something else than the file; asking again would not help."""


class NotFoundError(RefusedError):
    """The server has no such file."""
