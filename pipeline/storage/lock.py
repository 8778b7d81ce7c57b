"""One run at a time on an output folder, told by a lock that outlives nobody.

**On a disk** the lock is the file ``.lock``, created exclusively. Its modification time is the holder's heartbeat,
renewed every 20 s. A holder on this machine is dead when its process is gone (or its pid now belongs to another
process); a holder elsewhere when its heartbeat is older than 120 s by the file system's own clock. To take a dead
holder's lock over, a run must first hold the guard ``.lock.after-TOKEN``, named by the dead lock's token and locked in
the very same way, then see that ``.lock`` still bears that token, and only then replace it. So of any number of takers
one wins, and a taker that dies half-way is itself taken over. Releasing goes through the same guard.

**On an object store**, where nothing can be created exclusively, each run writes a claim of its own, ``.lock/TOKEN``,
and then lists all claims; who sees no other living claim holds the lock, everyone else withdraws. Of two runs the one
that writes second must see the first, so never do both win. That rests on listings that show every finished write, as
S3, GCS and MinIO promise; on a store that does not, two runs started in the same moment could both go on. Claims older
than 120 s by the store's clock are dead and are removed by whoever takes over. A holder that was stopped for longer (a
sleeping machine) finds itself replaced at its next :meth:`OutputLock.check`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pyarrow.fs as pafs

from diffstyle.errors import DiffStyleError
from pipeline.storage.errors import Stopped
from pipeline.storage.place import Place

log = logging.getLogger(__name__)

BEAT_EVERY = 20.0
DEAD_AFTER = 120.0
NAME = ".lock"


class LockedError(DiffStyleError):
    """Another run holds the output folder."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as the lock itself says."""

    token: str
    host: str = "an unknown host"
    pid: int = 0
    started: str = "an unknown time"
    command: str = ""
    process_start: str = ""  # tells a process from a later one with the same pid
    machine: str = ""  # tells whether pids can be compared: one boot of one machine, one pid namespace
    held: bool = True  # False: a claim on an object store that is not decided yet

    @classmethod
    def me(cls) -> Holder:
        """This process, with a fresh token."""
        return cls(
            token=uuid.uuid4().hex[:16],
            host=socket.gethostname(),
            pid=os.getpid(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            command=shlex.join(sys.argv)[:300],
            process_start=_process_start(os.getpid()) or "",
            machine=_machine(),
        )

    @classmethod
    def read(cls, data: bytes, token: str) -> Holder:
        """The holder that wrote ``data``; what can't be read (a run was killed while writing) is nobody's ``token``."""
        try:
            there = json.loads(data)
            return cls(**{name: there[name] for name in (f.name for f in fields(cls)) if name in there})
        except (ValueError, TypeError):
            return cls(token)

    def dump(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    def alive(self, silent_for: float) -> bool:
        """Whether the holder is still there, ``silent_for`` seconds after its last heartbeat."""
        if self.machine and self.machine == _machine():
            return _process_start(self.pid) == self.process_start
        return silent_for < DEAD_AFTER

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.started}" + (
            f" ({self.command})" if self.command else ""
        )


class _Lock(Protocol):
    """The two ways of locking."""

    look_every: float  # how stale a look at the lock may be, in seconds, before `check` looks again

    def take(self) -> Holder | None:
        """Take the lock: None if it is now held by this process, otherwise who holds it."""

    def beat(self) -> None: ...
    def mine(self) -> bool: ...
    def release(self) -> None: ...


class OutputLock:
    """Holds an output folder for one run. A context manager: entering takes the lock or raises LockedError.

    Call :meth:`check` before each commit: it raises Stopped if the lock has been lost meanwhile.
    """

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        self.me = Holder.me()
        self.lost = False
        self._lock: _Lock = _FileLock(Path(folder.path) / NAME, self.me) if folder.is_local else _Claim(folder, self.me)
        self._looked = time.monotonic()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> OutputLock:
        try:
            holder = self._lock.take()
        except OSError as error:
            raise DiffStyleError(
                f"{self.folder}: can't be written ({error.strerror or str(error).splitlines()[0]}); "
                "mend that or give the job another output folder"
            ) from error
        if holder is not None:
            raise LockedError(
                f"{self.folder} is in use by {holder}; wait until it ends, stop it, or give this job another output "
                f"folder (a run that was killed on another machine lets go within {DEAD_AFTER:.0f} s)"
            )
        self._looked = time.monotonic()
        self._end.clear()
        self._thread = threading.Thread(target=self._keep, name="output-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        try:
            self._lock.release()
        except OSError as error:  # must not hide why the block ended; the lock goes stale by itself
            log.warning("%s: the lock could not be removed (%s)", self.folder, error)

    def check(self) -> None:
        """Raise Stopped if this run no longer holds the folder."""
        if not self.lost and time.monotonic() - self._looked > self._lock.look_every:
            self._look()
        if self.lost:
            raise Stopped(
                f"{self.folder}: the lock was removed or taken over while this run held it; "
                "make sure that no other run is writing there, then run the job again"
            )

    def _look(self) -> None:
        if not self._lock.mine():
            self.lost = True
        self._looked = time.monotonic()

    def _keep(self) -> None:
        while not self._end.wait(BEAT_EVERY):
            try:
                self._look()
                if self.lost:
                    return
                self._lock.beat()
            except OSError as error:  # a network that is away for a moment; the next commit fails if it stays away
                log.warning("%s: no heartbeat of the lock (%s)", self.folder, error)


def holder_of(folder: Place) -> Holder | None:
    """Who holds ``folder`` now, or None; for showing only, nothing is changed."""
    if folder.is_local:
        there = _read_file(Path(folder.path) / NAME)
        found = [] if there is None else [there]
    else:
        found = _read_claims(folder / NAME)
    # By this machine's clock, which need not be the one that stamps: asking that one would take a write.
    return next((holder for holder, beat in found if holder.held and holder.alive(time.time() - beat)), None)


# ---- on a disk ----


class _FileLock:
    look_every = 1.0

    def __init__(self, path: Path, me: Holder) -> None:
        self._path = path
        self._me = me

    def take(self) -> Holder | None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            if self._create():
                return None
            there = _read_file(self._path, patiently=True)
            if there is None:  # released a moment ago
                continue
            holder, beat = there
            if holder.alive(self._now() - beat):
                return holder
            with self._guard(holder.token) as other:
                if other is not None:
                    return other
                if self._bears(holder.token):  # otherwise somebody was faster; judge what is there now
                    self._replace()
                    log.warning("%s: taken over from %s, which is gone", self._path, holder)
                    return None

    def beat(self) -> None:
        os.utime(self._path)

    def mine(self) -> bool:
        return self._bears(self._me.token)

    def _bears(self, token: str) -> bool:
        there = _read_file(self._path)
        return there is not None and there[0].token == token

    def release(self) -> None:
        with self._guard(self._me.token) as other:
            if other is None and self.mine():
                self._path.unlink()

    @contextlib.contextmanager
    def _guard(self, token: str) -> Iterator[Holder | None]:
        """Hold the right to change a lock that bears ``token``; gives who has that right otherwise."""
        guard = _FileLock(self._path.with_name(f"{NAME}.after-{token}"), self._me)
        other = guard.take()
        try:
            yield other
        finally:
            if other is None:
                guard._path.unlink(missing_ok=True)

    def _create(self) -> bool:
        try:
            with self._path.open("xb") as stream:  # O_EXCL
                stream.write(self._me.dump())
        except FileExistsError:
            return False
        return True

    def _replace(self) -> None:
        # By rename, so that no reader ever sees an empty lock.
        draft = self._path.with_name(f"{NAME}.draft-{uuid.uuid4().hex[:16]}")
        draft.write_bytes(self._me.dump())
        draft.replace(self._path)

    def _now(self) -> float:
        """The clock that stamps files in this folder, which need not be this machine's."""
        probe = self._path.with_name(f"{NAME}.clock-{uuid.uuid4().hex[:16]}")
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return now


def _read_file(path: Path, patiently: bool = False) -> tuple[Holder, float] | None:
    """A lock file's holder and heartbeat; None if there is no lock. ``patiently``: an empty one is being written."""
    for _ in range(20 if patiently else 1):
        try:
            with path.open("rb") as stream:
                about, data = os.fstat(stream.fileno()), stream.read()
        except FileNotFoundError:
            return None
        if data:
            break
        time.sleep(0.05)
    return Holder.read(data, f"unreadable-{about.st_ino}"), about.st_mtime


# ---- on an object store ----


class _Claim:
    look_every = 5.0
    PATIENCE = 10.0  # how long the first of several undecided claims waits for the others to withdraw
    PAUSE = 0.3
    SIZE = 2048

    def __init__(self, folder: Place, me: Holder) -> None:
        self._folder = folder / NAME
        self._me = me
        self._own = self._folder / me.token

    def take(self) -> Holder | None:
        self._write(held=False)
        try:
            rival = self._compete()
            if rival is None:
                self._write(held=True)
                return None
        except BaseException:
            self._own.delete()
            raise
        self._own.delete()
        return rival

    def beat(self) -> None:
        self._write(held=True)

    def mine(self) -> bool:
        """Whether the claim is there and no other run has the lock (after a long sleep of this one)."""
        claims = _read_claims(self._folder)
        return any(h.token == self._me.token for h, _ in claims) and not any(
            h.held for h, _ in self._others(claims) if h.token != self._me.token
        )

    def release(self) -> None:
        self._own.delete()

    def _write(self, held: bool) -> None:
        # Always of one size: a reader may ask for the size before this write and for the bytes after it.
        self._own.write_bytes(replace(self._me, held=held).dump().ljust(self.SIZE))

    def _compete(self) -> Holder | None:
        give_up = time.monotonic() + self.PATIENCE
        while True:
            others = [holder for holder, _ in self._others(_read_claims(self._folder))]
            if not others:
                return None
            first = min(others, key=lambda h: (not h.held, h.token))
            # Among undecided claims the smallest token stays; being alone in the list is still what decides.
            if first.held or first.token < self._me.token or time.monotonic() > give_up:
                return first
            time.sleep(self.PAUSE)

    def _others(self, claims: list[tuple[Holder, float]]) -> list[tuple[Holder, float]]:
        """The living claims of others. Dead ones are removed."""
        now = max((beat for _, beat in claims), default=0.0)  # the store's own clock: the newest thing it stamped
        living = []
        for holder, beat in claims:
            if holder.token == self._me.token:
                continue
            if holder.alive(now - beat):
                living.append((holder, beat))
                continue
            log.warning("%s: taken over from %s, which is gone", self._folder, holder)
            (self._folder / holder.token).delete()
        return living


def _read_claims(folder: Place) -> list[tuple[Holder, float]]:
    """All claims with the times of their heartbeats."""
    found = []
    for info in folder.fs.get_file_info(pafs.FileSelector(folder.path, allow_not_found=True)):
        if info.type != pafs.FileType.File:
            continue
        claim = Place(folder.scheme, info.path)
        try:
            data = claim.read_bytes()
        except OSError:  # which one depends on the moment when it was withdrawn, since the listing or while reading
            if claim.exists():
                raise
            continue
        found.append((Holder.read(data, info.base_name), (info.mtime_ns or 0) / 1e9))
    return found


# ---- processes ----


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
