"""A finished job answers at once: no torch, no Ray, no workers; `status` reads files and little else."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import DATA
from support.small_jobs import model_file
from support.whole_jobs import CONTENTS, SIX_PAIRS, run_job

from pipeline.models import session
from pipeline.models.session import model_facts

ROOT = Path(__file__).parents[2]

COMMAND = """
import os, sys
from pipeline.cli.main import main
try:
    main(sys.argv[1:])
finally:
    heavy = sorted({"torch", "ray", "requests", "pydantic"} & set(sys.modules))
    print({"heavy": heavy, "seconds": sum(os.times()[:2])})
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """With every kind of mask: six pairs by each."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(CONTENTS, folder / "masks")
    picture = next((folder / "masks").iterdir())
    masks = [{"rectangle": [0, 0, 1, 0.5]}, "reference", {"picture": str(picture)}, {"folder": str(folder / "masks")}]
    run_job(folder, **{**SIX_PAIRS, "injection": {**SIX_PAIRS["injection"], "mask": masks}})
    return folder


def command(*words: object) -> tuple[str, dict]:
    """What a command says in a process of its own, and what it imported; the seconds are the processor's."""
    return in_a_process(COMMAND, *words)


def in_a_process(code: str, *words: object) -> tuple[str, dict]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    return "\n".join(lines), ast.literal_eval(last)


@pytest.fixture(scope="module")
def importing() -> float:
    """The processor's seconds to import what reads tables and job files: so fast is this machine."""
    code = "import os, pandas, pyarrow.parquet, pyarrow.fs, yaml, pydantic\nprint({'seconds': sum(os.times()[:2])})"
    return max(in_a_process(code)[1]["seconds"] for _ in range(2))


def test_a_finished_job_starts_nothing(finished, importing):
    """On Ray, as the command runs by default."""
    command("run", finished / "job.yaml", "--quiet")  # the model's fingerprint is remembered from here on
    text, cost = command("run", finished / "job.yaml", "--quiet")
    assert "made 0 pairs; 24 were there already" in text
    assert not {"torch", "ray"} & set(cost["heavy"])
    assert cost["seconds"] < 5 * importing


def test_status_imports_only_what_reads_tables(finished, importing):
    text, cost = command("status", finished / "out")
    assert "24 done (100 %)" in text
    assert cost["heavy"] == []
    assert cost["seconds"] < 3 * importing


# ---- remembered fingerprints ----


@pytest.fixture
def own_weights(tmp_path, monkeypatch) -> Path:
    """A model whose weights lie in the test's folder, long unchanged, with a cache of its own."""
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path / "cache"))
    weights = Path(shutil.copy(DATA / "tiny-ddpm.safetensors", tmp_path / "own.safetensors"))
    monkeypatch.setattr("pipeline.models.known_models._SETTLED", -1.0)
    return model_file(tmp_path, weights=weights)


def test_a_model_is_loaded_once_for_its_facts(own_weights, monkeypatch):
    first = model_facts(str(own_weights), None)
    with monkeypatch.context() as patch:
        patch.setattr(session, "load_model", lambda *_: pytest.fail("loaded again"))
        assert model_facts(str(own_weights), None) == first
    assert len(first.fingerprint) == 32


def test_weights_that_changed_are_loaded_again(own_weights, tmp_path):
    """Also where they keep their size, and somebody sets the old time."""
    weights = tmp_path / "own.safetensors"
    first = model_facts(str(own_weights), None)
    before = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.stat().st_size == before.st_size
    assert model_facts(str(own_weights), None).fingerprint != first.fingerprint


def test_another_set_of_random_weights_is_another_model(own_weights):
    one, other = (model_facts(str(own_weights), weights).fingerprint for weights in ("random:1", "random:2"))
    assert one != other
    assert model_facts(str(own_weights), "random:1").fingerprint == one


def test_weights_that_are_just_being_written_are_not_remembered(own_weights, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.models.known_models._SETTLED", 1e9)
    model_facts(str(own_weights), None)
    assert not (tmp_path / "cache" / "fingerprints.json").exists()


def test_a_damaged_memory_is_as_none(own_weights, tmp_path):
    first = model_facts(str(own_weights), None)
    memory = tmp_path / "cache" / "fingerprints.json"
    assert first.fingerprint in json.dumps(json.loads(memory.read_text()))
    memory.write_text("{")
    assert model_facts(str(own_weights), None) == first
