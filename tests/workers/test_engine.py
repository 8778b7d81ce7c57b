"""The engine on a real Ray: real processes, real signals, stand-in units."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass

import pytest
from support import units
from support.units import Events, Meeting, Work, blocks, check_each_once
from support.waiting import wait_for

from diffstyle.errors import CheckpointError, DiffStyleError
from pipeline.storage.errors import Stopped
from pipeline.workers.ray_pool import RayPool
from pipeline.workers.unit import Outcome, Resources

SMALL = Resources(num_cpus=0.25, threads=None)


@pytest.fixture(autouse=True, scope="module")
def by_value(ray_session):
    """The units of these modules travel as they are: workers can't import a test."""
    modules = (sys.modules[__name__], units)
    for module in modules:
        ray_session.cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        ray_session.cloudpickle.unregister_pickle_by_value(module)


class BadResult:
    def __reduce__(self):
        return int, ("no number",)


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stream:  # noqa: PTH123
            return stream.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(pids: list[int]) -> None:
    for pid in pids:
        wait_for(lambda pid=pid: gone(pid))


@pytest.fixture(scope="module")
def pool(ray_session):
    """One worker that stays for the tests that don't hurt it much."""
    with RayPool(1, None, SMALL, retries=1) as shared:
        yield shared


# ---- the good days ----


@pytest.mark.parametrize("n", [1, 2, 4])
def test_every_unit_once_and_one_at_a_time_on_a_device(ray_session, n):
    with RayPool(n, lambda: "model", SMALL) as workers:
        outcomes = list(workers.run(blocks(24, seconds=(0.01, 0.05, 0.01))))
        check_each_once(outcomes, 96)
        assert 1 <= len(workers.pids) <= n  # the last to come up may find the work done
    computing: dict[int, list] = {}
    for outcome in outcomes:
        assert outcome.result["context"] == "model"
        computing.setdefault(outcome.result["pid"], []).append(outcome.result["compute"])
    for spans in computing.values():
        spans.sort()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_loading_computing_and_saving_overlap(pool):
    list(pool.run(blocks(1)))  # it is up
    outcomes = list(pool.run(blocks(8, seconds=(0.2, 0.2, 0.2))))
    spans = [outcome.result for outcome in outcomes]
    # By the worker's own clock, so that a busy machine changes nothing: one after the other the phases would take no
    # less than the time from the first to the last, and at best they take two and a half times as much.
    phases = [span[phase] for span in spans for phase in ("load", "compute", "save")]
    passed = max(end for _, end in phases) - min(begun for begun, _ in phases)
    assert sum(end - begun for begun, end in phases) > 1.3 * passed
    for phase in ("load", "save"):
        assert any(
            a[phase][0] < b["compute"][1] and b["compute"][0] < a[phase][1] for a in spans for b in spans if a is not b
        )
    for outcome in outcomes:
        for phase in ("load", "compute", "save"):
            begun, end = outcome.result[phase]
            assert 0.2 <= end - begun <= getattr(outcome.timing, phase) + 0.005
    # Computing is timed without the wait for the device, else the times would add up to more than has passed.
    assert sum(outcome.timing.compute for outcome in outcomes) <= passed


def test_units_are_read_as_they_are_needed(pool):
    taken = []

    def source():
        for unit in blocks(30):
            taken.append(unit)
            yield unit

    most = max(len(taken) - done for done, _ in enumerate(pool.run(source()), 1))
    assert most <= 3
    assert len(taken) == 30


def test_nothing_to_do(pool):
    assert list(pool.run([])) == []


def test_threads_are_set_where_units_compute(ray_session):
    @dataclass
    class Threads(Work):
        def compute(self, context, loaded):
            import torch

            return {"threads": torch.get_num_threads()}

    with RayPool(1, None, Resources(num_cpus=0.25, threads=3)) as workers:
        outcomes = list(workers.run([Threads([i]) for i in range(6)]))
    assert {outcome.result["threads"] for outcome in outcomes} == {3}


# ---- errors ----


@pytest.mark.parametrize("phase", ["load", "compute", "save"])
def test_what_raises_is_split_down_to_its_item(pool, phase):
    outcomes = list(pool.run(blocks(3, poison={6: (phase, "raise")})))
    check_each_once(outcomes, 12, failed={6})
    (failure,) = [outcome for outcome in outcomes if outcome.error]
    assert failure.unit.items == [6]
    assert failure.error == "ValueError: a poor"


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("unpicklable", "Unpicklable: holds a lock"),
        ("not read back", "NotReadBack: 1 and 2"),
        ("memory", "MemoryError: MemoryError"),
    ],
)
def test_errors_of_every_kind_come_home_and_cost_no_worker(pool, what, error):
    list(pool.run(blocks(1)))
    before = pool.pids
    outcomes = list(pool.run([Work([0], poison={0: ("compute", what)}), Work([1])]))
    check_each_once(outcomes, 2, failed={0})
    assert next(outcome.error for outcome in outcomes if outcome.error) == error
    assert pool.pids == before


@pytest.mark.parametrize("make", [threading.Lock, BadResult])
def test_results_that_do_not_travel_are_errors_of_the_unit(pool, make):
    @dataclass
    class Odd(Work):
        def save(self, computed):
            return make()

    list(pool.run(blocks(1)))
    before = pool.pids
    outcomes = list(pool.run([Odd([0]), Work([1])]))
    check_each_once(outcomes, 2, failed={0})
    assert pool.pids == before


@pytest.mark.parametrize(
    ("what", "kind", "code", "message"),
    [
        ("wrong input", CheckpointError, 2, "w.pt: 3 tensors are missing; give the right config"),
        ("locked settings", DiffStyleError, 3, "settings: a lock inside; take it out"),
        ("full", Stopped, 4, "No space left on device (/out/x.png); what was committed is kept, fix this and run"),
        ("rights", Stopped, 4, "fix the credentials and run the job again"),
    ],
)
def test_some_errors_end_the_run_in_one_line(pool, what, kind, code, message):
    with pytest.raises(kind) as caught:
        list(pool.run(blocks(3, poison={6: ("save", what)})))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == code


# ---- starting ----


def test_a_wrong_checkpoint_ends_the_run_as_itself(ray_session):
    def make():
        raise CheckpointError("w.pt: 3 tensors are missing")

    with RayPool(2, make, SMALL) as workers, pytest.raises(CheckpointError, match="3 tensors are missing"):
        list(workers.run(blocks(3)))


def test_workers_that_can_not_start_stop_the_run(ray_session, monkeypatch):
    def make():
        raise RuntimeError("no device")

    events = Events()
    monkeypatch.setattr(RayPool, "MAX_START_FAILURES", 2)
    with RayPool(1, make, SMALL, on_event=events) as workers:
        with pytest.raises(Stopped, match=r"can't start \(RuntimeError: no device\)"):
            list(workers.run(blocks(3)))
        assert len(events.named("worker_failed_to_start")) == 2


def test_workers_that_die_at_start_stop_the_run(ray_session):
    events = Events()
    with RayPool(1, lambda: os._exit(7), SMALL, on_event=events) as workers:
        with pytest.raises(Stopped, match="die before they can start") as caught:
            list(workers.run(blocks(3)))
        assert caught.value.exit_code == 4
        assert len(events.named("worker_died")) == 3


def test_an_item_that_kills_while_the_model_loads_is_found_too(ray_session):
    with RayPool(1, lambda: time.sleep(0.4), SMALL, retries=0) as workers:
        outcomes = list(workers.run([Work([i], poison={0: ("load", "exit")}) for i in range(3)]))
    check_each_once(outcomes, 3, failed={0})  # with no retries either are innocents blamed


def test_workers_that_find_no_place_hold_nothing_up(ray_session):
    with RayPool(2, None, Resources(num_cpus=3, threads=None)) as workers:  # the second one waits for ever
        for _ in range(2):
            check_each_once(list(workers.run(blocks(5))), 20)
        assert len(workers.pids) == 1


def test_few_units_are_shared_out(ray_session, tmp_path):
    """Each computes until the other one does: one worker alone would never end."""
    waits = [{"compute": "compute 1"}, {"compute": "compute 0"}]
    with RayPool(2, None, SMALL) as workers:
        outcomes = list(workers.run(Meeting([n], folder=str(tmp_path), waits=waits[n]) for n in range(2)))
    check_each_once(outcomes, 2)
    assert len({outcome.result["pid"] for outcome in outcomes}) == 2


# ---- deaths ----


KILLERS = [
    (2, "save", "kill"),
    pytest.param(1, "compute", "kill", marks=pytest.mark.slow),
    pytest.param(2, "load", "exit", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("n", "phase", "what"), KILLERS)
def test_a_killer_is_split_down_to_its_item_and_innocents_complete(ray_session, n, phase, what):
    events = Events()
    with RayPool(n, None, SMALL, retries=1, on_event=events) as workers:
        outcomes = list(workers.run(blocks(6, seconds=(0.01, 0.02, 0.01), poison={6: (phase, what)})))
    check_each_once(outcomes, 24, failed={6})
    (failure,) = [outcome for outcome in outcomes if outcome.error]
    assert failure.unit.items == [6]
    assert failure.error.startswith("the worker died (SYSTEM_ERROR: ")
    assert len(failure.error) < 300
    assert {event["unit"] for event in events.named("unit_split")} == {"items 4,5,6,7", "items 6,7"}


def chaos(workers: RayPool, units: list, kills: int, mean: float, seed: int) -> list[Outcome]:
    """Run units while workers are killed at random moments."""
    rng, end, killed = random.Random(seed), threading.Event(), []

    def kill() -> None:
        while len(killed) < kills and not end.wait(rng.uniform(0.2, 1.8) * mean):
            pids = [pid for pid in workers.pids if pid not in killed]
            if pids:
                killed.append(rng.choice(pids))
                try:
                    os.kill(killed[-1], signal.SIGKILL)
                except ProcessLookupError:
                    killed.pop()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        outcomes = list(workers.run(units))
    finally:
        end.set()
        killer.join()
    print(f"{len(killed)} workers killed")
    assert len(killed) >= kills // 2
    return outcomes


def test_every_unit_completes_while_workers_are_killed(ray_session):
    with RayPool(2, None, SMALL, retries=5) as workers:
        check_each_once(chaos(workers, blocks(16, seconds=(0.05, 0.25, 0.05)), 4, 0.5, seed=3), 64)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("seed", [1])
def test_chaos(ray_session, seed):
    events = Events()
    with RayPool(4, None, SMALL, retries=5, on_event=events) as workers:
        outcomes = chaos(workers, blocks(60, seconds=(0.1, 1.2, 0.1)), 25, 0.7, seed)
    check_each_once(outcomes, 240)
    assert len(events.named("worker_died")) >= 12


def test_a_worker_that_died_between_runs_is_nobodys_fault(ray_session):
    events = Events()
    with RayPool(1, None, SMALL, retries=0, on_event=events) as workers:
        check_each_once(list(workers.run(blocks(2))), 8)
        (pid,) = workers.pids
        os.kill(pid, signal.SIGKILL)
        wait_until_gone([pid])
        check_each_once(list(workers.run(blocks(2))), 8)
        assert workers.pids != [pid]
    assert not events.named("unit_split")
    assert not events.named("unit_failed")


# ---- leaving early ----


def test_leaving_early_ends_the_workers_and_the_pool_works_again(ray_session):
    with RayPool(2, None, SMALL) as workers:
        outcomes = workers.run(Work([i], seconds=(0.0, 0.2, 0.0)) for i in itertools.count())
        for _ in range(4):
            next(outcomes)
        pids = workers.pids
        assert pids
        outcomes.close()
        assert workers.pids == []
        wait_until_gone(pids)
        check_each_once(list(workers.run(blocks(4))), 16)


def test_an_interrupt_ends_the_workers_and_the_pool_works_again(pool):
    list(pool.run(blocks(1)))
    pids = pool.pids

    def source():
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        yield from blocks(2, seconds=(0.0, 300.0, 0.0))

    with pytest.raises(KeyboardInterrupt):
        list(pool.run(source()))
    wait_until_gone(pids)
    check_each_once(list(pool.run(blocks(2))), 8)


def test_a_source_that_fails_passes_its_error_on(pool):
    def source():
        yield Work([0])
        raise CheckpointError("no more")

    with pytest.raises(CheckpointError, match="no more"):
        list(pool.run(source()))
