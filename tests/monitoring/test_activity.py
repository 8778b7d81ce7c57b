"""What workers did with their time, and where a run's seconds went: starting workers is no work."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.whole_jobs import SIX_PAIRS, run_job

from pipeline.cli.main import main
from pipeline.monitoring.activity import Activity, time_words
from pipeline.monitoring.progress import duration
from pipeline.workers.local import LocalWorkers


def test_waiting_is_what_is_not_computing_between_the_first_and_the_last():
    activity = Activity()
    assert activity.waiting is None
    activity.add(0, 100.0, 4.0)
    assert activity.waiting is None  # one part says nothing
    activity.add(0, 105.0, 5.0)
    activity.add(1, 100.0, 10.0)
    assert activity.waiting == pytest.approx(0.1)
    activity.add(1, 110.0, 10.0)
    assert activity.waiting == pytest.approx(1 / 30)
    reversed_order = Activity()
    for part in ((1, 110.0, 10.0), (0, 105.0, 5.0), (1, 100.0, 10.0), (0, 100.0, 4.0)):
        reversed_order.add(*part)
    assert reversed_order.waiting == pytest.approx(1 / 30)  # parts are told in any order
    activity.add(1, 0.0, 0.0)  # a part that failed before it computed
    assert activity.waiting == pytest.approx(1 / 30)


def test_calls_a_second_are_those_of_all_workers():
    activity = Activity()
    assert activity.calls_per_second is None
    activity.add(0, 100.0, 10.0, calls=50)
    activity.add(1, 105.0, 15.0, calls=50)
    assert activity.calls_per_second == pytest.approx(100 / 20)


def test_seconds_in_words():
    seconds = {"inject": 267.0, "invert style": 4.0, "invert content": 21.0, "start": 9.0, "shard content": 0.01}
    assert time_words(seconds) == "starting workers 9 s, inverting 25 s, making pairs 4 min 27 s"
    assert time_words(seconds, 305.0).endswith("making pairs 4 min 27 s, the rest 4 s")


class SlowToStart(LocalWorkers):
    """As Ray's: until the first worker is ready, some time passes; so it does while a batch is measured."""

    def pool(self, *values, **options):
        time.sleep(2.0)
        return super().pool(*values, **options)

    def given_batch(self, device: str) -> None:
        """Measured."""


def test_starting_workers_and_measuring_the_batch_are_no_stages_time(tmp_path: Path, monkeypatch, capsys):
    def measured(*_: object) -> int:
        time.sleep(3.0)
        return 2

    monkeypatch.setattr("pipeline.runner.pools.batch_for", measured)
    result = run_job(tmp_path, "compute.batch=auto", workers=SlowToStart(), **SIX_PAIRS)
    seconds = result.counts.seconds
    assert seconds["batch"] >= 3.0
    assert seconds["start"] >= 2.0
    assert result.counts.whole >= sum(seconds.values())
    # What is measured is there once, and not in the stage in which it was asked for.
    log = next((tmp_path / "out" / "events").glob("*.jsonl"))
    events = [json.loads(line) for line in log.read_text().splitlines()]
    (done,) = (event for event in events if event["event"] == "stage_done" and event["stage"] == "invert content")
    (asked,) = (event for event in events if event["event"] == "stage_done" and event["stage"] == "shard style")
    passed = datetime.fromisoformat(done["time"]) - datetime.fromisoformat(asked["time"])
    assert done["seconds"] < passed.total_seconds() - 5.0 + 0.01
    text = str(result)
    assert f"starting workers {duration(seconds['start'])}" in text
    assert f"measuring the batch {duration(seconds['batch'])}" in text
    assert re.search(r"made 6 pairs in .* s: [\d.]+ pictures/s, [\d.]+ network calls/s; 0 were there already", text)
    assert "busy" not in text
    status = CliRunner().invoke(main, ["status", str(tmp_path / "out")]).output
    assert re.search(r"time     (.*, )?starting workers .*, measuring the batch \d+ s, .*making pairs", status)
    assert "network calls/s" in status
