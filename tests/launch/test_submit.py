"""`diffstyle submit`: to the job server of a real head on the loopback, and what it says where there is none."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from support import small_jobs
from support.places import DATA
from support.ray_head import free_port, ray_head
from support.scoring_networks import Embedding, network_file
from support.waiting import wait_for
from support.whole_jobs import CONTENTS, SIX_PAIRS, job_file, manifest

import pipeline
from diffstyle.errors import ConfigError
from pipeline.cli.main import main
from pipeline.jobfile.load import load_job
from pipeline.launch import own_files
from pipeline.launch.bundle import portable, write_bundle
from pipeline.models.network_spec import load_network_spec
from pipeline.models.session import ModelFacts, model_facts


def is_listened_on(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def submit(*words: object, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "submit", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)


@pytest.mark.slow
def test_a_job_is_sent_followed_and_its_exit_code_returned(tmp_path):
    pytest.importorskip("aiohttp", reason="needs ray[default]")
    contents = tmp_path / "contents"
    shutil.copytree(CONTENTS, contents)
    (contents / "zz-damaged.png").write_bytes(b"no picture")
    (tmp_path / "job").mkdir()
    weights = shutil.copy(DATA / "tiny-ddpm.safetensors", tmp_path / "job" / "mine.safetensors")
    model = small_jobs.model_file(tmp_path / "job", "mine", Path(weights))
    changes = {"output": str(tmp_path / "out"), "model": str(model), "content": str(contents)}
    job = job_file(tmp_path / "job", **SIX_PAIRS | changes)
    port, agent = free_port(), free_port()
    with ray_head(
        tmp_path / "home",
        True,
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}"),
        *(f"--dashboard-agent-listen-port={agent}", "--metrics-export-port=0"),
    ) as head:
        wait_for(lambda: is_listened_on(agent))  # the job server waits for it for ten seconds, a slow machine for more
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
        assert done.returncode == 3, done.stdout + done.stderr  # the run's own: a picture was rejected
        pairs = 2 * len(list(CONTENTS.iterdir()))
        assert done.stdout.count(f"made {pairs} pairs") == 1
        assert done.stdout.count("rejected 1 picture") == 1
        assert (manifest(tmp_path / "out")["status"] == "ok").sum() == pairs
        ran = load_job(tmp_path / "out" / "job.yaml")
        assert ran.model == str(model)  # and not the copy that was sent, whose folder is gone


def test_nobody_at_the_address(tmp_path):
    with socket.socket() as mute:  # bound and not listening: nobody else takes the port meanwhile
        mute.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
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


def as_seen_there(bundle: Path) -> tuple[ModelFacts, list[dict], str]:
    """Model, networks and the model's path of the job in a bundle."""
    job = load_job(bundle / "job.yaml", check_inputs=True)
    networks = [load_network_spec(file).identity() for file in job.score_networks]
    return model_facts(job.model, job.weights), networks, job.model


@pytest.fixture
def mine(tmp_path) -> Path:
    """A folder with weights, a model's file and a network of the user's."""
    folder = tmp_path / "mine"
    (folder / "weights").mkdir(parents=True)
    shutil.copy(DATA / "tiny-ddpm.safetensors", folder / "weights" / "w.safetensors")
    config = yaml.safe_load(small_jobs.model_file(folder, "own").read_text())
    (folder / "own.yaml").write_text(yaml.safe_dump(config | {"weights": {"path": "weights/w.safetensors"}}))
    return folder


def test_files_of_ones_own_travel_with_the_job(tmp_path, mine):
    network_file(mine, "turned", Embedding(), side=32)
    job = load_job(job_file(mine, model="own.yaml", score={"networks": ["turned.yaml"]}))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    facts, network = model_facts(job.model, None), load_network_spec(mine / "turned.yaml").identity()
    assert write_bundle(bundle, job) == []
    shutil.rmtree(mine)
    sent_facts, networks, model = as_seen_there(bundle)
    assert sent_facts == facts
    assert networks == [network]
    assert model.startswith(str(bundle))


def test_a_run_of_the_copies_writes_down_what_the_user_named(tmp_path, mine, monkeypatch):
    """In the output's job file, the event log, what banks say of the job, and by what batches are kept."""
    network_file(mine, "turned", Embedding(), side=32)
    monkeypatch.setenv("WHERE", str(mine))
    changes = {"model": "own.yaml", "weights": "${WHERE}/weights/w.safetensors", "score": {"networks": ["turned.yaml"]}}
    job = load_job(job_file(mine, **SIX_PAIRS | changes | {"output": str(tmp_path / "out")}))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_bundle(bundle, job)
    pipeline.run(bundle / "job.yaml", local=True, quiet=True, stages=["shard", "precompute", "inject"])
    out = tmp_path / "out"
    written = (out / "job.yaml").read_text()
    assert yaml.safe_load(written) == yaml.safe_load(job.to_yaml())
    named = {"model": str(mine / "own.yaml"), "weights": "${WHERE}/weights/w.safetensors"}
    assert pipeline.LatentBank.open(out / "banks" / "style").about["job"] == named
    other = [file.read_text() for file in [*(out / "events").iterdir(), *out.glob("batches.json")]]
    assert not [text for text in [written, *other] if str(bundle) in text]


@pytest.mark.parametrize("weights", ["weights/w.safetensors", {"path": "weights/w.safetensors", "sha256": "SHA256"}])
def test_weights_that_the_job_names_travel_and_the_models_own_do_not(tmp_path, mine, weights):
    if isinstance(weights, dict):
        weights["sha256"] = hashlib.sha256((mine / "weights" / "w.safetensors").read_bytes()).hexdigest()
    (mine / "own.yaml").write_text((mine / "own.yaml").read_text().replace("weights/w", "weights/other"))
    (mine / "weights" / "other.safetensors").write_bytes(b"others")
    job = load_job(job_file(mine, model="own.yaml", weights=weights))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    assert write_bundle(bundle, job) == []
    assert [file.name for file in (bundle / "own").rglob("*.safetensors")] == ["w.safetensors"]
    shutil.rmtree(mine)
    assert as_seen_there(bundle)[0].name == "own"


def test_large_weights_stay_and_one_line_says_what_to_do(tmp_path, mine, monkeypatch):
    monkeypatch.setattr(own_files, "MOST", 1000)
    job = load_job(job_file(mine, model="own.yaml"))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (line,) = write_bundle(bundle, job)
    file = mine / "weights" / "w.safetensors"
    assert line.startswith(f"{file} (")
    assert line.endswith("every node must see it at that path, or put it at an address (weights: s3://...)")
    assert not list((bundle / "own").rglob("*.safetensors"))
    assert as_seen_there(bundle)[2].endswith("own/model/own.yaml")  # whose weights are where they were


def test_a_mistake_in_a_networks_file_is_told_before_anything_is_sent(tmp_path, mine):
    (mine / "mine.yaml").write_text("name: mine\nnetwork: 3\n")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with pytest.raises(ConfigError, match=r"mine.yaml:2: network"):
        write_bundle(bundle, load_job(job_file(mine, model="own.yaml", score={"networks": ["mine.yaml"]})))
