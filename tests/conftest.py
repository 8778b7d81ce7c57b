"""What every test may use: the reference numbers and photographs, where they are there."""

from __future__ import annotations

import os
from pathlib import Path

# Two test workers on a small machine must not each take every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference numbers and photographs that lies beside the project; absent for most users."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the project")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden"
