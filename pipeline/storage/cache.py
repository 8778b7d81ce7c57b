"""Where downloads and measurements are kept on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from diffstyle.errors import ConfigError
from pipeline.storage.paths import expand_home


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
