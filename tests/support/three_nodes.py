"""A program: a job whose storage is S3, on three simulated nodes; its driver is killed, a node goes, another comes.

It is a process of its own, since a process can start Ray's clusters in one way of authentication alone. It prints what
it did, and ends with the exit code of the last driver. Called with the job file and its output.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any


def main(job: str, output: str) -> int:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        first = start(job, cluster)
        wait_for_pairs(output, 3, first)
        first.kill()
        first.wait()
        print("killed the driver", flush=True)
        second = start(job, cluster)
        wait_for_pairs(output, done(output) + 3, second)
        cluster.remove_node(nodes[0], allow_graceful=False)
        print("removed a node", flush=True)
        wait_for_pairs(output, done(output) + 3, second)
        cluster.add_node(num_cpus=1)
        print("added a node", flush=True)
        return second.wait(timeout=600)
    finally:
        cluster.shutdown()


def start(job: str, cluster: Any) -> subprocess.Popen[bytes]:
    """A driver, as from the shell."""
    words = [sys.executable, "-m", "pipeline", "run", job, "--address", cluster.address, "--quiet"]
    return subprocess.Popen(words)


def done(output: str) -> int:
    """How many pairs are in the manifest."""
    from pipeline.results.manifest import Manifest
    from pipeline.storage.place import Place

    return Manifest(Place.parse(output)).counts()[0]


def wait_for_pairs(output: str, n: int, driver: subprocess.Popen[bytes]) -> None:
    """Until so many are made."""
    give_up = time.monotonic() + 400
    while done(output) < n:
        if driver.poll() is not None:
            raise SystemExit(f"the driver ended with {driver.returncode} after {done(output)} pairs")
        if time.monotonic() > give_up:
            raise SystemExit(f"{done(output)} pairs after a long time")
        time.sleep(0.3)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
