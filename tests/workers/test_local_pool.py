"""Units in this process: by the rules of the Ray pool (test_engine), without Ray."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch
from support.units import Events, Work, blocks, check_each_once

from diffstyle.errors import CheckpointError, DiffStyleError
from pipeline.storage.errors import Stopped
from pipeline.workers.local import LocalPool, LocalWorkers, cores
from pipeline.workers.unit import Resources


def test_every_unit_once_with_the_model_and_its_times():
    loaded = []
    with LocalPool(lambda: loaded.append(1) or "model") as pool:
        outcomes = [*pool.run(blocks(3, seconds=(0.01, 0.02, 0.01))), *pool.run(blocks(1))]
    check_each_once(outcomes[:3], 12)
    assert loaded == [1]
    assert {outcome.result["context"] for outcome in outcomes} == {"model"}
    for outcome in outcomes[:3]:
        assert outcome.timing.load >= 0.01
        assert outcome.timing.compute >= 0.02
        assert outcome.timing.save >= 0.01


def test_units_are_read_as_they_are_needed():
    taken = []

    def source():
        for unit in blocks(5):
            taken.append(unit)
            yield unit

    assert [len(taken) for _ in LocalPool().run(source())] == [1, 2, 3, 4, 5]
    assert list(LocalPool(lambda: 1 / 0).run([])) == []  # no model is loaded where there is nothing to do


@pytest.mark.parametrize("phase", ["load", "compute", "save"])
def test_what_raises_is_tried_again_and_split_down_to_its_item(phase):
    events = Events()
    outcomes = list(LocalPool(on_event=events).run(blocks(3, poison={6: (phase, "raise")})))
    check_each_once(outcomes, 12, failed={6})
    (failure,) = [outcome for outcome in outcomes if outcome.error]
    assert failure.unit.items == [6]
    assert failure.error == "ValueError: a poor"
    assert [event["unit"] for event in events.named("unit_split")] == ["items 4,5,6,7", "items 6,7"]
    assert [event["unit"] for event in events.named("unit_retried")] == ["items 4,5,6,7", "items 6,7", "items 6"]


def test_an_error_that_does_not_come_again_costs_nothing():
    class Once(Work):
        tries = 0

        def save(self, computed):
            Once.tries += 1
            if Once.tries == 1:
                raise ValueError("a moment's trouble")
            return super().save(computed)

    check_each_once(list(LocalPool().run([Once([0]), Work([1])])), 2)


@pytest.mark.parametrize(
    ("what", "kind", "code", "message"),
    [
        ("wrong input", CheckpointError, 2, "w.pt: 3 tensors are missing; give the right config"),
        ("locked settings", DiffStyleError, 3, "settings: a lock inside; take it out"),
        ("full", Stopped, 4, "No space left on device (/out/x.png); what was committed is kept"),
    ],
)
def test_some_errors_end_the_run_in_one_line(what, kind, code, message):
    with pytest.raises(kind) as caught:
        list(LocalPool().run(blocks(3, poison={6: ("save", what)})))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == code


def test_a_model_that_can_not_be_loaded():
    def wrong():
        raise CheckpointError("w.pt: 3 tensors are missing")

    with pytest.raises(CheckpointError, match="3 tensors are missing"):
        list(LocalPool(wrong).run(blocks(1)))
    with pytest.raises(Stopped, match=r"the model can't be loaded \(ZeroDivisionError: division by zero\)"):
        list(LocalPool(lambda: 1 / 0).run(blocks(1)))


def test_each_outcome_is_checked_before_it_is_handed_over():
    def lost():
        raise Stopped("the lock was lost")

    ran = []

    class Counted(Work):
        def save(self, computed):
            ran.append(self.items)

    with pytest.raises(Stopped, match="lock was lost"):
        next(LocalPool(check=lost).run([Counted([0]), Counted([1])]))
    assert ran == [[0]]


def test_another_model_in_place_of_the_loaders():
    workers = LocalWorkers(open_model=lambda load: f"not {load()}")
    with workers.pool(3, lambda: "the model", Resources()) as pool:
        (outcome,) = pool.run([Work([0])])
    assert outcome.result["context"] == "not the model"
    assert pool.size == 1


def test_the_threads_are_those_of_a_ray_worker_while_it_computes():
    before = torch.get_num_threads()

    class Threads(Work):
        def compute(self, context, loaded):
            return {"threads": torch.get_num_threads()}

    n, resources = LocalWorkers().plan("cpu", None, before + 2)
    with LocalWorkers().pool(n, None, resources) as pool:
        (outcome,) = pool.run([Threads([0])])
    assert outcome.result["threads"] == before + 2
    assert torch.get_num_threads() == before
    assert LocalWorkers().plan("cpu", None, None)[1].threads == max(1, cores() // 4)


def test_a_result_need_not_travel():
    class Odd(Work):
        def save(self, computed):
            return threading.Lock()

    (outcome,) = LocalPool().run([Odd([0])])
    assert outcome.error is None


def test_neither_work_nor_failure_imports_ray():
    code = """
import sys
sys.path.insert(0, "tests")
from support.units import Work
from pipeline.workers.local import LocalPool
outcomes = list(LocalPool().run([Work([0, 1], poison={0: ("save", "raise")})]))
try:
    list(LocalPool().run([Work([0], poison={0: ("save", "wrong input")})]))
except Exception as error:
    outcomes.append(error)
print(len(outcomes), "ray" in sys.modules, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3 False False\n"
