"""The batch size is measured once for each network, device and precision, and remembered."""

from __future__ import annotations

import json
import logging
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.whole_jobs import MODEL

from diffstyle.errors import ConfigError
from diffstyle.networks.architecture import DDPMArchitecture
from pipeline.models import batch_size
from pipeline.models.batch_size import batch_for, best_batch, measured, on_a_worker
from pipeline.workers.local import LocalWorkers
from pipeline.workers.ray_workers import RayWorkers
from pipeline.workers.unit import Resources

SMALL = DDPMArchitecture(16, 32, (1, 2), 1, (8,))
ONE = Resources(num_cpus=1.0, threads=1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path))
    return tmp_path


def test_doubling_goes_on_while_it_pays(monkeypatch):
    seconds = {1: 1.0, 2: 1.0, 4: 1.2, 8: 2.39}
    monkeypatch.setattr(batch_size, "_seconds", lambda unet, n, device: seconds[n])
    assert measured(SMALL, "cpu", "float32", ONE) == {"1": 1.0, "2": 2.0, "4": 3.333, "8": 3.347}


def test_memory_ends_the_doubling(monkeypatch):
    def seconds(unet, n, device):
        if n > 2:
            raise torch.OutOfMemoryError("out of memory")
        return 1.0

    monkeypatch.setattr(batch_size, "_seconds", seconds)
    assert measured(SMALL, "cpu", "float32", ONE) == {"1": 1.0, "2": 2.0}


def test_a_measurement_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    rates = measured(SMALL, "cpu", "bfloat16", Resources(threads=before + 1))
    assert torch.get_num_threads() == before
    assert list(rates) == [str(2**k) for k in range(len(rates))]
    assert all(rate > 0 for rate in rates.values())


@pytest.mark.slow
def test_a_worker_measures_where_the_gpus_are(ray_session):
    rates = on_a_worker(partial(measured, SMALL, "cpu", "float32", ONE), ONE, RayWorkers())
    assert rates["1"] > 0


@pytest.mark.cuda
@pytest.mark.slow
def test_a_gpus_batch_is_measured(ray_session, cache):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert batch_for(str(MODEL), "cuda", "float16", Resources(1.0, 1.0, 1), RayWorkers()) >= 8


@given(st.dictionaries(st.sampled_from([1, 2, 4, 8, 16]), st.floats(0.01, 1e4), min_size=1))
def test_the_smallest_batch_that_comes_near_the_highest_rate(rates):
    chosen = best_batch({str(n): rate for n, rate in rates.items()}, 1.05)
    assert rates[chosen] * 1.05 >= max(rates.values())
    assert all(rates[n] * 1.05 < max(rates.values()) for n in rates if n < chosen)


def test_no_batch_fits():
    with pytest.raises(ConfigError, match=r"not even one picture.*compute\.precision"):
        best_batch({}, 1.05)


def test_it_is_measured_once_for_each_precision_and_number_of_threads(cache, monkeypatch):
    asked = []

    def counted(architecture, device, precision, resources):
        asked.append((precision, resources.threads))
        return {"1": 1.0, "2": 1.9, "4": 1.91}

    monkeypatch.setattr(batch_size, "measured", counted)
    for _ in range(2):
        assert batch_for(str(MODEL), "cpu", "float32", ONE, LocalWorkers()) == 2
        assert batch_for(str(MODEL), "cpu", "bfloat16", ONE, LocalWorkers()) == 2
        assert batch_for(str(MODEL), "cpu", "float32", Resources(threads=2), LocalWorkers()) == 2
    assert asked == [("float32", 1), ("bfloat16", 1), ("float32", 2)]
    kept = json.loads((cache / "batches.json").read_text())
    assert [entry["batch"] for entry in kept.values()] == [2, 2, 2]


def test_time_and_size_bound_what_is_tried(monkeypatch):
    monkeypatch.setattr(batch_size, "_seconds", lambda unet, n, device: 1.0)
    large = DDPMArchitecture(256, 32, (1, 1), 1, ())
    assert list(measured(large, "cpu", "float32", ONE)) == ["1", "2", "4"]  # 16 pictures of 128 px, in pixels
    monkeypatch.setattr(batch_size, "SECONDS", 0.0)
    assert list(measured(SMALL, "cpu", "float32", ONE)) == ["1"]


def test_what_ray_cannot_measure_is_told_with_the_cure(ray_session):
    def broken():
        raise RuntimeError("no such device")

    with pytest.raises(ConfigError, match=r"can't be measured .*no such device.*; give one with compute\.batch"):
        on_a_worker(broken, ONE, RayWorkers())


def test_two_jobs_keep_each_others_measurements(cache, monkeypatch):
    def other_job_meanwhile(*args):
        (cache / "batches.json").write_text(json.dumps({"other": {"batch": 4}}))
        return {"1": 1.0}

    monkeypatch.setattr(batch_size, "measured", other_job_meanwhile)
    assert batch_for(str(MODEL), "cpu", "float32", ONE, LocalWorkers()) == 1
    assert len(json.loads((cache / "batches.json").read_text())) == 2
    assert [file.name for file in cache.iterdir()] == ["batches.json"]


@pytest.mark.parametrize("damage", ["{", "[]"])
def test_a_damaged_memory_is_measured_again(cache, monkeypatch, caplog, damage):
    (cache / "batches.json").write_text(damage)
    monkeypatch.setattr(batch_size, "measured", lambda *args: {"1": 1.0})
    assert batch_for(str(MODEL), "cpu", "float32", ONE, LocalWorkers()) == 1
    assert len(json.loads((cache / "batches.json").read_text())) == 1


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(batch_size, "measured", lambda *args: {"1": 1.0})
    caplog.set_level(logging.WARNING)
    assert batch_for(str(MODEL), "cpu", "float32", ONE, LocalWorkers()) == 1
    assert "next time batch sizes are measured again" in caplog.text
