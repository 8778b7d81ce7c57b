"""Weights that a job or a model's file names by address: fetched once a machine, and only those that they must be."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.places import DATA
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures
from support.small_jobs import model_file
from support.whole_jobs import QUICK, job_file, manifest, run_job

from diffstyle.errors import CheckpointError, ConfigError
from pipeline.jobfile.load import load_job
from pipeline.models import download
from pipeline.models.config import WeightsChoice, load_model_config
from pipeline.models.fetch_errors import FetchError
from pipeline.models.records import record_place
from pipeline.models.session import ModelLoader, model_facts
from pipeline.models.weights import remote_weights, weights_place
from pipeline.models.weights_here import weights_here
from pipeline.runner.preview import preview_job
from pipeline.storage.errors import StoreError
from pipeline.storage.place import Place

BODY = (DATA / "tiny-ddpm.safetensors").read_bytes()
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def stored(s3_bucket) -> str:  # noqa: F811 - a fixture
    address = f"{s3_bucket}/models/tiny.safetensors"
    Place.parse(address).write_bytes(BODY)
    return address


@pytest.fixture
def requests_for(monkeypatch):
    """The objects of the store that are opened, in order."""
    opened = []
    plain = Place.open

    def noting(place):
        if not place.is_local:
            opened.append(str(place))
        return plain(place)

    monkeypatch.setattr(Place, "open", noting)
    return opened


def of_store(folder: Path, **weights: object) -> Path:
    """A model's file whose weights have an address."""
    config = yaml.safe_load(model_file(folder).read_text())
    file = folder / "stored.yaml"
    file.write_text(yaml.safe_dump({**config, "name": "stored", "weights": weights}))
    return file


def test_a_job_with_weights_on_s3_makes_the_same_pictures(tmp_path, stored, requests_for):
    run_job(tmp_path / "local")
    run_job(tmp_path / "s3", weights=stored)
    run_job(tmp_path / "s3", weights={"path": stored, "sha256": SHA256})
    assert requests_for == [stored] * 2  # for the driver and the worker once; a named hash is a place of its own
    pairs = [manifest(tmp_path / name / "out")["pair"].tolist() for name in ("local", "s3")]
    assert pairs[0] == pairs[1]
    assert f"path: {stored}" in (tmp_path / "s3" / "out" / "job.yaml").read_text()


def test_a_models_file_with_its_weights_on_s3(tmp_path, stored, requests_for):
    model = of_store(tmp_path, url=stored, file="tiny.safetensors", sha256=SHA256)
    facts = model_facts(str(model), None)
    assert facts.fingerprint == model_facts(QUICK["model"], None).fingerprint
    assert requests_for == [stored]


def test_another_hash_than_the_named_one_is_refused(tmp_path, stored, cache):
    for model, weights in (
        (QUICK["model"], WeightsChoice(path=stored, sha256="0" * 64)),
        (of_store(tmp_path, url=stored, file="w.safetensors", sha256="0" * 64), None),
    ):
        with pytest.raises(FetchError) as caught:
            model_facts(str(model), weights)
        assert caught.value.exit_code == 2
        assert str(caught.value).startswith(f"{stored}: the file has sha256 {SHA256}, not {'0' * 64} as ")
        assert "\n" not in str(caught.value)
        assert not list(cache.rglob("*.safetensors"))
        assert not list(cache.rglob("*.part"))
    local = WeightsChoice(path=str(DATA / "tiny-ddpm.safetensors"), sha256="0" * 64)
    with pytest.raises(CheckpointError, match=f"its sha256 is {SHA256}, not 0+ as the job says"):
        model_facts(str(QUICK["model"]), local)


def test_an_object_that_was_written_anew_is_refused_and_its_hash_chooses(tmp_path, stored):
    config = load_model_config(QUICK["model"])
    here = weights_here(config, stored)
    other = BODY + b"\0"
    Place.parse(stored).write_bytes(other)
    with pytest.raises(CheckpointError, match="was overwritten since this machine fetched it; name the one that is"):
        weights_here(config, stored)
    named = WeightsChoice(path=stored, sha256=hashlib.sha256(other).hexdigest())
    assert weights_here(config, named).read_bytes() == other
    assert here.read_bytes() == BODY
    # What was first fetched counts for as long as its record is there.
    here.unlink()
    with pytest.raises(FetchError, match="as it had when it was first fetched"):
        weights_here(config, stored)
    record_place(here).unlink()
    assert weights_here(config, stored).read_bytes() == other


def test_a_download_that_was_cut_goes_on(stored, cache, requests_for):
    config = load_model_config(QUICK["model"])
    place = weights_here(config, stored)
    mark = json.loads(record_place(place).read_text())["mark"]
    part = place.with_name(place.name + ".part")
    part.write_bytes(BODY[:1000])
    part.with_name(part.name + ".json").write_text(json.dumps({"url": stored, "mark": mark}))
    place.unlink()
    assert weights_here(config, stored).read_bytes() == BODY
    place.unlink()
    part.write_bytes(b"of another version")
    part.with_name(part.name + ".json").write_text(json.dumps({"url": stored, "mark": "1 1"}))
    assert weights_here(config, stored).read_bytes() == BODY


RACER = """
import os, sys, time
from pathlib import Path
from pipeline.models.config import load_model_config
from pipeline.models.weights_here import weights_here
from pipeline.storage.place import Place

model, address, ready, opened = sys.argv[1:]
plain = Place.open
def slow(place):
    if place.scheme == "s3":
        with open(opened, "a") as log:
            log.write(f"{place}\\n")
        time.sleep(2)  # the other one comes meanwhile
    return plain(place)
Place.open = slow
Path(ready, str(os.getpid())).touch()
while len(list(Path(ready).iterdir())) < 2:
    time.sleep(0.01)
print(weights_here(load_model_config(model), address))
"""


def test_two_workers_of_one_machine_fetch_once(tmp_path, stored):
    (tmp_path / "ready").mkdir()
    command = [sys.executable, "-c", RACER, QUICK["model"], stored, str(tmp_path / "ready"), str(tmp_path / "opened")]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [racer.communicate(timeout=300) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], said
    (place,) = {text.strip() for text, _ in said}
    assert Path(place).read_bytes() == BODY
    assert (tmp_path / "opened").read_text().splitlines() == [stored]


def test_a_worker_fetches_what_its_driver_has_and_a_driver_does_not(tmp_path, monkeypatch):
    """What a config names on the web is asked for once, on the driver's machine."""
    model = of_store(tmp_path, url="http://127.0.0.1:9/tiny.safetensors", file="tiny.safetensors")
    with pytest.raises(CheckpointError, match="run `diffstyle models fetch stored`"):
        model_facts(str(model), None)
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9/tiny.safetensors: cannot be reached"):
        ModelLoader(str(model), None, "f", "cpu", "float32", 1)()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.safetensors", "no such file there; check the address of the weights"),
        ("models", "is a folder; give the address of the file with the weights"),
    ],
)
def test_an_address_without_weights_is_one_line(tmp_path, stored, name, words):
    address = f"{stored.partition('/models')[0]}/{name}"
    with pytest.raises(FetchError) as caught:
        model_facts(QUICK["model"], address)
    assert str(caught.value) == f"{address}: {words}"
    job = load_job(job_file(tmp_path / "job", weights=address), check_inputs=True)
    assert words in "\n".join(preview_job(job).obstacles)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (StoreError("503 SlowDown"), 4, "can't be read now (503 SlowDown); run it again"),
        (PermissionError(13, "403 Forbidden"), 2, "this machine may not read it (403 Forbidden); give it credentials"),
    ],
)
def test_a_store_that_does_not_answer_is_not_one_that_refuses(stored, monkeypatch, error, code, words):
    def fail(place):
        raise error

    monkeypatch.setattr(download, "_PAUSE", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Place, "open", fail)
        with pytest.raises(FetchError) as caught:
            weights_here(load_model_config(QUICK["model"]), stored)
    assert caught.value.exit_code == code
    assert words in str(caught.value).replace("[Errno 13] ", "")
    assert weights_here(load_model_config(QUICK["model"]), stored).read_bytes() == BODY


def test_an_address_holds_no_login(tmp_path):
    with pytest.raises(ConfigError, match=r"weights: s3://\*\*\*@bucket/w.pt: an address holds no login") as caught:
        load_job(job_file(tmp_path, weights="s3://name:very-secret@bucket/w.pt"))
    assert "very-secret" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"weights: an address holds no login") as caught:
        load_model_config(of_store(tmp_path, url="s3://name:very-secret@bucket/w.pt", file="w.pt"))
    assert "very-secret" not in str(caught.value)


def test_looking_at_a_job_fetches_nothing(tmp_path, stored, cache, requests_for):
    job = load_job(job_file(tmp_path / "job", weights=stored), check_inputs=True)
    assert preview_job(job).obstacles == ()
    assert requests_for == []
    assert weights_place(load_model_config(job.model), job.weights) is None


def test_a_repository_of_a_hub(tmp_path):
    job = load_job(job_file(tmp_path, weights="hf://google/ddpm-church-256@v1.0"))
    remote = remote_weights(load_model_config(job.model), job.weights)
    assert (remote.weights.hub, remote.weights.revision) == ("google/ddpm-church-256", "v1.0")
    assert remote.by_run
    again = load_job(job_file(tmp_path, weights={"path": "gs://b/w.pt", "key": "ema"}))
    assert remote_weights(load_model_config(again.model), again.weights).weights.url == "gs://b/w.pt"
