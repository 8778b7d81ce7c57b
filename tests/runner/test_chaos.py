"""The short form of benchmarks/chaos.py: workers and drivers are killed, and the output is that of a quiet run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).resolve().parents[2] / "benchmarks" / "chaos.py"


@pytest.mark.slow
def test_kills_of_workers_and_drivers_change_nothing(tmp_path):
    sizes = ["--contents", "5", "--styles", "4", "--kills", "4", "--actors", "2", "--nodes", "1", "--pause", "0.3"]
    done = subprocess.run(
        [sys.executable, str(CHAOS), *sizes, "--gap", "2", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 pairs on 2 actors" in done.stdout
    assert "4 kills" in done.stdout
    assert "nothing left over" in done.stdout
