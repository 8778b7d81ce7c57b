"""A folder that grows by whole parts: the one commit protocol of shards, banks and manifests.

::

    STORE/
      description.json       what the store holds and how it was made; parts that differ in it never mix
      data/PART.EXT          the payload, written first
      index/PART.parquet     a row for each item of the part; its appearance is the commit

A kill at any moment leaves at most a payload without an index part. Nothing reads such a payload; the part is made
again under the same name or removed by :meth:`PartStore.remove_uncommitted`.

On an object store, a holder of the output that was taken over may still be writing (``lock.py`` says why), so there:

- the index file of a part is called ``PART.TURN.parquet``, after its writer's turn with the lock in eight digits;
- ``index/.seal-TURN.json`` says which files of earlier turns counted when that turn took over and came to this store.

A file counts if it is of the newest seal's turn or a later one, or in that seal, or has no turn in its name (it was
copied from a disk). Of several that count for a part, that of the latest turn is the part's.

Many small parts are merged into larger ones; ``merging.py`` says how.
"""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, TypeVar

import pyarrow as pa

from diffstyle.errors import ConfigError, one_line
from pipeline.storage import merging
from pipeline.storage.conditional import create
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Entry, Place
from pipeline.storage.stored_description import StoredDescription
from pipeline.storage.tables import DamagedError, read_about, read_table, write_table

T = TypeVar("T")
#: So many turns are looked back for what a listing that lags behind may not show.
KEPT = 8


# Parts are called by what made them and a hash; a name from a table must not lead out of the folder.
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_INDEX_FILE = re.compile(r"(?P<part>.+?)(?:\.(?P<turn>\d{8}))?\.parquet", re.DOTALL)
_PAYLOADS = "diffstyle-payloads"  # in the footer of a merged part
_SEAL = re.compile(r"\.seal-(\d{8})\.json")


class PartStore:
    """See the module's text. ``data`` and ``index`` are the names of the two folders."""

    def __init__(self, root: Place, data: str = "data", index: str = "index", description: str = "description.json"):
        self.root = root
        self.data_folder = root / data
        self.index_folder = root / index
        self._description = StoredDescription(root, description)
        self._places: dict[str, Place] = {}  # of the index files, as last listed
        self._gone: set[Place] = set()  # index files that a listing showed though they were deleted

    @property
    def cure(self) -> str:
        """What to do about a damaged file of the store; the end of an error's line."""
        output = self.root.parent.parent if self.root.parent.name in ("shards", "banks") else self.root
        if self.root.name == OutputLayout.NETWORKS:
            output = self.root.parent
        if output == self.root and self._description.is_usual:  # shards or a bank that stand alone
            return "delete the files of its part, in index/ first, and make them again"
        return f"run `diffstyle verify {output} --repair`, which drops it, then the job again"

    # ---- description ----
    def description(self) -> dict[str, Any]:
        """The store's description; DescriptionError where there is none or it is not JSON."""
        return self._description.read()

    def exists(self) -> bool:
        return self._description.exists()

    def describe(self, identity: dict[str, Any], about: dict[str, Any]) -> None:
        """Open the store for parts of this identity, or refuse: :meth:`StoredDescription.write`."""
        self._description.write(identity, about)

    def check(self, identity: dict[str, Any]) -> None:
        """Refuse as :meth:`describe` does, and write nothing: a store that is not there yet can be of any identity."""
        self._description.check(identity)

    # ---- parts ----
    def parts(self) -> list[str]:
        """Names of the committed parts, sorted."""
        return list(self.entries())

    def entries(self) -> dict[str, Entry]:
        """Part -> its index file, of the committed parts, sorted by name."""
        files, hidden = self._listed()
        if any(_turn(entry) for entry in files) or not self.root.is_local:
            files = self._counting(files, hidden)
        else:
            files = self._unmerged(files, hidden)
        newest = {_part(entry): entry for entry in sorted(files, key=_turn)}
        self._places = {part: entry.place for part, entry in newest.items()}
        return dict(sorted(newest.items()))

    def _listed(self, again: bool = False) -> tuple[list[Entry], list[Entry]]:
        """The index files, and the hidden files beside them, which must be listed after these (``merging.py``)."""
        fence = self.index_folder.fence
        if fence is not None and not self.root.is_local:
            both = fence.files(self.index_folder, again)
            files = [entry for entry in both if entry.place.name.endswith(".parquet")]
            hidden = [entry for entry in both if entry.place.name.startswith(".")]
        else:
            files = self.index_folder.list(".parquet")
            hidden = self.index_folder.list(".json", hidden=True)
        return [entry for entry in files if entry.place not in self._gone], hidden

    def _seal(self, turn: int) -> Place:
        return self.index_folder / f".seal-{turn:08}.json"

    def index(self, part: str) -> Place:
        """The index file of a committed part; where it would be if there is none."""
        if part not in self._places:
            self.entries()
        return self._places.get(part, self.index_folder / f"{part}.parquet")

    def index_is_gone(self, part: str) -> None:
        """Reading the index file of a part has failed with FileNotFoundError.

        Either it was dropped or merged since it was listed, or the listing of a store still shows what was deleted:
        then it is passed over from now on.
        """
        place = self._places.get(part)
        if place is not None and not self.root.is_local:
            self._gone.add(place)
            place.changed(None)

    def _counting(self, files: list[Entry], hidden: list[Entry]) -> list[Entry]:
        """The files that count. Whoever holds the output seals the store first if a turn was taken over since."""
        matches = [(entry, _SEAL.fullmatch(entry.place.name)) for entry in hidden]
        seals = {int(match[1]): entry.place for entry, match in matches if match}
        seal = max(seals, default=0)
        if seal:
            try:
                sealed = self._sealed(seals[seal])
            except FileNotFoundError:  # a later turn's seal has taken its place
                seals[seal].changed(None)
                time.sleep(0.1)  # for a listing that still shows it
                return self._counting(*self._listed(again=True))
            files = [e for e in files if not 0 < _turn(e) < seal or e.place.name in sealed]
        files = self._unmerged(files, hidden)
        fence = self.index_folder.fence
        if fence is not None and fence.seal > seal:
            for number in range(max(fence.seal, fence.turn - KEPT), fence.turn):
                if number not in seals and self._seal(number).is_file():  # the listing lags behind
                    self._seal(number).changed(0)
                    return self._counting(*self._listed())
            names = [entry.place.name for entry in files if 0 < _turn(entry) < fence.turn]
            place = self._seal(fence.turn)
            if not create(place, json.dumps(names).encode()):
                place.changed(0)  # another thread or worker of this run was faster
                return self._counting(*self._listed())
            for old in seals.values():
                old.delete()
        return files

    def _unmerged(self, files: list[Entry], hidden: list[Entry]) -> list[Entry]:
        """Without those that a merged part among ``files`` replaces."""
        for merge in merging.notes(hidden).values():
            if merge.into in map(_part, files):
                files = [entry for entry in files if _part(entry) not in merge.parts]
        return files

    def _sealed(self, place: Place) -> set[str]:
        """The names in a seal. DamagedError, with the cure, where they can't be read."""
        try:
            names = json.loads(place.read_bytes())
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("no list of names")
            return set(names)
        except ValueError as error:
            cure = self.cure if "--repair" in self.cure else "delete it, then check the parts that are here"
            raise DamagedError(f"{place}: not as it was written ({one_line(error)}); {cure}") from error

    def damaged_seals(self) -> dict[Place, str]:
        """The seals that can't be read, and what is wrong. Without them all files of earlier turns count again."""
        wrong = {}
        for entry in self._listed()[1]:
            if _SEAL.fullmatch(entry.place.name):
                try:
                    self._sealed(entry.place)
                except DamagedError as error:
                    wrong[entry.place] = str(error).partition("; ")[0]
                except FileNotFoundError:  # a later turn's seal has taken its place
                    continue
        return wrong

    def data(self, part: str, extension: str) -> Place:
        """Where the payload of a part lies. DamagedError for a name, as a table may hold, that leads elsewhere."""
        if not _PART.fullmatch(part):
            raise DamagedError(f"{self.root}: its index names a part {part!r}, which is no name of a part; {self.cure}")
        return self.data_folder / f"{part}.{extension}"

    def commit(self, part: str, rows: pa.Table, payloads: Collection[str] = ()) -> None:
        """Make a part count. Its payload must be whole by now.

        ``payloads``: the names of parts whose payloads its rows name, where these are others than its own.
        """
        fence = self.index_folder.fence
        turn = "" if fence is None or self.root.is_local else f".{fence.turn:08}"
        place = self.index_folder / f"{part}{turn}.parquet"
        with place.writer() as stream:
            write_table(stream, rows, {_PAYLOADS: json.dumps(sorted(payloads))} if payloads else {})
        self._places[part] = place
        self._gone.discard(place)

    def merge(self, merge: merging.Merge, rows: pa.Table, payloads: Collection[str] = ()) -> None:
        """Make one part of several, whatever is killed meanwhile: ``merging.py`` says how. For the holder of the lock.

        ``rows`` are those of all these parts; ``payloads`` as for :meth:`commit`.
        """
        fence = self.index_folder.fence
        note = merge.note(self.index_folder, 0 if fence is None else fence.turn)
        self.commit(merge.into, rows, payloads)
        if fence is not None:
            fence.check_now()
        self._drop_files(set(merge.parts))
        note.delete()

    def _end_merges(self) -> None:
        """Delete what a merge that was killed has replaced, or forget the merge."""
        under_way = merging.notes(self._listed()[1])
        for merge in under_way.values():
            if merge.into in self.entries():
                self._drop_files(set(merge.parts))
        for note in under_way:
            note.delete()

    def rows(self, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
        """The rows of all committed parts, in the order of the parts' names, read with ``schema``.

        A column that older parts lack reads as null. Memory: the ``columns`` (None: all) of the index, never a payload.
        Raises DamagedError, naming the file, for a part that is not as it was written.
        """
        if strange := sorted(set(columns or ()) - set(schema.names)):
            from pipeline.storage.mistakes import unknown  # with pydantic, which reading has no need of

            raise ConfigError(f"{self.index_folder}: {unknown('column', strange[0], schema.names)}")
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        tables = self.each(lambda rows: rows, schema, columns)
        return pa.concat_tables(tables) if tables else wanted.empty_table()

    def each(
        self,
        of_part: Callable[[pa.Table], T],
        schema: pa.Schema,
        columns: list[str] | None = None,
        parts: Sequence[str] | None = None,
    ) -> list[T]:
        """What ``of_part`` makes of the rows of each of ``parts``; None: of all, in the order of their names.

        Memory: what it makes, and a few parts at a time. ``schema``, ``columns`` and errors are those of :meth:`rows`.
        """
        names = self.parts() if parts is None else parts
        try:
            with ThreadPoolExecutor(4 if self.root.is_local else 16) as pool:
                return list(pool.map(lambda part: of_part(self.part_rows(part, schema, columns)), names))
        except FileNotFoundError:  # a run has merged or dropped parts meanwhile
            if parts is not None or self.parts() == names:
                raise
        return self.each(of_part, schema, columns)

    def part_rows(self, part: str, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
        """The rows of one committed part; as :meth:`rows`."""
        try:
            return read_table(self.index(part), schema, columns, cure=self.cure)
        except FileNotFoundError:
            self.index_is_gone(part)
            raise

    def drop(self, part: str) -> None:
        """Take a part's rows out of the store. Its payload, if it has one, is then uncommitted."""
        self._end_merges()  # else those that it replaced would come back
        self._drop_files({part})

    def _drop_files(self, parts: Collection[str]) -> None:
        # An older file that a newer one replaced must go first, else it would come back.
        files = [entry for entry in self._listed()[0] if _part(entry) in parts]
        with ThreadPoolExecutor(1 if self.root.is_local else 16) as pool:
            for _, of_turn in groupby(sorted(files, key=_turn), _turn):
                list(pool.map(lambda entry: entry.place.delete(), of_turn))
        for part in parts:
            self._places.pop(part, None)

    def remove_uncommitted(self) -> list[str]:
        """Delete payloads that no index part names, and unfinished files. Call it while holding the store's lock."""
        self._end_merges()
        self._listed(again=True)  # on a store a holder that was taken over may have written meanwhile
        committed = self.entries()
        counting = {entry.place for entry in committed.values()}
        spare = [entry for entry in self._listed()[0] if entry.place not in counting]
        payloads = [e for e in self.data_folder.list() if e.place.name.partition(".")[0] not in committed]
        named = self._payloads(committed) if payloads else set()
        payloads = [e for e in payloads if e.place.name.partition(".")[0] not in named]
        spare += [e for e in payloads if not self._is_committed(e.place.name.partition(".")[0])]
        for entry in spare:
            entry.place.delete()
        self.root.remove_unfinished()  # a description
        self.data_folder.remove_unfinished(recursive=True)
        self.index_folder.remove_unfinished()
        return [entry.place.name for entry in spare]

    def _is_committed(self, part: str) -> bool:
        """Whether the index file of a part is there though no listing of the store shows it yet."""
        fence = self.index_folder.fence
        if self.root.is_local or fence is None:
            return False
        seals = [int(match[1]) for e in self._listed()[1] if (match := _SEAL.fullmatch(e.place.name))]
        for turn in range(max(fence.turn - KEPT, *seals, 1), fence.turn):
            place = self.index_folder / f"{part}.{turn:08}.parquet"
            if place not in self._gone and place.is_file():
                place.changed(place.size())
                return True
        return False

    def _payloads(self, parts: Iterable[str]) -> set[str]:
        """The parts that are merged into others, as far as they have payloads."""
        merged = [self.index(part) for part in parts if merging.is_merged(part)]
        with ThreadPoolExecutor(4 if self.root.is_local else 16) as pool:
            abouts = list(pool.map(lambda place: read_about(place, cure=self.cure), merged))
        return {name for about in abouts for name in json.loads(about.get(_PAYLOADS, "[]"))}


def _part(entry: Entry) -> str:
    match = _INDEX_FILE.fullmatch(entry.place.name)
    return match["part"] if match else entry.place.name


def _turn(entry: Entry) -> int:
    match = _INDEX_FILE.fullmatch(entry.place.name)
    return int(match["turn"] or 0) if match else 0


def now() -> datetime.datetime:
    """The time, in UTC, for a row's column ``created``."""
    return datetime.datetime.now(datetime.UTC)
