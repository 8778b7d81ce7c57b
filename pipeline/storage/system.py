"""The systems that this runs on."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path


def unsupported_system() -> str | None:
    """Why it can't run here, in one line; None on Linux and macOS.

    Locks and reading banks rest on POSIX (``fcntl``, ``preadv``, signals), which no other system has whole.
    """
    if sys.platform in ("linux", "darwin"):
        return None
    system = {"win32": "Windows", "cygwin": "Cygwin"}.get(sys.platform, sys.platform)
    return f"DiffStyle runs on Linux and macOS, not on {system}; on Windows use WSL 2 (wsl --install), which is a Linux"


def processor() -> str:
    """This machine's processor by name."""
    info = Path("/proc/cpuinfo")
    if info.is_file() and (named := re.search(r"model name\s*: (.*)", info.read_text())):
        return named.group(1)
    return platform.processor() or platform.machine()
