"""``--local``: a job in this process, without Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.places import DATA
from support.whole_jobs import SIX_PAIRS, job_file, manifest, run_job

from diffstyle.errors import ConfigError
from pipeline.banks import reader
from pipeline.cli.main import main
from pipeline.runner.api import run
from pipeline.workers.local import LocalWorkers

ROOT = Path(__file__).resolve().parents[2]

STAGES_WITHOUT_RAY = """
import sys
from pipeline.cli.main import main
for command in ("shard", "precompute", "inject", "run"):
    try:
        main([command, sys.argv[1], "--local", "--quiet"])
    except SystemExit as end:
        assert not end.code, end.code
print("ray" in sys.modules)
"""


def test_every_stage_runs_without_ray(tmp_path):
    file = job_file(tmp_path, **SIX_PAIRS)
    command = [sys.executable, "-c", STAGES_WITHOUT_RAY, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
    assert "made 6 pairs" in done.stdout
    assert (manifest(tmp_path / "out")["status"] == "ok").all()


def test_a_user_without_a_home_folder_runs_and_is_told_once(tmp_path, monkeypatch, caplog):
    """As in a container started for some number of a user. What a cache makes faster is done without one."""
    for name in ("HOME", "DIFFSTYLE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    with caplog.at_level("WARNING"):
        result = run_job(tmp_path, **{**SIX_PAIRS, "compute": {"batch": "auto"}})
    assert result.exit_code == 0
    assert (manifest(tmp_path / "out")["status"] == "ok").all()
    (line,) = [record.getMessage() for record in caplog.records if "cache" in record.getMessage()]
    assert line.endswith("no home folder is known for the cache; set DIFFSTYLE_CACHE to a folder, or HOME")


def test_a_bank_is_opened_once(tmp_path, monkeypatch):
    """Opening one on an object store is a request for each part; the driver and its local worker share theirs."""
    run_job(tmp_path, stages=("shard", "precompute"), **SIX_PAIRS)
    opened, read = [], []
    open_bank, read_index = reader.LatentBank.__init__, reader.BankIndex.read

    def opening(self, place):
        opened.append(place.name)
        open_bank(self, place)

    def reading(self, columns=None):
        read.append(self.store)
        return read_index(self, columns)

    monkeypatch.setattr(reader.LatentBank, "__init__", opening)
    monkeypatch.setattr(reader.BankIndex, "read", reading)
    result = run_job(tmp_path, stages=("inject",), **SIX_PAIRS)
    assert result.counts.pairs_made == 6
    assert sorted(opened) == ["content", "style"]
    assert len(read) == 2


def test_a_bank_that_has_grown_since_an_earlier_run_in_this_process_is_read_again(tmp_path):
    few = SIX_PAIRS | {"content": {**SIX_PAIRS["content"], "limit": 1}}
    assert run_job(tmp_path, **few).counts.pairs_made == 2
    assert run_job(tmp_path, **SIX_PAIRS).counts.pairs_made == 4


def test_a_job_names_a_checkpoint_as_its_model(tmp_path):
    """To the same pictures as the YAML file that describes it."""
    named = run_job(tmp_path / "named", **SIX_PAIRS | {"model": str(DATA / "tiny-ddpm.safetensors")})
    assert named.exit_code == 0
    run_job(tmp_path / "described", **SIX_PAIRS)
    one, other = manifest(tmp_path / "named" / "out"), manifest(tmp_path / "described" / "out")
    assert set(one["model"]) == {"tiny-ddpm"}
    assert list(one["picture_hash"]) == list(other["picture_hash"])


def test_a_model_of_the_callers_own(tmp_path):
    """``open_model`` gets the loader and gives the workers what they compute with."""
    opened = []

    def open_model(load):
        context = load()
        opened.append(context)
        return context

    run_job(tmp_path, workers=LocalWorkers(open_model=open_model), **SIX_PAIRS)
    assert [context.batch for context in opened] == [2]  # one worker for all stages


def test_local_and_an_address_are_not_both_taken(tmp_path):
    result = CliRunner().invoke(main, ["run", str(job_file(tmp_path)), "--local", "--address", "auto"])
    assert result.exit_code == 2
    assert result.output.startswith("error: --local and --address: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_one_line_before_any_stage(tmp_path, monkeypatch, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    file = job_file(tmp_path, **SIX_PAIRS | {"compute": {"device": device}})
    line = f"compute.device is {device}, but PyTorch sees no {device.upper()} device on this machine; use device: cpu"
    result = CliRunner().invoke(main, ["run", str(file), "--local", "--quiet"])
    assert (result.exit_code, result.output) == (2, f"error: {line}\n")
    assert not list((tmp_path / "out").rglob("*.tar"))  # no shard was written first
    run_job(tmp_path, stages=("shard",), **SIX_PAIRS)  # a stage alone, which no check of all stages precedes
    with pytest.raises(ConfigError, match=f"^{line}$"):
        run_job(tmp_path, f"compute.device={device}", stages=("precompute",), **SIX_PAIRS)


@pytest.mark.parametrize("actors", [1, 3])
def test_more_actors_are_told_as_ignored(tmp_path, caplog, actors):
    compute = {**SIX_PAIRS["compute"], "actors": actors}
    run(job_file(tmp_path, **SIX_PAIRS | {"compute": compute}), local=True, quiet=True)
    told = [line for line in caplog.messages if "compute.actors" in line]
    assert told == ([] if actors == 1 else ["compute.actors is 3 and is ignored: only 1 worker runs here"])
