"""Who holds a lock, and whether its process is still there."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import uuid
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock, as the lock itself says."""

    host: str = "an unknown host"
    pid: int = 0
    started: str = "an unknown time"
    command: str = ""
    process_start: str = ""  # tells a process from a later one with the same pid
    machine: str = ""  # tells whether pids can be compared: one boot of one machine, one pid namespace
    token: str = ""

    @classmethod
    def me(cls) -> Holder:
        """This process, with a fresh token."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            command=shlex.join(sys.argv)[:300],
            process_start=_process_start(os.getpid()) or "",
            machine=_machine(),
            token=uuid.uuid4().hex[:16],
        )

    @classmethod
    def read(cls, data: bytes) -> Holder:
        """The holder that wrote ``data``; a power cut may leave bytes that say nothing, and they are nobody's."""
        try:
            stored = json.loads(data)
            return cls(**{name: stored[name] for name in (f.name for f in fields(cls)) if name in stored})
        except (ValueError, TypeError):
            return cls()

    def dump(self) -> bytes:
        """What :meth:`read` reads."""
        return json.dumps(asdict(self)).encode()

    def alive(self) -> bool | None:
        """Whether the process is still there; None where this machine can't know."""
        if self.machine and self.machine == _machine():
            return _process_start(self.pid) == self.process_start
        return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.started}" + (
            f" ({self.command})" if self.command else ""
        )


NOBODY = Holder()


def _machine() -> str:
    """Names one boot of one machine and one pid namespace: where equal, pids mean the same processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return f"{socket.gethostname()}/{uuid.getnode():x}"


def _process_start(pid: int) -> str | None:
    """When a process started, in whatever words the system uses; None if there is no such process (or only its end)."""
    if Path("/proc/self/stat").exists():
        try:
            # After the command's name, which may hold anything, come the state and, 20th, the start time in ticks.
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if words[0] in "ZX" else words[19]
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
