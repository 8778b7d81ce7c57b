"""Whole jobs in this process: a job file as a user writes it, run on ``LocalWorkers``.

Ray and its processes have tests of their own (test_engine, test_run, test_run_command); the others check what a job
means, and starting processes for each of them would take minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from pipeline.jobfile.load import load_job
from pipeline.runner.api import STAGES, Result, run
from pipeline.workers.base import Workers
from pipeline.workers.local import LocalWorkers
from support.places import DATA

MODEL = DATA / "tiny-model.yaml"
CONTENTS, STYLES = DATA / "pictures" / "contents", DATA / "pictures" / "styles"

#: A job of few steps: seconds on one core.
QUICK: dict[str, Any] = {
    "model": str(MODEL),
    "output": "out",
    "content": {"folder": str(CONTENTS), "limit": 2},
    "style": {"folder": str(STYLES), "limit": 2},
    "inversion": {"steps": 6},
    "injection": {"gamma": 0.6, "t_edit": 200, "events": 6, "plan": {"grid": 6}},
    "bank": {"h": "float32"},
    "compute": {"actors": 1, "device": "cpu", "batch": 2, "threads": 1},
}


#: Changes to it: three contents in two styles, even quicker.
SIX_PAIRS = {
    "content": {"folder": str(CONTENTS), "limit": 3},
    "style": {"folder": str(STYLES), "limit": 2},
    "inversion": {"steps": 4},
    "injection": {"gamma": 0.6, "t_edit": 400, "events": 2, "plan": {"grid": 4}},
    "compute": {"batch": 2},
}


def job_file(folder: Path, /, **changes: Any) -> Path:
    """A job file in ``folder``: QUICK with ``changes``; mappings are merged, but for sources and pairs."""
    values = dict(QUICK)
    for name, value in changes.items():
        merge = isinstance(values.get(name), dict) and isinstance(value, dict) and name not in ("content", "style")
        values[name] = {**values[name], **value} if merge else value
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def run_job(
    folder: Path,
    /,
    *overrides: str,
    workers: Workers | None = None,
    stages: Iterable[str] = STAGES[:3],
    retry: bool = False,
    **changes: Any,
) -> Result:
    """Write a job file and run it quietly, in this process unless ``workers`` are given."""
    job = load_job(job_file(folder, **changes), overrides, check_inputs=True)
    return run(job, workers=workers or LocalWorkers(), stages=tuple(stages), quiet=True, retry_failed=retry)


def manifest(out: Path) -> pd.DataFrame:
    """The manifest as anybody would read it, by pair names."""
    return pd.read_parquet(out / "manifest").sort_values("pair", ignore_index=True)


def stem(key: str) -> str:
    """The name that a key was made of."""
    return key.rpartition("-")[0]


def pictures(out: Path) -> dict[tuple[str, str], np.ndarray]:
    """(content's name, style's name) -> uint8 (H, W, 3), of a folder of pictures with one recipe."""
    found = {}
    for row in manifest(out).itertuples():
        with Image.open(out / row.picture) as image:
            found[stem(row.content_key), stem(row.style_key)] = np.asarray(image.convert("RGB"))
    return found


def bank_index(bank: Path) -> pd.DataFrame:
    return pd.read_parquet(bank / "index").sort_values("key", ignore_index=True)


def paint(file: Path, number: int, side: int = 32) -> Path:
    """A smooth picture that follows from its number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(file)
    return file


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """In decibels, of uint8 pictures."""
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
