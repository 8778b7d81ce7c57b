"""The workers of a run: the batch that they take, and what is said about the device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.whole_jobs import job_file

from diffstyle.errors import ConfigError
from pipeline.jobfile.load import load_job
from pipeline.models.session import ModelFacts
from pipeline.runner import pools
from pipeline.runner.pools import model_pool
from pipeline.workers.local import LocalWorkers

FACTS = ModelFacts("tiny", "0" * 32, 32, (64, 8, 8))


class Measuring(LocalWorkers):
    """Workers that measure their batch, as Ray's do."""

    def given_batch(self, device):
        return None


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Makes a pool for a job with compute settings; its ``measured`` counts the measurements."""
    made, events = [], []

    def measure(*rest):
        made.append(rest)
        return 8

    monkeypatch.setattr(pools, "batch_for", measure)

    def of(workers=None, **compute):
        job = load_job(job_file(tmp_path, compute={"device": "cpu", **compute}))
        Path(job.output).mkdir(exist_ok=True)
        log = lambda name, **fields: events.append((name, fields))  # noqa: E731
        return model_pool(job, FACTS, workers or Measuring(), log, lambda: None)

    of.measured, of.events, of.kept = made, events, tmp_path / "out" / "batches.json"
    return of


def test_in_this_process_nothing_is_measured_and_more_actors_are_told_as_ignored(pool, caplog):
    local = pool(LocalWorkers(), batch="auto", actors=3)
    assert (local.batch, local.size, pool.measured) == (1, 1, [])
    assert caplog.messages == ["compute.actors is 3 and is ignored: only 1 worker runs here"]
    assert set(json.loads(pool.kept.read_text()).values()) == {1}  # the output goes on with it, wherever it is run
    assert pool(batch="auto").batch == 1


def test_a_measured_batch_is_kept_with_the_output(pool):
    assert pool(batch="auto").batch == 8
    assert pool(batch="auto").batch == 8
    assert len(pool.measured) == 1
    assert [name for name, _ in pool.events] == ["measuring_batch", "batch_measured", "workers", "workers"]
    (kind,) = json.loads(pool.kept.read_text())
    assert kind.endswith("on cpu in float32")


def test_another_precision_is_measured_beside_it(pool):
    pool(batch="auto")
    pool(batch="auto", precision="bfloat16")
    assert len(pool.measured) == 2
    assert set(json.loads(pool.kept.read_text()).values()) == {8}


def test_a_given_batch_is_taken(pool):
    assert pool(batch=3).batch == 3
    assert not pool.measured
    assert not pool.kept.exists()


def test_a_damaged_file_is_named_with_the_mend(pool):
    pool(batch=1)
    pool.kept.write_text("{")
    with pytest.raises(ConfigError, match=r"batches\.json is damaged .*; delete it, or say compute\.batch"):
        pool(batch="auto")


def test_float16_on_a_cpu_is_told(pool, caplog):
    pool(batch=1, precision="float16")
    assert "compute.precision float16 is slower than float32 on a CPU; say bfloat16 or float32" in caplog.text


def test_compiling_on_a_cpu_is_refused(pool):
    with pytest.raises(ConfigError, match=r"compute\.compile is true, but the device is cpu"):
        pool(batch=1, compile=True)
