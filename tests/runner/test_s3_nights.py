"""Nights on a bad S3: slow, throttling, with torn uploads, lost answers and late listings, and drivers that are killed.

The output is that of an undisturbed run, whatever happened.
"""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import boto3
import pytest
from support.s3 import s3_bucket, s3_endpoint, s3_store  # noqa: F401 - fixtures
from support.s3_faults import Faults, FaultyStore
from support.whole_jobs import CONTENTS, SIX_PAIRS, STYLES, job_file, run_job

from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.runner.verify import verify_run
from pipeline.storage.place import Place

# Fewer of them where time matters: each costs a pause.
# So often that each comes up in every short night, in whatever order threads ask.
SOME = Faults(latency=0.005, slow_down=0.05, torn=0.12, lost=0.15, stale=3.0)
BAD = Faults(latency=0.02, slow_down=0.05, torn=0.05, lost=0.05, stale=3.0)


def upload(bucket: Place, contents: int, styles: int) -> None:
    """The data set of the job, on the store."""
    for side, folder, n in (("content", CONTENTS, contents), ("style", STYLES, styles)):
        for file in sorted(folder.iterdir())[:n]:
            (bucket / side / file.name).write_bytes(file.read_bytes())


def results(out: Place) -> dict[str, dict]:
    """Pair -> its row, without times, and the bytes of its picture. Each pair is in one row."""
    rows = Manifest(out).store.rows(MANIFEST_SCHEMA).to_pylist()
    assert len({row["pair"] for row in rows}) == len(rows)
    made = {}
    for row in rows:
        name, _, member = row["picture"].partition("#")
        data = (out / name).read_bytes()
        made[row["pair"]] = {n: row[n] for n in ("content_key", "style_key", "settings", "status", "picture_hash")}
        made[row["pair"]]["bytes"] = _member(data, member) if member else data
    return made


def _member(data: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.extractfile(name).read()


def left_over(out: Place, endpoint: str) -> list[str]:
    """What lies in the output and nothing names, and uploads that never ended."""
    named = {row["picture"].partition("#")[0] for row in Manifest(out).table(["picture"]).to_pylist()}
    stray = [entry.place.relative_to(out) for entry in (out / "pictures").list(recursive=True)]
    uploads = boto3.client("s3", endpoint_url=endpoint).list_multipart_uploads(Bucket=out.path.partition("/")[0])
    return [name for name in stray if name not in named] + [one["Key"] for one in uploads.get("Uploads", [])]


class Killer:
    """Kills a driver at one of its writes: before it is carried out, in the middle of it, or once it is."""

    def __init__(self, store: FaultyStore, at: int, how: str) -> None:
        self.store, self.at, self.how = store, store.writes + at, how
        self.killed = threading.Event()
        self.where = ""
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Killer:
        self.store.on_write = self
        return self

    def __exit__(self, *exc: object) -> None:
        self.store.on_write = None

    def __call__(self, number: int, kind: str, path: str) -> bool:
        if number != self.at or self.process is None:
            return False
        self.where = f"{self.how} {kind} {path}"
        if self.how == "after":
            threading.Timer(0.05, self._kill).start()
            return False
        self._kill()
        return True

    def _kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.killed.set()


def drive(job: Path, killer: Killer | None, *how: str) -> int:
    """A driver, as from the shell, killed as ``killer`` says; its exit code."""
    command = [sys.executable, "-m", "pipeline", "run", str(job), "--quiet", *how]
    with open(job.with_suffix(".log"), "ab") as log:  # noqa: PTH123
        process = subprocess.Popen(command, env=dict(os.environ), stdout=log, stderr=log)
        if killer is not None:
            killer.process = process
        return process.wait(timeout=600)


def night(data: Place, out: Place, to: str, contents: int, styles: int) -> dict:
    """The changes of a job: where its data set and its output are, and whether pictures go into files or into tars."""
    return SIX_PAIRS | {
        "output": str(out),
        "content": {"folder": str(data / "content"), "limit": contents},
        "style": {"folder": str(data / "style"), "limit": styles},
        "bank": {"h": "float32", "part_size": 1},
        "pictures": {"to": to},
        "compute": {"batch": 1, "tile_seconds": 0.01, "actors": 1, "device": "cpu", "threads": 1},
    }


def undisturbed(folder: Path, to: str, contents: int, styles: int) -> dict:
    """The results of the same job on a disk, where nothing goes wrong."""
    data, out = Place.parse(folder / "data"), Place.parse(folder / "out")
    upload(data, contents, styles)
    run_job(folder, **night(data, out, to, contents, styles))
    made = results(out)
    assert len(made) == contents * styles
    return made


def assert_as(out: Place, quiet: dict, endpoint: str) -> None:
    """The same pairs and pictures, whole, and nothing besides."""
    assert results(out) == quiet
    assert verify_run(out).problems == []
    assert left_over(out, endpoint) == []


def test_a_night_with_faults_and_a_killed_driver(s3_bucket, s3_store, s3_endpoint, tmp_path):  # noqa: F811
    """The short form of the ten kills below: the driver is killed at one write, and the next run ends the job."""
    quiet = undisturbed(tmp_path / "quiet", "webdataset", 2, 1)
    bucket = Place.parse(s3_bucket)
    upload(bucket, 2, 1)
    changes = night(bucket, bucket / "out", "webdataset", 2, 1)
    s3_store.set(SOME)
    with Killer(s3_store, 22, "middle") as killer:
        code = drive(job_file(tmp_path, **changes), killer, "--local")
    assert code == -signal.SIGKILL, (tmp_path / "job.log").read_text()
    run_job(tmp_path, **changes)
    s3_store.set(Faults())
    run_job(tmp_path, **changes)  # the next night, which cleans up
    assert {"slow_down", "torn", "lost"} <= set(s3_store.caused)
    assert_as(bucket / "out", quiet, s3_endpoint)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("to", ["folder", "webdataset"])
def test_ten_kills_in_a_bad_night(s3_bucket, s3_store, s3_endpoint, tmp_path, to):  # noqa: F811
    """Before, in and after writes that a seed chooses; two of the drivers have Ray's workers."""
    quiet = undisturbed(tmp_path / "quiet", to, 4, 3)
    bucket = Place.parse(s3_bucket)
    upload(bucket, 4, 3)
    job = job_file(tmp_path, **night(bucket, bucket / "out", to, 4, 3))
    generator = random.Random(14)
    killed = runs = 0
    done = False
    while killed < 10:
        runs += 1
        assert runs < 40
        s3_store.set(Faults(**{**vars(BAD), "seed": runs}))
        how = ("before", "middle", "after")[runs % 3]
        at = generator.randint(1, 4) if done else generator.randint(3, 45)
        with Killer(s3_store, at, how) as killer:
            code = drive(job, killer, *([] if runs in (3, 7) else ["--local"]))
        print(f"run {runs}: code {code}, {killer.where or 'not killed'}", flush=True)
        assert code in (-signal.SIGKILL, 0), (tmp_path / "job.log").read_text()[-3000:]
        killed += code == -signal.SIGKILL
        done = done or code == 0
    code = drive(job, None, "--local")
    s3_store.set(Faults())
    assert drive(job, None, "--local") == 0  # the next night, which cleans up
    print(dict(s3_store.caused), dict(s3_store.counts))
    assert_as(bucket / "out", quiet, s3_endpoint)
