"""`diffstyle submit`: to the job server of a real head on the loopback, and what it says where there is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.ray_head import free_port, ray_head
from support.whole_jobs import SIX_PAIRS, job_file, manifest

from pipeline.cli.main import main
from pipeline.jobfile.load import load_job
from pipeline.launch.bundle import portable, write_bundle


def submit(*words: object, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "submit", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)


@pytest.mark.slow
def test_a_job_is_sent_followed_and_its_exit_code_returned(tmp_path):
    pytest.importorskip("aiohttp", reason="needs ray[default]")
    job = job_file(tmp_path / "job", **SIX_PAIRS | {"output": str(tmp_path / "out")})
    port = free_port()
    with ray_head(
        tmp_path / "home",
        True,
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}"),
        *(f"--dashboard-agent-listen-port={free_port()}", "--metrics-export-port=0"),
    ) as head:
        url = f"http://127.0.0.1:{port}"
        refused = submit(job, "--address", url, environment=head.environment(HOME=str(tmp_path)))
        assert refused.returncode == 2
        assert "this cluster wants a token, and this process has none" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1

        # The code that runs there is this one, whatever is installed: the head's own path has none.
        elsewhere = {name: value for name, value in head.environment().items() if name != "PYTHONPATH"}
        command = [sys.executable, "-m", "pipeline", "submit", str(job), "--address", url]
        environment = {**elsewhere, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "made 6 pairs" in done.stdout
        assert done.stdout.count("made 6 pairs") == 1
        assert (manifest(tmp_path / "out")["status"] == "ok").all()

        missing = submit(
            job, "--set", "content.folder=/nowhere", "--address", url, environment=head.environment(LANG="C")
        )
        assert missing.returncode == 2
        assert "error: " in missing.stdout  # the run's own line
        assert "/nowhere" in missing.stdout


def test_nobody_at_the_address(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    done = submit(job_file(tmp_path), "--address", url, environment=dict(os.environ))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --address {url}: no Ray job server there")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--address", "head:8265"], "give the address of the cluster's dashboard, http://HEAD:8265"),
        ([], "give either --address http://HEAD:8265 or --slurm"),
        (["--slurm", "--address", "http://h:1"], "give either"),
        (["--address", "http://h:1", "--env", "NO_SUCH_VARIABLE"], "there is no such variable"),
    ],
)
def test_wrong_options(tmp_path, words, message):
    result = CliRunner().invoke(main, ["submit", str(job_file(tmp_path)), *words])
    assert result.exit_code == 2
    assert message in result.output


def test_what_is_sent_means_the_same_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("STORE_TOKEN", "very-secret")
    job = load_job("tiny", ["output=s3://bucket/${STORE_TOKEN}"])
    write_bundle(tmp_path, job)
    text = (tmp_path / "job.yaml").read_text()
    assert "model: shipped:demo/tiny/tiny-model.yaml" in text
    assert "${STORE_TOKEN}" in text
    assert "very-secret" not in text
    assert load_job(tmp_path / "job.yaml") == job
    # A process with nothing else on its path sees the bundle's own code and demo.
    code = "from pipeline.jobfile.load import load_job; print(load_job('job.yaml', check_inputs=True).model)"
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.strip() == str(tmp_path / "demo/tiny/tiny-model.yaml"), done.stderr
    assert not list(tmp_path.rglob("__pycache__")) or "pipeline" in str(next(tmp_path.rglob("__pycache__")))


def test_paths_of_ones_own_stay(tmp_path):
    job = load_job(job_file(tmp_path))
    assert load_job_text(tmp_path, portable(job)) == job


def load_job_text(folder: Path, text: str):
    (folder / "again.yaml").write_text(text)
    return load_job(folder / "again.yaml")
