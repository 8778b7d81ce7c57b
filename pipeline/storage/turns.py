"""The turns of a lock: numbered, one holder each, on a disk or on an object store. ``lock.py`` says what they are for.

Both kinds answer the same few questions. What they rest on is that a number can be begun by one holder only (the rename
of a folder that has files; a conditional put), and that the newest number never goes away.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow.fs as pafs

from diffstyle.errors import DiffStyleError
from pipeline.storage import objects
from pipeline.storage.conditional import create
from pipeline.storage.errors import Stopped
from pipeline.storage.holder import NOBODY, Holder
from pipeline.storage.place import Entry, Place

FOLDER = ".lock"
#: So many turns before the newest one stay on a store: a run whose listing lags behind finds its way from there.
KEPT = 8


@dataclass(frozen=True)
class Turn:
    """One holder's time with the lock. Two looks are equal if nothing has happened in between."""

    number: int
    is_open: bool  # neither released nor taken over
    holder: Holder = NOBODY
    beats: int = 0  # heartbeats counted, on a store
    beat_at: float = 0.0  # the last one, in seconds by the clock of the disk or store
    seal: int = 0  # see TurnFence.seal


class Turns(Protocol):
    """The two ways of keeping turns."""

    def newest(self) -> Turn: ...

    def fence_off(self, number: int) -> None:
        """What can be done against the holder of a turn before the next begins. Several may do it, and do it again."""

    def begin(self, turn: Turn) -> bool:
        """Let ``turn`` begin, if nobody has begun that number or a later one. The turn before it is over by now."""

    def beat(self, turn: Turn) -> None: ...
    def release(self, turn: Turn) -> None: ...

    def tidy(self, number: int) -> None:
        """Remove what is left of the turns before ``number``."""

    def fence(self, turn: Turn) -> TurnFence: ...


@dataclass
class TurnFence:
    """The holder's right to write below ``root``; goes to its workers too.

    turn  the number of the holder's turn
    seal  a store whose newest seal is older than this turn may still get a commit of a holder that was taken over
    """

    root: Place
    turn: int
    seal: int

    def check(self) -> None:
        """Raise Stopped if the turn is over."""
        self.check_now()

    def check_now(self) -> None:
        """The same, and on a store it asks even where :meth:`check` asked a moment ago."""
        if self.is_over():
            raise Stopped(
                f"{self.root}: the lock was removed or taken over while this run held it, so nothing more is written; "
                "wait until the other run has ended, then run the job again"
            )

    def is_over(self) -> bool:
        raise NotImplementedError

    def files(self, folder: Place, again: bool = False) -> list[Entry]:
        """The files of a folder, hidden ones too; ``again``: as they are now, where that may be known already."""
        return folder.list(hidden=None)

    def changed(self, entry: Entry, gone: bool) -> None:
        """Nothing: a disk is looked at each time."""

    def forget(self, folder: Place) -> None:
        """Nothing, as above."""

    def draft(self) -> Path:
        """A new name in the holder's own folder, on a disk."""
        raise NotImplementedError


# ---- on a disk ----


class DiskTurns:
    """``.lock/NUMBER/`` with ``holder.json``, touched at each heartbeat, and ``drafts/``, there while it is open."""

    def __init__(self, output: Place) -> None:
        self._output = output
        self._root = Path(output.path) / FOLDER

    def newest(self) -> Turn:
        with contextlib.suppress(FileNotFoundError):
            number = max((int(name) for name in os.listdir(self._root) if name.isdigit()), default=0)  # noqa: PTH208
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._holder(number).open("rb") as stream:
                beat_at, holder = os.fstat(stream.fileno()).st_mtime, Holder.read(stream.read())
                return Turn(number, _drafts(self._output, number).is_dir(), holder, beat_at=beat_at)
            return Turn(number, _drafts(self._output, number).is_dir())
        return Turn(0, is_open=False)

    def begin(self, turn: Turn) -> bool:
        new = self._root / f".new-{turn.holder.token}"
        try:
            new.mkdir(parents=True)
            (new / "holder.json").write_bytes(turn.holder.dump())
            (new / "drafts").mkdir()
            new.rename(self._folder(turn.number))
        except OSError as error:
            _remove(new)
            # Somebody was faster: the number is taken, or whoever took it has tidied up.
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) and self._root.is_dir():
                return False
            raise
        if self.newest().number == turn.number:
            return True
        _remove(self._folder(turn.number))  # it was free because it is long past
        return False

    def beat(self, turn: Turn) -> None:
        os.utime(self._holder(turn.number))

    def fence_off(self, number: int) -> None:
        # The name goes first, so that nothing new comes in; then the folder itself, for who has it open over a network.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            _drafts(self._output, number).rename(self._folder(number) / f"closed-{uuid.uuid4().hex[:8]}")
        with contextlib.suppress(FileNotFoundError):  # of several that take over, a faster one has tidied up by now
            for left in self._folder(number).glob("closed-*"):
                _remove(left)

    def release(self, turn: Turn) -> None:
        self.fence_off(turn.number)

    def tidy(self, number: int) -> None:
        for entry in self._root.iterdir():
            if entry.name.startswith(".new-") or (entry.name.isdigit() and int(entry.name) < number):
                _remove(entry)

    def fence(self, turn: Turn) -> TurnFence:
        return _DiskFence(self._output, turn.number, turn.seal)

    def _folder(self, number: int) -> Path:
        return self._root / f"{number:08}"

    def _holder(self, number: int) -> Path:
        return self._folder(number) / "holder.json"


class _DiskFence(TurnFence):
    def is_over(self) -> bool:
        return not _drafts(self.root, self.turn).is_dir()

    def draft(self) -> Path:
        return _drafts(self.root, self.turn) / uuid.uuid4().hex[:16]


def _drafts(output: Place, number: int) -> Path:
    return Path(output.path) / FOLDER / f"{number:08}" / "drafts"


def _remove(path: Path) -> None:
    """Remove a file or folder; others may be at it too, or still be putting files in."""
    for _ in range(100):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            if not path.exists():
                return
        except NotADirectoryError:
            path.unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise OSError(errno.ENOTEMPTY, "somebody keeps writing into it", str(path))


# ---- on an object store ----


class StoreTurns:
    """The object ``.lock/NUMBER``, written again at each heartbeat and at the release."""

    def __init__(self, output: Place) -> None:
        self._output = output

    def newest(self) -> Turn:
        while True:
            entries = _numbers(self._output)
            number = max(entries, default=0)
            # A listing may lag behind: from the newest turn that it shows the way goes on object by object.
            while self._place(number + 1).is_file():
                number += 1
            if not number or (number in entries and entries[number].type != pafs.FileType.File):
                return Turn(number, is_open=False)  # a folder: copied from a disk, nobody's turn
            with contextlib.suppress(FileNotFoundError):  # removed since, or the listing still shows it
                return self._read(number)
            time.sleep(0.1)

    def _read(self, number: int) -> Turn:
        place = self._place(number)
        data, beat_at = objects.get_dated(place.scheme, place.path)
        try:
            stored = json.loads(data)
            holder = Holder.read(json.dumps(stored["holder"]).encode())
            return Turn(number, stored["open"], holder, stored["beats"], beat_at, stored["seal"])
        except (ValueError, TypeError, KeyError):
            return Turn(number, is_open=True, beat_at=beat_at, seal=number)

    def fence_off(self, number: int) -> None:
        """Nothing: the next number ends this turn, and seals keep out what its holder may still write."""

    def begin(self, turn: Turn) -> bool:
        place, data = self._place(turn.number), _dump(turn)
        if not create(place, data):
            return False
        if create(place, data + b" "):
            raise DiffStyleError(
                f"{self._output}: this store ignores conditional writes (If-None-Match), so two runs could write here "
                "at once; update the store's server, or give the job an output elsewhere"
            )
        if self.newest().number == turn.number:
            return True
        _delete(place)  # it was free because it is long past
        return False

    def beat(self, turn: Turn) -> None:
        self._place(turn.number).put(_dump(turn))

    def release(self, turn: Turn) -> None:
        if not _StoreFence(self._output, turn.number, turn.seal).is_over():
            self._place(turn.number).put(_dump(replace(turn, is_open=False)))

    def tidy(self, number: int) -> None:
        for other, info in _numbers(self._output).items():
            if other < number - KEPT and info.type == pafs.FileType.File:
                _delete(self._place(other))

    def fence(self, turn: Turn) -> TurnFence:
        fence = _StoreFence(self._output, turn.number, turn.seal)
        fence.folders = {}
        return fence

    def _place(self, number: int) -> Place:
        return _turn_place(self._output, number)


class _StoreFence(TurnFence):
    """The fence on a store. In the holder's own process, which alone commits, it also knows what it has listed once.

    So a folder of index files is listed once a run, and what this run wrote is seen though a listing may lag behind.
    """

    LOOK_EVERY = 5.0  # seconds; asking costs two requests
    _looked: float | None = None
    folders: dict[Place, dict[Place, Entry | None]] | None = None  # None: in a worker; of a file: it is deleted

    def check(self) -> None:
        now = time.monotonic()
        if self._looked is None or now - self._looked > self.LOOK_EVERY:
            super().check()
            self._looked = now

    def is_over(self) -> bool:
        # No listing: the next turn's number is known, so are both names.
        return not _turn_place(self.root, self.turn).is_file() or _turn_place(self.root, self.turn + 1).is_file()

    def files(self, folder: Place, again: bool = False) -> list[Entry]:
        if self.folders is None:
            return super().files(folder)
        known = self.folders.get(folder)
        if known is None or again:
            listed = {entry.place: entry for entry in super().files(folder)}
            known = self.folders[folder] = {**listed, **(known or {})}  # what this process did is newer than a listing
        entries = (entry for entry in known.copy().values() if entry is not None)
        return sorted(entries, key=lambda entry: entry.place.path)

    def changed(self, entry: Entry, gone: bool) -> None:
        known = None if self.folders is None else self.folders.get(entry.place.parent)
        if known is not None:
            known[entry.place] = None if gone else entry

    def forget(self, folder: Place) -> None:
        for known in list(self.folders or ()):
            if f"{known.path}/".startswith(f"{folder.path}/"):
                (self.folders or {}).pop(known, None)

    def __reduce__(self) -> tuple[Any, ...]:  # without when it looked: a worker's clock is another one
        return type(self), (self.root, self.turn, self.seal)


def _turn_place(output: Place, number: int) -> Place:
    return output / FOLDER / f"{number:08}"


def _numbers(output: Place) -> dict[int, pafs.FileInfo]:
    folder = output / FOLDER
    infos = folder.fs.get_file_info(pafs.FileSelector(folder.path, allow_not_found=True))
    return {int(info.base_name): info for info in infos if info.base_name.isdigit()}


def _delete(place: Place) -> None:
    objects.delete(place.scheme, place.path)


def _dump(turn: Turn) -> bytes:
    stored = {"open": turn.is_open, "beats": turn.beats, "seal": turn.seal, "holder": asdict(turn.holder)}
    return json.dumps(stored).encode()
