"""The systems that this runs on."""

from __future__ import annotations

import sys


def unsupported_system() -> str | None:
    """Why it can't run here, in one line; None on Linux and macOS.

    Locks and reading banks rest on POSIX (``fcntl``, ``preadv``, signals), which no other system has whole.
    """
    if sys.platform in ("linux", "darwin"):
        return None
    system = {"win32": "Windows", "cygwin": "Cygwin"}.get(sys.platform, sys.platform)
    return f"DiffStyle runs on Linux and macOS, not on {system}; on Windows use WSL 2 (wsl --install), which is a Linux"
