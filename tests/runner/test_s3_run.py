"""A whole run with its pictures and its output on S3: moto's server, the first time with Ray's workers, from Python."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from support import small_jobs
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures

from pipeline.banks.columns import read_columns
from pipeline.banks.reader import LatentBank
from pipeline.banks.verify import verify
from pipeline.cli.main import main
from pipeline.results.manifest import Manifest
from pipeline.storage.lock import OutputLock
from pipeline.storage.place import Place


def diffstyle(*args: object) -> str:
    """The command, in this process."""
    result = CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output[-3000:]
    return result.output


def in_a_process(*words: object, returns: int = 0) -> str:
    """What Python says in a process of its own, whose Ray starts with the environment that points at the server."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=dict(os.environ), check=False)
    assert done.returncode == returns, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


# As a notebook would: on Ray, which has ended once the run has.
FROM_PYTHON = """
import sys
import pipeline
print(pipeline.run(pipeline.load_job(sys.argv[1]), quiet=True))
import ray
print("Ray is there:", ray.is_initialized())
"""


@pytest.mark.slow
def test_run_on_s3(s3_bucket, tmp_path):  # noqa: F811 - the fixture
    """Sources, shards, banks, pictures and manifest on S3; growing, the lock, and the bank commands there."""
    for side, numbers in (("content", range(3)), ("style", range(10, 12))):
        for n in numbers:
            file = small_jobs.picture(tmp_path / side / f"{n}.png", n)
            (Place.parse(s3_bucket) / f"{side}/{n}.png").write_bytes(file.read_bytes())
    on_disk = small_jobs.job(tmp_path)
    on_s3 = small_jobs.job(
        tmp_path, content=f"{s3_bucket}/content", style=f"{s3_bucket}/style", output=f"{s3_bucket}/out"
    )
    files = {}
    for name, job in (("disk", on_disk), ("s3", on_s3)):
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(job.to_yaml())
    assert "made 6 pairs" in diffstyle("run", files["disk"], "-q", "--local")
    text = in_a_process("-c", FROM_PYTHON, files["s3"])
    assert "prepared 5 pictures\ninverted 5 pictures\nmade 6 pairs in " in text
    assert text.endswith("\nRay is there: False\n")
    output = Place.parse(on_s3.output)
    for bank in ("content", "style"):
        there = LatentBank.open(output / "banks" / bank)
        here = LatentBank.open(tmp_path / "out" / "banks" / bank)
        assert there.keys() == here.keys()
        for a, b in zip(there, here, strict=True):
            for one, other in ((a.x_t, b.x_t), (a.h, b.h)):
                assert (one is None) == (other is None)
                assert one is None or np.array_equal(one, other)
        assert verify(there.place).ok
    there, here = (
        Manifest(Place.parse(job.output)).table(["pair", "picture_hash", "status"]) for job in (on_s3, on_disk)
    )
    assert sorted(there.to_pylist(), key=str) == sorted(here.to_pylist(), key=str)
    for row in Manifest(output).table(["picture"]).to_pylist():
        assert (output / row["picture"]).is_file()
    assert (output / "events").list(".jsonl")

    # Again: nothing to do; then a new picture, while another process holds the lock and once it does not.
    assert "made 0 pairs; 6 were there already" in diffstyle("run", files["s3"], "-q", "--local")
    new = small_jobs.picture(tmp_path / "new.png", 7)
    (Place.parse(s3_bucket) / "content/new.png").write_bytes(new.read_bytes())
    with OutputLock(output):
        assert "is in use by" in in_a_process("-m", "pipeline", "run", files["s3"], "-q", "--local", returns=2)
    assert "made 2 pairs" in diffstyle("run", files["s3"], "-q", "--local")

    # What else works on a bank there.
    style = f"{on_s3.output}/banks/style"
    assert "PSNR: median" in diffstyle("reconstruct", "--local", style, "--job", files["s3"], "-q")
    assert len(read_columns(style)["psnr"]) == 2
    assert "2 pictures inverted again" in diffstyle("bank", "verify", style, "--reinvert", 2, "--job", files["s3"])
    assert "entries: 4" in diffstyle("bank", "info", f"{on_s3.output}/banks/content")
    # Without this project, as the page says for a disk.
    index = pq.read_table(f"{output.path}/banks/content/index", filesystem=output.fs)
    assert len(index) == 4
