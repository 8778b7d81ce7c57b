"""The peak memory of this process."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path


def peak_mib() -> float:
    """The most resident memory that this process has had, in MiB."""
    if sys.platform == "linux":
        # Not ru_maxrss: there exec carries over what the parent held when it started this process.
        peak_line = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        if peak_line is None:
            raise OSError("/proc/self/status does not tell the peak memory (VmHWM)")
        return int(peak_line[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts in bytes, others in KiB
