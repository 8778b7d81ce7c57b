"""One run at a time on an output folder, and a fence that keeps out a run which slept while another took over.

Holders have *turns*, numbered 1, 2, 3, ... The newest turn is all that matters; it is **open** (somebody holds the
output) or **over** (nobody does). There are four steps, and ``turns.py`` has them for a disk and for a store:

- *begin* N + 1 when N is over. A number can be begun once: on a disk a folder that has all it needs is renamed to
  ``.lock/NUMBER``, which fails where one is; on a store ``.lock/NUMBER`` is put on condition that there is none.
- *beat*, every 20 s.
- *release*: the turn is over.
- *take over* an open turn whose holder is gone: fence it off, which ends it, then begin the next.

A kill between any two of them leaves the newest turn open or over, so the next run goes on from there. What a kill
leaves beside it (a folder that was not renamed yet, older turns) is removed by the next holder. The newest turn is
never removed, so a run that comes late with a number that was used long ago sees a higher one and steps back. On a
store some turns before the newest stay too: a listing there may lag behind, so it is only where to begin, and the way
to the newest turn goes on object by object. Whether a turn is the newest is asked without any listing.

**Who is gone.** A process of this machine is gone when there is no such process. A process elsewhere is gone when no
heartbeat came while this one watched for 120 s by its own steady clock: no times of two machines are compared.

**The fence.** On a disk all that the holder and its workers write is drafted in ``.lock/NUMBER/drafts/`` and renamed
out of it, and what they delete is renamed into it (``place.py``). A turn is open as long as that folder is there; to
fence its holder off is to remove the folder. So a holder that was stopped, wakes up and goes on fails at its next
rename, and all that it ever committed was there before its successor looked. On a store, where nothing can be renamed,
each write asks first whether its turn is the newest. A pause between asking and writing remains; so the names of index
files carry the turn, and a new holder seals each store before it reads it: what counts of earlier turns is written
down, and what comes later does not count (``parts.py``).
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from dataclasses import replace

from diffstyle.errors import DiffStyleError
from pipeline.storage.errors import Stopped, reason_of
from pipeline.storage.holder import Holder
from pipeline.storage.place import FENCES, Place
from pipeline.storage.turns import DiskTurns, StoreTurns, Turn, TurnFence, Turns

log = logging.getLogger(__name__)

BEAT_EVERY = 20.0
DEAD_AFTER = 120.0
LOOK_EVERY = 1.0


class LockedError(DiffStyleError):
    """Another run holds the output folder."""


class OutputLock:
    """Holds an output folder for one run. A context manager: entering takes the lock or raises LockedError.

    While it is held, only this process and its workers can write below the folder; call :meth:`check` where it is
    good to know early that this is over.
    """

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        self._turns: Turns = DiskTurns(folder) if folder.is_local else StoreTurns(folder)
        self._turn = Turn(0, is_open=True, holder=Holder.me())
        self._fence: TurnFence | None = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> OutputLock:
        try:
            self._take()
        except KeyboardInterrupt:
            if self._turns.newest().holder == self._turn.holder:
                self._turns.release(self._turn)
            raise
        except OSError as error:
            why = f"{self.folder}: can't be written ({reason_of(error)})"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Stopped(f"{why}; free some space and run the job again") from error
            raise DiffStyleError(f"{why}; fix that or give the job another output folder") from error
        self._fence = FENCES[self.folder] = self._turns.fence(self._turn)
        self._end.clear()
        self._thread = threading.Thread(target=self._keep, name="output-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        if FENCES.get(self.folder) is self._fence:
            del FENCES[self.folder]
        try:
            self._turns.release(self._turn)
        except OSError as error:  # must not hide why the block ended; this process ends, and so does its turn
            log.warning("%s: the lock could not be released (%s)", self.folder, error)

    def check(self) -> None:
        """Raise Stopped if this run no longer holds the folder."""
        if self._fence is not None:
            self._fence.check()

    def _take(self) -> None:
        while True:
            newest = self._turns.newest()
            seal = newest.seal
            if newest.is_open:
                if not self._is_gone(newest):
                    continue
                self._turns.fence_off(newest.number)
                seal = newest.number + 1
            self._turn = replace(self._turn, number=newest.number + 1, seal=seal)
            if self._turns.begin(self._turn):
                break
        if newest.is_open:
            log.warning("%s: taken over from %s, which is gone", self.folder, newest.holder)
        self._turns.tidy(self._turn.number)

    def _is_gone(self, turn: Turn) -> bool:
        """Whether the holder of an open turn is gone; False if the turn changed meanwhile. LockedError if it lives."""
        alive, since = turn.holder.alive(), time.monotonic()
        if alive is None:
            log.warning(
                "%s: held by %s; waiting %.0f s at most for a sign of life", self.folder, turn.holder, DEAD_AFTER
            )
        while alive is None:
            silent_for = time.monotonic() - since
            look = self._turns.newest()  # after the clock: the silence is at least as long
            if look == turn:
                alive = None if silent_for < DEAD_AFTER else False
                time.sleep(LOOK_EVERY if alive is None else 0)
            elif look.number == turn.number and look.is_open:
                alive = True
            else:
                return False
        if alive:
            raise LockedError(
                f"{self.folder} is in use by {turn.holder}; wait until it ends, stop it, or give this job another "
                "output folder"
            )
        return True

    def _keep(self) -> None:
        while not self._end.wait(BEAT_EVERY):
            try:
                if self._fence is not None and self._fence.is_over():
                    return
                self._turn = replace(self._turn, beats=self._turn.beats + 1)
                self._turns.beat(self._turn)
            except OSError as error:  # a network that is away for a moment; the next commit fails if it stays away
                log.warning("%s: no heartbeat of the lock (%s)", self.folder, error)


def holder_of(folder: Place) -> Holder | None:
    """Who holds ``folder`` now, or None; for showing only, nothing is changed."""
    turn = (DiskTurns(folder) if folder.is_local else StoreTurns(folder)).newest()
    if not turn.is_open:
        return None
    alive = turn.holder.alive()
    # For showing, the clocks of this machine and of the store are near enough.
    return turn.holder if alive or (alive is None and time.time() - turn.beat_at < DEAD_AFTER) else None
