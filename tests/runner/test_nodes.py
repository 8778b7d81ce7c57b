"""Nodes and drivers come and go, on S3: every pair is made exactly once. Minutes, so not in the default suite."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from support import three_nodes
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures
from support.whole_jobs import CONTENTS, STYLES, job_file

from pipeline.cli.main import main
from pipeline.monitoring.events import read_events
from pipeline.results.manifest import Manifest
from pipeline.storage.place import Place


@pytest.mark.slow
@pytest.mark.long
def test_three_nodes_of_which_one_goes_and_one_comes_and_a_driver_that_is_killed(s3_bucket, tmp_path):  # noqa: F811
    output = f"{s3_bucket}/out"
    job = job_file(
        tmp_path,
        output=output,
        content={"folder": str(CONTENTS), "limit": 3},
        style={"folder": str(STYLES), "limit": 3},
        injection={"gamma": [0.2, 0.4, 0.6, 0.8], "plan": {"grid": 200}},
        compute={"actors": "auto", "batch": 1, "tile_seconds": 0.1},
    )
    done = subprocess.run(
        [sys.executable, three_nodes.__file__, str(job), output],
        capture_output=True,
        text=True,
        timeout=900,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [
        line for line in done.stdout.splitlines() if line in ("killed the driver", "removed a node", "added a node")
    ]
    assert len(steps) == 3
    rows = Manifest(Place.parse(output)).table(["pair", "status", "picture"])
    assert len(rows) == 36
    assert len(set(rows["pair"].to_pylist())) == 36
    assert set(rows["status"].to_pylist()) == {"ok"}
    # Nothing is left over, and all is whole.
    pictures = Place.parse(output) / "pictures"
    assert len(pictures.list(".png", recursive=True)) == 36
    result = CliRunner().invoke(main, ["verify", str(job)])
    assert result.exit_code == 0, result.output
    events = list(read_events(Place.parse(output)))
    started = {event["pid"] for event in events if event["event"] == "worker_started"}
    # Of the second driver, and of the node that came. A store gets the events each 30 s: the first's may be gone.
    assert len(started) >= 3 + 1
    assert [event for event in events if event["event"] == "worker_died"]
