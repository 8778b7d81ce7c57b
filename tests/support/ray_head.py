"""A cluster's head as a user starts it, with `ray start --head`, in a home and a folder of its own."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.workers.ray_watcher import end_embedded

TOKEN = "0123456789abcdef" * 2

#: What of the machine's own settings would change how Ray authenticates.
_SETTINGS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")


@dataclass(frozen=True)
class Head:
    address: str
    home: Path

    def environment(self, **changes: str) -> dict[str, str]:
        """For a command that would join it: no token but that of its home."""
        plain = {name: value for name, value in os.environ.items() if name not in _SETTINGS}
        plain["PATH"] = f"{Path(sys.executable).parent}:{plain['PATH']}"  # `python` is this one
        return {**plain, "HOME": str(self.home), "RAY_USAGE_STATS_ENABLED": "0", **changes}


#: Ports that neither Ray's workers take nor, as Linux is set up, the system gives to who asks for any.
_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A port that is free, and stays so until it is listened on."""
    for port in random.sample(_PORTS, 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise RuntimeError("no port is free")


@contextlib.contextmanager
def ray_head(home: Path, token: bool, *options: str) -> Iterator[Head]:
    """A head with two CPUs and no dashboard, with the token TOKEN in its ``home`` or without any."""
    (home / ".ray").mkdir(parents=True)
    if token:
        file = home / ".ray" / "auth_token"
        file.touch(mode=0o600)
        file.write_text(TOKEN)
    folder = Path(tempfile.mkdtemp(prefix="rh", dir="/tmp"))
    head = Head(f"127.0.0.1:{free_port()}", home)
    try:
        subprocess.run(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=2"),
                *(f"--port={head.address.rpartition(':')[2]}", f"--temp-dir={folder}"),
                *(options or ("--include-dashboard=false",)),
            ],
            env=head.environment(),
            check=True,
            capture_output=True,
            timeout=400,
        )
        yield head
    finally:
        end_embedded(folder, patience=0)
