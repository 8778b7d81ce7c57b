"""The rate that ``status`` tells: of the pairs made lately, by the clocks of those who made them."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.monitoring.activity import Activity
from pipeline.monitoring.status import read_status, write_plan
from pipeline.results.manifest import Manifest
from pipeline.storage.place import Place


@pytest.fixture
def out(tmp_path: Path) -> Place:
    """An output whose run has planned 5000 pairs just now."""
    place = Place.parse(tmp_path)
    (place / "job.yaml").write_bytes(b"{}")
    write_plan(place, lambda name, **fields: None, 5000, (0, 0), (0, 0))
    Manifest(place).open()
    return place


def planned_at(out: Place) -> float:
    return json.loads((out / "plan.json").read_bytes())["at"]


def made(out: Place, part: str, times: list[float], status: str = "ok") -> None:
    """Rows of pairs made at these times, in seconds since the epoch."""
    rows = [
        {
            "pair": f"{part}-{n}",
            "status": status,
            "created": datetime.datetime.fromtimestamp(at, datetime.UTC),
        }
        for n, at in enumerate(times)
    ]
    Manifest(out).commit(part, rows)


def test_slow_beginnings_do_not_count(out):
    start = planned_at(out)
    made(out, "slow", [start + 180 * n for n in range(1, 101)])  # five hours, a pair every three minutes
    made(out, "fast", [start + 18_000 + n for n in range(1, 901)])  # a quarter of an hour, a pair a second
    status = read_status(out)
    assert status.rate == pytest.approx(1.0, rel=0.01)
    assert (status.done, status.left) == (1000, 4000)
    assert status.seconds_left == pytest.approx(4000, rel=0.01)


def test_pairs_of_earlier_runs_do_not_count(out):
    start = planned_at(out)
    made(out, "before", [start - 600 + n for n in range(500)])
    made(out, "now", [start + 10 * n for n in range(1, 21)])
    assert read_status(out).rate == pytest.approx(0.1)


def test_failures_are_no_pairs_made(out):
    start = planned_at(out)
    made(out, "made", [start + 10 * n for n in range(1, 21)])
    made(out, "failed-1", [start + n for n in range(1, 200)], "failed")
    assert read_status(out).rate == pytest.approx(0.1)


def test_nothing_made_yet_has_no_rate(out):
    status = read_status(out)
    assert (status.rate, status.seconds_left, status.left) == (None, None, 5000)
    assert time.time() - planned_at(out) < 600


spans = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 1000), st.integers(0, 100)), min_size=1, max_size=20)


@given(spans.flatmap(lambda parts: st.tuples(st.just(parts), st.permutations(parts))))
def test_how_long_workers_waited_does_not_depend_on_the_order_of_telling(orders):
    shares = []
    for parts in orders:
        activity = Activity()
        for worker, began, seconds in parts:
            activity.add(worker, float(began), float(seconds))
        shares.append(activity.waiting)
    assert shares[0] == (None if shares[1] is None else pytest.approx(shares[1]))
    parts = orders[0]
    several = {w for w, *_ in parts if sum(w == other for other, *_ in parts) > 1}
    total = sum(
        max(b + s for w, b, s in parts if w == one) - min(b for w, b, s in parts if w == one) for one in several
    )
    computing = sum(s for w, _, s in parts if w in several)
    assert shares[0] == (pytest.approx(max(0.0, 1 - computing / total)) if total else None)
