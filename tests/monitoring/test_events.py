"""The event log: whole lines, whatever is logged, from whichever thread, on a disk and on a store."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures
from support.waiting import wait_for

from pipeline.monitoring import events as events_module
from pipeline.monitoring.events import EventLog, read_events
from pipeline.storage.place import Place
from pipeline.workers.unit import Timing


@pytest.fixture
def out(tmp_path) -> Place:
    return Place.parse(tmp_path / "out")


@pytest.fixture(params=["disk", "s3"])
def folder(request, out) -> Place:
    return Place.parse(request.getfixturevalue("s3_bucket") + "/out") if request.param == "s3" else out


def test_events_come_back_in_order_with_their_time(folder):
    before = time.time()
    with EventLog(folder, "one") as log:
        log.log("started", pairs=6, what="inject")
        log.log("worker_died", worker=1, units=["a", "b"])
    found = list(read_events(folder))
    assert [event["event"] for event in found] == ["started", "worker_died"]
    assert found[0]["pairs"] == 6
    assert found[1]["units"] == ["a", "b"]
    assert all(event["run"] == "one" for event in found)
    from datetime import datetime

    assert abs(datetime.fromisoformat(found[0]["time"]).timestamp() - before) < 60


def test_a_resumed_run_appends_and_runs_are_kept_apart(folder):
    for number in range(2):
        with EventLog(folder, "one") as log:
            log.log("started", number=number)
    with EventLog(folder, "two") as log:
        log.log("started", number=2)
    assert [event["number"] for event in read_events(folder)] == [0, 1, 2]
    assert [event["run"] for event in read_events(folder, "two")] == ["two"]
    assert list(read_events(folder, "three")) == []


def test_nothing_to_read(folder):
    assert list(read_events(folder)) == []


class Sulky:
    def __repr__(self):
        raise RuntimeError("no")


def test_anything_can_be_logged(out):
    loop: list = []
    loop.append(loop)
    things = {
        "path": Path("/a/b"),
        "place": Place.parse("s3://bucket/x"),
        "nan": float("nan"),
        "minus": float("-inf"),
        "number": np.float32(0.5),
        "integer": np.int64(7),
        "scalar": torch.tensor(3),
        "array": np.zeros(3),
        "tuple": (1, 2),
        "set": {2, 1},
        "keys": {1: "a", (2, 3): "b"},
        "error": ValueError("why"),
        "loop": loop,
        "sulky": Sulky(),
        "broken": "\ud800 and\nmore",
        "bytes": b"\x00",
        "timing": Timing(load=1.5),
        "time": "taken",
        "name": "a field",
        "truth": True,
        "none": None,
    }
    with EventLog(out, "r") as log:
        log.log("things", **things)
    lines = (Path(out.path) / "events" / "r.jsonl").read_bytes().splitlines()
    assert len(lines) == 1
    there = json.loads(lines[0], parse_constant=pytest.fail)
    assert there["path"] == "/a/b"
    assert there["place"] == "s3://bucket/x"
    assert there["nan"] == "nan"
    assert there["number"] == 0.5
    assert there["integer"] == 7
    assert there["scalar"] == 3
    assert there["tuple"] == there["set"] == [1, 2]
    assert there["keys"] == {"1": "a", "(2, 3)": "b"}
    assert there["error"] == "ValueError('why')"
    assert "RuntimeError" in there["sulky"]
    assert there["time_"] == "taken"
    assert there["name"] == "a field"
    assert there["timing"]["load"] == 1.5
    assert there["truth"] is True
    assert there["none"] is None


def test_a_line_is_there_at_once_on_a_disk(out):
    with EventLog(out, "r") as log:
        log.log("one")
        assert [event["event"] for event in read_events(out)] == ["one"]


def test_threads_do_not_tear_lines(out):
    with EventLog(out, "r") as log:
        threads = [
            threading.Thread(target=lambda n=n: [log.log("e", thread=n, i=i, text="x" * 500) for i in range(200)])
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = list(read_events(out))
    assert len(found) == 1600
    for n in range(8):
        assert [event["i"] for event in found if event["thread"] == n] == list(range(200))


def test_a_killed_run_loses_no_line_and_its_torn_one_is_named(out):
    script = """
        import os, signal, sys
        from pipeline.monitoring.events import EventLog
        from pipeline.storage.place import Place
        log = EventLog(Place.parse(sys.argv[1]), "r")
        for i in range(100):
            log.log("e", i=i)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(out)], check=False)
    assert done.returncode == -9
    assert [event["i"] for event in read_events(out)] == list(range(100))
    path = Path(out.path) / "events" / "r.jsonl"
    path.write_bytes(path.read_bytes() + b'{"time": "2026')
    assert len(list(read_events(out))) == 100  # perhaps still being written
    with EventLog(out, "r") as log:
        log.log("resumed")
    assert [event["event"] for event in read_events(out)][100:] == ["unreadable_line", "resumed"]


def test_trouble_with_writing_is_warned_of_once(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING), EventLog(Place.parse(tmp_path / "file"), "r") as log:
        log.log("one")
        log.log("two")
    assert caplog.text.count("events can't be written") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_disk_does_not_stop_the_run(out, caplog):
    path = Path(out.path) / "events" / "r.jsonl"
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/full")
    with caplog.at_level(logging.WARNING), EventLog(out, "r") as log:
        log.log("one")
        log.log("two")
    assert caplog.text.count("No space left") == 1


def test_after_closing_events_are_dropped(folder):
    log = EventLog(folder, "r")
    log.close()
    log.close()
    log.log("late")
    assert list(read_events(folder)) == []


def test_a_store_is_written_now_and_then_and_at_the_end(s3_bucket, monkeypatch):  # noqa: F811
    monkeypatch.setattr(events_module._Object, "WRITE_EVERY", 0.3)
    writes = []
    write = Place.write_bytes
    monkeypatch.setattr(Place, "write_bytes", lambda self, data: (writes.append(len(data)), write(self, data)))
    folder = Place.parse(f"{s3_bucket}/out")
    began = time.monotonic()
    with EventLog(folder, "r") as log:
        for i in range(50):
            log.log("e", i=i)
        assert len(writes) <= 1 + (time.monotonic() - began) / 0.3
        wait_for(lambda: len(list(read_events(folder))) == 50)
        count = len(writes)
        time.sleep(0.7)
        assert len(writes) == count  # nothing new, nothing written
        log.log("last")
    assert [event["event"] for event in read_events(folder)][-1] == "last"


def test_a_store_that_fails_does_not_stop_the_run(s3_endpoint, caplog):  # noqa: F811
    with caplog.at_level(logging.WARNING), EventLog(Place.parse("s3://no-such-bucket/out"), "r") as log:
        log.log("one")
    assert caplog.text.count("events can't be written") == 1
