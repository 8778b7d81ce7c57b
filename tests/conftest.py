"""What every test may use: the reference numbers and photographs, where they are there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# Two test workers on a small machine must not each take every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The tests' own servers are here, also where the way to all others leads through a proxy.
os.environ.update(
    {name: ",".join([*os.environ.get(name, "").split(), "127.0.0.1", "localhost"]) for name in ("no_proxy", "NO_PROXY")}
)

# Ray ends workers of a machine whose memory is nearly full, whoever fills it, and those that take a minute to start.
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
os.environ.setdefault("RAY_worker_register_timeout_seconds", "300")

import signal

import pytest
from hypothesis import settings

# Measured batch sizes belong to the user's cache, not to a test's.
_CACHE = tempfile.TemporaryDirectory(prefix="diffstyle-tests-")
os.environ["DIFFSTYLE_CACHE"] = _CACHE.name

# A shell starts background commands with Ctrl-C ignored, and children inherit that; the tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine an example may take any time; the suite has its own time limit. In CI (`.ci/run` says so), the
# examples are the same each time: new ones are tried where somebody works who can look into what they find.
settings.register_profile(
    "diffstyle", parent=settings.get_profile("ci" if "CI" in os.environ else "default"), deadline=None
)
settings.load_profile("diffstyle")

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


@pytest.fixture(params=["ddpm", "adm"])
def unet(request: pytest.FixtureRequest):
    """A network of 16 px with random weights, of either family."""
    from diffstyle.networks.architecture import ADMArchitecture, DDPMArchitecture
    from pipeline.models.load import random_unet

    if request.param == "ddpm":
        return random_unet(DDPMArchitecture(16, 32, (1, 2), 1, (8,)))
    return random_unet(ADMArchitecture(16, 32, (1, 2), 1, (8,), 16, learn_sigma=True))


@pytest.fixture(scope="session")
def ray_session():
    """One real Ray for the whole session, embedded, with room for four small workers whatever the machine has."""
    import logging

    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=256 << 20,
        _system_config={"metrics_report_interval_ms": 1000},  # ten seconds otherwise, for which a test has to wait
    )
    yield ray
    ray.shutdown()
