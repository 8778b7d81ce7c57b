"""Whole jobs small enough for tests: the tiny checkpoint, a few pictures, a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipeline.jobfile.schema import Job
from pipeline.runner import api
from pipeline.runner.api import Result
from pipeline.workers.local import LocalWorkers
from support.places import DATA


def model_file(folder: Path, name: str = "tiny", weights: Path = DATA / "tiny-ddpm.safetensors") -> Path:
    """A model config that names the tiny checkpoint."""
    architecture = yaml.safe_load((DATA / "tiny-ddpm.yaml").read_text())["model"]
    file = folder / f"{name}.yaml"
    config = {"name": name, "architecture": architecture, "weights": {"path": str(weights)}}
    file.write_text(yaml.safe_dump(config))
    return file


def picture(file: Path, number: int) -> Path:
    """A smooth picture that follows from its number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(number)
    small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC).save(file)
    return file


def job(folder: Path, **changes: Any) -> Job:
    """A job on ``folder/content`` and ``folder/style``; ``changes`` are fields, nested ones as dicts."""
    values: dict[str, Any] = {
        "model": str(model_file(folder)),
        "output": str(folder / "out"),
        "content": str(folder / "content"),
        "style": str(folder / "style"),
        "inversion": {"steps": 4},
        "injection": {"events": 4, "plan": {"grid": 4}},
        "compute": {"actors": 1, "device": "cpu", "batch": 4, "threads": 1},
    }
    for name, value in changes.items():
        there = values.get(name)
        values[name] = {**there, **value} if isinstance(there, dict) and isinstance(value, dict) else value
    return Job.model_validate(values)


def run(job: Job, *stages: str, retry_failed: bool = False) -> Result:
    """Run some stages of a job (by default those up to the banks) in this process."""
    return api.run(
        job, workers=LocalWorkers(), stages=stages or ("shard", "precompute"), quiet=True, retry_failed=retry_failed
    )
