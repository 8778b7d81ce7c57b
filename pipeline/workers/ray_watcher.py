"""Ends an embedded Ray whose program was killed. Also a program, that :mod:`pipeline.workers.ray_cluster` starts.

It imports nothing but the standard library, so that it starts in a moment and stays small.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

Process = tuple[int, str]  # its number and when it started, which tells it from a later one of that number


def end_embedded(folder: Path, patience: float) -> None:
    """End the processes of the Ray in ``folder``, and remove the folder.

    Args:
        folder: The temporary folder of one embedded Ray.
        patience: How many seconds they have to end by themselves.
    """
    give_up = time.monotonic() + patience
    while processes_of(folder) and time.monotonic() < give_up:
        time.sleep(0.05)
    # One that is about to be started by another can appear after the first look.
    give_up = time.monotonic() + 5
    while (left := processes_of(folder)) and time.monotonic() < give_up:
        for number, _ in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> set[Process]:
    """The living processes of the Ray in ``folder``: by their command they are Ray's, and they write there.

    A viewer that reads a log there is not one, nor a fork of the program that started Ray. Empty without a /proc.
    """
    processes = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # After the command's name, which may hold anything: the state, and, 20th, the start.
            words = (process / "stat").read_text().rpartition(")")[2].split()
            command = (process / "cmdline").read_bytes()
            of_ray = command.startswith(b"ray::") or os.fsencode(folder) in command
            if of_ray and words[0] not in "ZX" and _writes_below(process, folder):
                processes.add((int(process.name), words[19]))
    return processes


def _writes_below(process: Path, folder: Path) -> bool:
    for link in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith(f"{folder}/"):
                flags = (process / "fdinfo" / link.name).read_text().partition("flags:")[2].split()[0]
                if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                    return True
    return False


def _watch(program: int, folder: Path) -> None:
    """Wait until the process ``program``, which started this one, has ended in whatever way."""
    while os.getppid() == program:
        time.sleep(0.5)
    if folder.exists():
        end_embedded(folder, patience=0)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), Path(sys.argv[2]))
