"""Where downloads and measurements are kept on this machine."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path

from diffstyle.errors import ConfigError
from pipeline.storage.paths import expand_home

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where downloaded files and measurements are kept: ``$DIFFSTYLE_CACHE``, else ``~/.cache/diffstyle``.

    Raises:
        ConfigError: there is no home folder, and no variable that names another one.
    """
    given = os.environ.get("DIFFSTYLE_CACHE")
    if given:
        return expand_home(given).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "diffstyle"
    try:
        return Path.home() / ".cache" / "diffstyle"
    except RuntimeError:
        raise ConfigError("no home folder is known for the cache; set DIFFSTYLE_CACHE to a folder, or HOME") from None


def cache_if_known() -> Path | None:
    """As :func:`cache_folder`, for what is only faster with a cache; None where none is known, which is told once.

    Raises:
        ConfigError: ``DIFFSTYLE_CACHE`` names a folder below a home folder that is not known.
    """
    if os.environ.get("DIFFSTYLE_CACHE"):
        return cache_folder()
    try:
        return cache_folder()
    except ConfigError as error:
        _tell_once(str(error))
        return None


@functools.cache
def _tell_once(why: str) -> None:
    log.warning("nothing is kept in a cache for the next run: %s", why)
