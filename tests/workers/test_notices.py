"""Workers that are asked to end, or whose node drains: what they had runs elsewhere, and no unit is blamed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest
from support import units
from support.stand_in_ray import stand_in_ray
from support.units import Events, Noticed, Work, check_each_once
from support.waiting import NEVER, wait_for

from pipeline.workers import ray_actor, ray_pool
from pipeline.workers.actor import Worker
from pipeline.workers.ray_pool import RayPool
from pipeline.workers.unit import HandedBack, Resources

SMALL = Resources(num_cpus=0.25, threads=None)


def unblamed(events: Events) -> None:
    assert events.named("unit_retried") == events.named("unit_split") == events.named("unit_failed") == []


@pytest.fixture
def travelling(ray_session):
    """The units travel as they are: workers can't import a test."""
    ray_session.cloudpickle.register_pickle_by_value(units)
    yield
    ray_session.cloudpickle.unregister_pickle_by_value(units)
    assert sys.modules[units.__name__] is units


def test_what_is_computed_is_finished_and_all_else_handed_back_after_sigterm(travelling, tmp_path):
    """With one try for a unit: a death that counted would fail it."""
    events = Events()

    def on_event(name: str, /, **fields: object) -> None:
        events(name, **fields)
        if name == "worker_leaving":
            (tmp_path / "leaving").touch()

    with RayPool(1, None, SMALL, retries=0, on_event=on_event) as pool:
        outcomes = list(pool.run(Noticed([n], folder=str(tmp_path)) for n in range(6)))
    check_each_once(outcomes, 6)
    (leaving,) = events.named("worker_leaving")
    assert "SIGTERM" in leaving["why"]
    (first,) = [outcome for outcome in outcomes if outcome.result["is_first"]]  # what it computed just then
    others = [outcome.result["pid"] for outcome in outcomes if outcome is not first]
    assert first.result["pid"] not in others
    assert len(events.named("worker_started")) == 2
    assert events.named("worker_died") == []
    unblamed(events)


@pytest.fixture
def here(monkeypatch):
    """Pools whose workers are objects of this process; the ids of nodes that drain, to be filled."""
    draining: set[str] = set()
    monkeypatch.setitem(sys.modules, "ray", stand_in_ray())
    monkeypatch.setattr(ray_actor, "_end_later", lambda: None)
    monkeypatch.setattr(ray_pool, "draining_nodes", lambda: draining)
    monkeypatch.setattr(RayPool, "LOOK_EVERY", 0.05)
    return draining


class Long(Work):
    """A unit that computes until its worker is dead, the first time; ``computing`` says that it does."""

    def __init__(self, items: list[int]) -> None:
        super().__init__(items)
        self.computing, self.dead = threading.Event(), threading.Event()

    def compute(self, context, loaded):
        self.computing.set()
        self.dead.wait(NEVER)
        return super().compute(context, loaded)

    def killed_while_computing(self, actor, why: str, before: Callable[[], object] = lambda: None) -> None:
        """Let the actor die while this unit is computed, once ``before`` has returned; returns at once."""

        def kill() -> None:
            self.computing.wait(NEVER)
            before()
            actor.die(sys.modules["ray"].exceptions.ActorDiedError(why))
            self.dead.set()

        threading.Thread(target=kill, daemon=True).start()


def test_a_unit_that_takes_longer_than_the_grace_is_made_elsewhere(here):
    events, long = Events(), Long([1])
    with RayPool(1, None, SMALL, retries=0, depth=1, on_event=events) as pool:
        outcomes = pool.run([Work([0]), long, Work([2])])
        first = next(outcomes)
        actor = pool._slots[0].actor

        def asked_to_end() -> None:
            actor.made.leave()
            wait_for(lambda: events.named("worker_leaving"))

        long.killed_while_computing(actor, "ended itself", asked_to_end)
        others = list(outcomes)
    check_each_once([first, *others], 3)
    (died,) = events.named("worker_died")
    assert died["units"] == ["items 1"]
    unblamed(events)


def test_a_death_without_a_notice_is_blamed(here):
    """The same without a notice: with one try, the unit has failed."""
    long = Long([1])
    with RayPool(1, None, SMALL, retries=0, depth=1) as pool:
        outcomes = pool.run([Work([0]), long, Work([2])])
        first = next(outcomes)
        long.killed_while_computing(pool._slots[0].actor, "killed")
        check_each_once([first, *outcomes], 3, failed={1})


def test_workers_of_a_node_that_drains_get_no_more_units(here):
    events = Events()
    with RayPool(1, None, SMALL, retries=0, on_event=events) as pool:
        outcomes = pool.run(Work([n], seconds=(0, 0.05, 0)) for n in range(40))
        seen = [next(outcomes)]
        actor = pool._slots[0].actor
        here.add("a-node")
        while not events.named("worker_leaving"):
            seen.append(next(outcomes))
        here.clear()
        seen += outcomes
        assert pool._slots[0].actor is not actor
    check_each_once(seen, 40)
    assert events.named("worker_leaving") == [{"worker": 0, "why": "its node is draining"}]
    assert len(events.named("worker_started")) == 2
    unblamed(events)


def test_an_idle_worker_that_ends_is_replaced_before_a_unit_meets_it(here):
    events = Events()
    with RayPool(1, None, SMALL, retries=0, on_event=events) as pool:
        check_each_once(list(pool.run([Work([0])])), 1)
        pool._slots[0].actor.made.leave()
        check_each_once(list(pool.run([Work([0]), Work([1])])), 2)
    assert len(events.named("worker_leaving")) == 1
    unblamed(events)


def test_a_worker_that_was_asked_to_end_begins_nothing():
    worker = Worker(None, None)
    worker.asked_to_end.set()
    result, timing = worker.run(Work([1], poison={1: ("compute", "raise")}))
    assert isinstance(result, HandedBack)
    assert timing.compute == 0
