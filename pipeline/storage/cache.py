"""Where downloads and measurements are kept on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where downloaded files and measurements are kept: ``$DIFFSTYLE_CACHE``, else ``~/.cache/diffstyle``."""
    given = os.environ.get("DIFFSTYLE_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "diffstyle"
