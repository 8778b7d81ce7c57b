"""How far a run is: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from pipeline.storage.counts import count
from pipeline.storage.masking import unescaped
from pipeline.storage.visible import on_one_line


class Progress:
    """Shows the progress of ``total`` things (None: unknown). A context manager.

    what    what is being done, at the head of each line: ``inject``
    unit    one of what is counted: ``pair``
    done    how many are there from an earlier run; they count, but not for the rate
    failed_word  what those without success are: ``rejected``
    fleeting  leave nothing on a terminal once it ends, and elsewhere say nothing at the begin and the end: for one of
            many short things, each of which is told by other means
    stream  where to write; a bar only if this is a terminal
    clock   seconds; for tests
    """

    LINE_EVERY = 30.0  # seconds between plain lines ...
    LINE_SHARE = 0.1  # ... or this share of the whole ...
    LINE_GAP = 1.0  # ... but not more often than this, except for the first and the last

    def __init__(
        self,
        total: int | None,
        task: str,
        unit: str = "pair",
        stream: TextIO | None = None,
        *,
        done: int = 0,
        quiet: bool = False,
        failed_word: str = "failed",
        fleeting: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.done = done
        self.failed = 0
        self._task_name, self._unit, self._clock = task, unit, clock
        self._quiet, self._failed_word, self._fleeting = quiet, failed_word, fleeting
        self._stream = sys.stderr if stream is None else stream
        self._begun = clock()
        self._at_start = done
        # (time, done) a second or more apart: the rate is that of the recent past, and one tile of many pairs at a
        # time does not make it jump.
        self._samples: deque[tuple[float, int]] = deque([(self._begun, done)], maxlen=120)
        self._line_at: float | None = self._begun if fleeting else None
        self._line_done = done
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._quiet:
            return self
        if self._stream.isatty():
            self._bar = _Bar(self, self._stream)
        elif not self._fleeting:
            self._line()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None):
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if not self._quiet and not self._fleeting:
            self._write(self.summary(ended=kind is None))

    def advance(self, n: int = 1, failed: int = 0) -> None:
        """``n`` more are done, ``failed`` of them without success."""
        self.done += n
        self.failed += failed
        now = self._clock()
        if now - self._samples[-1][0] >= 1.0:
            self._samples.append((now, self.done))
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.update()
        elif self._due(now):
            self._line()

    def restart(self, text: str) -> None:
        """Begin to count the time now: what passed until here was no work. ``text`` says what it was."""
        self._begun, self._at_start = self._clock(), self.done
        self._samples.clear()
        self._samples.append((self._begun, self.done))
        self.note(f"{self._task_name}: {text}")

    def note(self, text: str) -> None:
        """Print a line of its own, without tearing the bar. Not when quiet."""
        if self._bar is not None:
            self._bar.note(on_one_line(text))
        elif not self._quiet:
            self._write(on_one_line(text))

    # ---- figures ----

    @property
    def rate(self) -> float | None:
        """Things a second, lately; None before there is anything to say."""
        begun, done = self._samples[0]
        passed = self._clock() - begun
        return (self.done - done) / passed if passed > 0 and self.done > done else None

    @property
    def seconds_left(self) -> float | None:
        """None where the total or the rate is unknown."""
        rate = self.rate
        if self.total is None or rate is None:
            return None
        return max(0, self.total - self.done) / rate

    def figures(self) -> str:
        """``120/400 pairs (30 %), 2 failed, 4.1 pairs/s, 1 min 8 s left``"""
        if self.total is None:
            parts = [count(self.done, self._unit) if self.done else "looking at what is there"]
        else:
            share = f" ({100 * self.done // self.total} %)" if self.total else ""
            parts = [f"{self.done}/{count(self.total, self._unit)}{share}"]
        if self.failed:
            parts.append(f"{self.failed} {self._failed_word}")
        rate, left = self.rate, self.seconds_left
        if rate is not None:
            parts.append(f"{_number(rate)} {self._unit}s/s" if rate >= 0.1 else f"{_number(1 / rate)} s each")
        if left:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def summary(self, ended: bool) -> str:
        """The last line."""
        made = self.done - self._at_start
        passed = self._clock() - self._begun
        counted = count(self.done, self._unit)
        if self.total is not None and self.total != self.done:
            counted = f"{self.done} of {count(self.total, self._unit)}"
        parts = [f"{self._task_name}: {'done' if ended else 'stopped'}, {counted}"]
        if self.failed:
            parts.append(f"{self.failed} {self._failed_word}")
        if self._at_start:
            parts.append(f"{self._at_start} of them from before")
        parts.append(duration(passed))
        if made and passed > 0:
            parts.append(f"{_number(made / passed)} {self._unit}s/s")
        return ", ".join(parts)

    # ---- plain lines ----

    def _due(self, now: float) -> bool:
        if self._line_at is None:
            return True
        if self.done == self.total:  # the last line says it
            return False
        since = now - self._line_at
        share = (
            bool(self.total)
            and not self._fleeting
            and self.done - self._line_done >= self.LINE_SHARE * (self.total or 0)
        )
        return since >= self.LINE_EVERY or (share and since >= self.LINE_GAP)

    def _line(self) -> None:
        self._line_at, self._line_done = self._clock(), self.done
        self._write(f"{self._task_name}: {self.figures()}")

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class _Bar:
    """The bar on a terminal. rich is imported only here: it takes a while."""

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, ProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        class Figures(ProgressColumn):
            max_refresh = 0.5

            def render(self, task: Any) -> Text:
                return Text(progress.figures())

        self._progress = progress
        self._text = Text
        self._rich = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            Figures(),
            console=Console(file=unescaped(stream), highlight=False),
            transient=True,  # the summary takes its place
            refresh_per_second=4,
        )
        self._task = self._rich.add_task(progress._task_name, total=progress.total, completed=progress.done)
        self._rich.start()

    def update(self) -> None:
        self._rich.update(self._task, completed=self._progress.done)

    def note(self, text: str) -> None:
        self._rich.console.print(self._text(text), soft_wrap=True)

    def stop(self) -> None:
        self._rich.stop()


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``"""
    whole = round(seconds)
    for size, name, small, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {name} {rest} {small_name}" if rest else f"{whole // size} {name}"
    return f"{whole} s" if seconds >= 1 or not seconds else f"{seconds:.1f} s"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.1f}"
