"""A unit that hangs: its worker is replaced, the unit is tried again alone, halved, and named; all else completes."""

from __future__ import annotations

import logging
import sys
import time

import pytest
from support import units
from support.units import Events, Work, blocks, check_each_once

from pipeline.workers.local import LocalWorkers
from pipeline.workers.ray_pool import RayPool
from pipeline.workers.unit import Resources

SMALL = Resources(num_cpus=0.25, threads=None)
#: Well above what a unit of these tests takes on a slow machine.
LIMIT = 3.0


@pytest.fixture(autouse=True)
def by_value(request):
    """The units travel as they are: workers can't import a test."""
    if "ray_session" not in request.fixturenames:
        yield
        return
    pickle = request.getfixturevalue("ray_session").cloudpickle
    pickle.register_pickle_by_value(units)
    yield
    pickle.unregister_pickle_by_value(units)
    assert sys.modules[units.__name__] is units


@pytest.mark.slow
@pytest.mark.parametrize(
    ("items", "phase", "what"),
    [
        ([0, 1], "compute", "hang"),
        ([1], "save", "freeze"),
        pytest.param([0, 1], "load", "hang", marks=pytest.mark.long),
    ],
)
def test_the_item_that_hangs_is_named_and_all_else_completes(ray_session, items, phase, what):
    events = Events()
    work = [
        Work(items, poison={1: (phase, what)}),
        *([] if 0 in items else [Work([0])]),
        *(Work([n], seconds=(0, 0.05, 0)) for n in range(2, 12)),
    ]
    with RayPool(2, None, SMALL, on_event=events, unit_timeout=LIMIT) as pool:
        begun = time.monotonic()
        outcomes = list(pool.run(work))
        print(f"{time.monotonic() - begun:.0f} s")
        check_each_once(outcomes, 12, failed={1})
        (failed,) = [outcome for outcome in outcomes if outcome.error]
        assert failed.error == "no result within 3 s (compute.unit_timeout)"
        # Perhaps among others, alone, once more, and its half twice: each time on a new worker.
        deaths = events.named("worker_died")
        assert len(deaths) >= 2 * len(items)
        assert all("compute.unit_timeout" in death["error"] for death in deaths)
        assert len(events.named("unit_split")) == len(items) - 1
        # The pool is as good as before.
        check_each_once(list(pool.run(blocks(4))), 16)


def test_a_driver_that_is_slow_itself_takes_nobody_for_hung(ray_session):
    events = Events()
    with RayPool(1, None, SMALL, on_event=events, unit_timeout=1.0) as pool:
        outcomes = []
        for outcome in pool.run(blocks(4, size=1)):
            outcomes.append(outcome)
            time.sleep(1.5)  # as for a commit to a store that is away
        check_each_once(outcomes, 4)
    assert events.named("worker_died") == []


def test_in_this_process_nothing_can_end_a_unit(caplog):
    with caplog.at_level(logging.WARNING):
        LocalWorkers().pool(1, None, Resources(), unit_timeout=5.0)
    assert "compute.unit_timeout is ignored" in caplog.text
