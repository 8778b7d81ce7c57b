"""A pipe in an output folder hangs nothing: it is no file, as if nothing were there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.whole_jobs import SIX_PAIRS, run_job

ROOT = Path(__file__).parents[2]

#: Files of an output that a pipe may have taken the place of, as patterns.
FILES = (
    *("plan.json", "batches.json", "output.json", "manifest/*.parquet", "pictures/*/*.png", "contact-sheets/*.png"),
    *("banks/content/description.json", "banks/content/index/*.parquet", "banks/style/data/*.parquet"),
    *("shards/content/data/*.tar", "shards/style/index/*.parquet", "shards/style/description.json", "job.yaml"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run_job(folder, **SIX_PAIRS)
    return folder


def ended(*words: object) -> tuple[int, str]:
    """The exit code of a command, which must end."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("pattern", FILES)
def test_a_pipe_in_place_of_a_file(finished, tmp_path, pattern):
    shutil.copytree(finished, tmp_path / "copy")
    out = tmp_path / "copy" / "out"
    files = sorted(out.glob(pattern))
    if pattern == "batches.json" and not files:
        files = [out / "batches.json"]
    assert files
    files[0].unlink(missing_ok=True)
    os.mkfifo(files[0])
    for words in (("verify", out), ("run", tmp_path / "copy" / "job.yaml", "--local", "--quiet")):
        code, text = ended(*words)
        assert code in (0, 2, 3, 4), text
        assert "Traceback" not in text


def test_pipes_beside_the_files_change_nothing(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    out = tmp_path / "copy" / "out"
    for folder in [out, *(path for path in out.rglob("*") if path.is_dir() and ".lock" not in path.parts)]:
        for name in ("pipe.parquet", "pipe.png", "pipe.tar", "pipe.jsonl", "pipe.json"):
            os.mkfifo(folder / name)
    for words in (("run", tmp_path / "copy" / "job.yaml", "--local", "--quiet"), ("verify", out), ("status", out)):
        code, text = ended(*words)
        assert code == 0, text
