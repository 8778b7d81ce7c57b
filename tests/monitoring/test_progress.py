"""Progress: plain lines with a fake clock, a bar on a real pseudo-terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys

import pytest

from pipeline.monitoring.progress import Progress, duration
from pipeline.monitoring.summary import RunCounts, summary_lines
from pipeline.runner.api import STAGES
from pipeline.storage.counts import count
from pipeline.storage.place import Place


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stream():
    return io.StringIO()


def plain(stream, clock, total=100, **options) -> Progress:
    return Progress(total, "inject", stream=stream, clock=clock, **options)


def test_first_then_every_tenth_then_the_last(stream, clock):
    with plain(stream, clock) as progress:
        for _ in range(100):
            clock.now += 0.5
            progress.advance()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "inject: 0/100 pairs (0 %)"
    assert lines[1] == "inject: 10/100 pairs (10 %), 2 pairs/s, 45 s left"
    assert len(lines) == 1 + 9 + 1
    assert lines[-1] == "inject: done, 100 pairs, 50 s, 2 pairs/s"
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_at_least_every_thirty_seconds(stream, clock):
    with plain(stream, clock, total=100_000) as progress:
        for _ in range(60):
            clock.now += 6
            progress.advance(3)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 12 + 1
    assert "0.5 pairs/s" in lines[5]


def test_a_fast_run_is_not_a_flood(stream, clock):
    with plain(stream, clock, total=10) as progress:
        for _ in range(10):
            clock.now += 0.01
            progress.advance()
    assert len(stream.getvalue().splitlines()) == 2


def test_one_is_said_as_one(stream, clock):
    with plain(stream, clock, total=1) as progress:
        clock.now += 0.5
        progress.advance()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "inject: 0/1 pair (0 %)"
    assert lines[-1] == "inject: done, 1 pair, 0.5 s, 2 pairs/s"
    one = RunCounts(
        prepared=1, rejected=1, inverted=1, not_inverted=1, pairs_made=1, pairs_there=1, pairs_failed=1,
        lost=[("a x b", "cut")], pairs_repeated=1, scored=1, not_scored=1, seconds={"inject": 1.0},
    )  # fmt: skip
    texts = summary_lines(one, Place.parse("out"), STAGES, [])
    assert "made 1 pair in 1 s: 1.00 pictures/s; 1 was there already" in texts
    assert "1 row asks for a pair that another row asks for; it is made once" in texts
    assert not re.search(r"\b1 (pictures|pairs|rows|were|ask|have)\b", "\n".join(texts))
    assert count(2, "picture", "was/were") == "2 pictures were"


def test_failures_and_slow_things(stream, clock):
    with plain(stream, clock) as progress:
        clock.now += 300
        progress.advance(10, failed=2)
    lines = stream.getvalue().splitlines()
    assert lines[1] == "inject: 10/100 pairs (10 %), 2 failed, 30.0 s each, 45 min left"
    assert lines[2] == "inject: done, 10 of 100 pairs, 2 failed, 5 min, 0.033 pairs/s"


def test_what_was_there_before_does_not_count_for_the_rate(stream, clock):
    with plain(stream, clock, done=80) as progress:
        clock.now += 10
        progress.advance(10)
        assert progress.rate == pytest.approx(1.0)
        assert progress.seconds_left == pytest.approx(10)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "inject: 80/100 pairs (80 %)"
    assert lines[-1] == "inject: done, 90 of 100 pairs, 80 of them from before, 10 s, 1 pairs/s"


def test_the_rate_is_that_of_the_recent_past(stream, clock):
    with plain(stream, clock, total=10_000) as progress:
        for _ in range(100):  # slow at first
            clock.now += 10
            progress.advance()
        for _ in range(300):
            clock.now += 1
            progress.advance(10)
        assert progress.rate == pytest.approx(10, rel=0.02)


def test_an_unknown_total(stream, clock):
    with plain(stream, clock, total=None) as progress:
        clock.now += 40
        progress.advance(80)
        assert progress.seconds_left is None
    assert stream.getvalue().splitlines() == [
        "inject: looking at what is there",
        "inject: 80 pairs, 2 pairs/s",
        "inject: done, 80 pairs, 40 s, 2 pairs/s",
    ]


def test_nothing_to_do(stream, clock):
    with plain(stream, clock, total=0):
        pass
    assert stream.getvalue().splitlines() == ["inject: 0/0 pairs", "inject: done, 0 pairs, 0 s"]


def test_the_last_line_says_when_a_run_was_stopped(stream, clock):
    def run() -> None:
        with plain(stream, clock) as progress:
            progress.advance(5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert stream.getvalue().splitlines()[-1].startswith("inject: stopped, 5 of 100 pairs")


def test_notes(stream, clock):
    with plain(stream, clock) as progress:
        progress.note("worker 1 died [bold]")
    assert stream.getvalue().splitlines()[1] == "worker 1 died [bold]"


def test_quiet_is_quiet_and_still_counts(stream, clock):
    with plain(stream, clock, quiet=True) as progress:
        progress.advance(50, failed=1)
        progress.note("nothing")
    assert stream.getvalue() == ""
    assert (progress.done, progress.failed) == (50, 1)


def test_what_is_fleeting_says_something_only_where_it_takes_long(stream, clock):
    with plain(stream, clock, fleeting=True) as progress:
        for _ in range(50):
            clock.now += 0.5
            progress.advance()
        assert stream.getvalue() == ""
        for _ in range(50):
            clock.now += 0.5
            progress.advance()
    assert stream.getvalue().splitlines() == ["inject: 60/100 pairs (60 %), 2 pairs/s, 20 s left"]


def test_rich_is_not_imported_for_plain_lines():
    script = (
        "import io, sys; from pipeline.monitoring.progress import Progress\n"
        "with Progress(3, 'x', stream=io.StringIO()) as p: p.advance(3)\n"
        "assert not any(name.split('.')[0] == 'rich' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


ON_A_TERMINAL = """
import time
from pipeline.monitoring.progress import Progress
with Progress(40, "inject") as progress:
    for i in range(40):
        time.sleep(0.02)
        progress.advance(1, failed=i == 7)
        if i == 20:
            progress.note("a note [with brackets] " + "long " * 40)
"""


def on_a_terminal(script: str) -> str:
    """What a process whose stderr is a terminal writes there."""
    driver, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "110"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen([sys.executable, "-c", script], stderr=terminal, env=environment)
    os.close(terminal)
    written = b""
    while True:
        try:
            piece = os.read(driver, 65536)
        except OSError:  # the other end was closed
            break
        if not piece:
            break
        written += piece
    os.close(driver)
    assert process.wait() == 0
    return written.decode()


def test_a_bar_on_a_terminal():
    written = on_a_terminal(ON_A_TERMINAL)
    assert "\x1b[" in written  # a bar is drawn
    assert "inject" in written
    assert "pairs/s" in written
    assert "1 failed" in written
    note = "a note [with brackets] " + "long " * 40
    assert note.strip() in written  # in one piece, neither wrapped nor taken for markup
    assert "inject: done, 40 pairs, 1 failed" in written.splitlines()[-1]
    assert written.count("\x1b[?25h") == written.count("\x1b[?25l") == 1  # the cursor is given back


def test_the_cursor_is_given_back_after_ctrl_c():
    script = ON_A_TERMINAL.replace("if i == 20:", "if i == 20: raise SystemExit(0)\n        if False:")
    written = on_a_terminal(script)
    assert written.count("\x1b[?25h") == 1
    assert "inject: stopped, 21 of 40 pairs" in written


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.25, "0.2 s"),
        (59, "59 s"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
