"""A unit that hangs: its worker is replaced, the unit is tried again alone, halved, and named; all else completes."""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections.abc import Iterator

import pytest
from support import units
from support.stand_in_ray import StandInActor, stand_in_ray
from support.units import Events, Work, blocks, check_each_once

from pipeline.models.session import ModelLoader
from pipeline.storage.errors import Stopped
from pipeline.workers import ray_pool
from pipeline.workers.base import opening
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
        pytest.param([1], "save", "freeze", marks=pytest.mark.long),
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


def test_in_this_process_nothing_can_end_a_unit(caplog):
    with caplog.at_level(logging.WARNING):
        LocalWorkers().pool(1, None, Resources(), unit_timeout=5.0)
    assert "compute.unit_timeout is ignored" in caplog.text


class Loader:
    """Loads a stand-in model; it hangs the first so many times, but for the time that is ``well``."""

    loads = "the weights /store/w.pt"

    def __init__(self, hangs: int, well: int | None = None) -> None:
        self._hangs, self._well = hangs, well
        self._times = itertools.count()

    def __call__(self) -> str:
        turn = next(self._times)
        if turn < self._hangs and turn != self._well:
            time.sleep(3600)
        return "model"


@pytest.fixture
def here(monkeypatch):
    """Pools whose workers are objects of this process, so that a start takes no time."""
    monkeypatch.setitem(sys.modules, "ray", stand_in_ray())
    monkeypatch.setattr(ray_pool, "draining_nodes", set)


def test_a_driver_that_is_slow_itself_takes_nobody_for_hung(here):
    events = Events()
    with RayPool(1, None, SMALL, on_event=events, unit_timeout=1.0) as pool:
        outcomes = []
        for outcome in pool.run(blocks(4, size=1)):
            outcomes.append(outcome)
            time.sleep(1.5)  # as for a commit to a store that is away
        check_each_once(outcomes, 4)
    assert events.named("worker_died") == []


def test_a_worker_that_hangs_while_loading_is_replaced(here):
    events = Events()
    with RayPool(1, Loader(hangs=2), SMALL, on_event=events, start_timeout=1.5) as pool:
        check_each_once(list(pool.run(blocks(2))), 8)
    whys = [failed["why"] for failed in events.named("worker_failed_to_start")]
    assert whys == ["loading the weights /store/w.pt did not end within 1.5 s"] * 2
    assert events.named("unit_retried") == []  # no unit is to blame


def test_loading_that_always_hangs_ends_the_run_with_one_line(here):
    events = Events()
    with RayPool(2, Loader(hangs=99), SMALL, on_event=events, start_timeout=0.5) as pool, pytest.raises(Stopped) as why:
        list(pool.run(blocks(2)))
    assert str(why.value) == (
        "a worker can't start: loading the weights /store/w.pt did not end within 0.5 s (compute.start_timeout), 3 "
        "times in a row; see whether the nodes can read it (a disk or store that hangs?), or raise the limit; what was "
        "committed is kept"
    )
    assert why.value.exit_code == 4
    assert 3 <= len(events.named("worker_failed_to_start")) <= 6  # a bounded number


def test_workers_that_have_started_go_on_without_one_that_can_not(here, caplog):
    events = Events()

    def work() -> Iterator[Work]:
        """There is some to do until the other worker is given up, and a little more."""
        numbers = itertools.count()
        while len(events.named("worker_failed_to_start")) < 3:
            yield Work([next(numbers)], seconds=(0, 0.05, 0))
        for _ in range(10):
            yield Work([next(numbers)], seconds=(0, 0.05, 0))

    with RayPool(2, Loader(hangs=99, well=0), SMALL, on_event=events, start_timeout=1.5) as pool:
        outcomes = list(pool.run(work()))
    check_each_once(outcomes, len(outcomes))
    assert len(events.named("worker_failed_to_start")) == 3
    assert "3 times in a row; see whether the nodes can read it" in caplog.text
    assert caplog.text.strip().endswith("the others go on")


def test_a_place_that_is_not_given_yet_is_no_hang(here, monkeypatch):
    """A worker may wait for long until the cluster has room for its process: that time does not count."""
    plain, begun, names = StandInActor.__getattr__, time.monotonic(), []

    def no_room(actor: StandInActor, name: str):
        return plain(actor, "until_asked_to_end" if name in ("ping", "setup") else name)

    def impatient(name: str, /, **fields: object) -> None:
        names.append(name)
        if time.monotonic() - begun > 1.5:
            raise KeyboardInterrupt

    monkeypatch.setattr(StandInActor, "__getattr__", no_room)
    with RayPool(1, Loader(hangs=0), SMALL, on_event=impatient, start_timeout=0.2) as pool:
        with pytest.raises(KeyboardInterrupt):
            list(pool.run(blocks(1)))
        assert set(names) == {"waiting_for_workers"}


def test_the_message_names_the_weights_of_the_job():
    plain = ModelLoader("/m/faces.yaml", None, "f", "cpu", "float32", 1)
    assert plain.loads == "the weights of /m/faces.yaml"
    chosen = ModelLoader("celebahq", "s3://b/w.pt", "f", "cpu", "float32", 1)
    assert opening(chosen, lambda load: load()).loads == "the weights s3://b/w.pt"
