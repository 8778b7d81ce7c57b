"""A whole job on a GPU: the batch measured there, the network compiled, graphs replayed in the worker's threads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.whole_jobs import CONTENTS, manifest, pictures, run_job

pytestmark = [pytest.mark.cuda, pytest.mark.slow]


@pytest.mark.parametrize(("precision", "compiled"), [("float32", False), ("float16", False), ("float16", True)])
def test_a_job_on_a_gpu(tmp_path: Path, ray_session, precision: str, compiled: bool):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    compute = {"device": "cuda", "precision": precision, "compile": compiled, "batch": "auto"}
    compute |= {"threads": "auto", "tile_seconds": 0.01}  # several tiles, so several threads
    run_job(tmp_path, content={"folder": str(CONTENTS)}, compute=compute)
    assert len(manifest(tmp_path / "out")) == len(pictures(tmp_path / "out")) > 4
    events = [
        json.loads(line) for file in (tmp_path / "out/events").iterdir() for line in file.read_text().splitlines()
    ]
    started = [event for event in events if event["event"] == "worker_started" and "note" in event]
    assert ("compiled CUDA graphs of" in started[-1]["note"]) == compiled
    assert "CUDA graphs of batches of" in started[-1]["note"]
    assert not [event for event in events if event["event"] in ("unit_retried", "worker_died", "unit_failed")]
