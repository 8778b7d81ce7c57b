"""Writing a bank: workers write payloads, the driver commits them. ``storage/parts.py`` has the protocol."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.banks.description import PICTURE_COLUMNS, TEXT_COLUMNS, BankDescription, Latents, stored_tensors
from pipeline.banks.index import BankIndex
from pipeline.banks.payload import PAYLOADS
from pipeline.banks.tensors import BankError
from pipeline.banks.thumbnails import remove_uncommitted_thumbnails, write_thumbnails
from pipeline.storage.counts import count
from pipeline.storage.identity import digest
from pipeline.storage.parts import PartStore, now
from pipeline.storage.place import Place


class BankWriter:
    """The driver's side of a bank, and the workers' :meth:`write_payload`. Holds nothing in memory but its address."""

    def __init__(self, root: Place, description: BankDescription):
        self.root = root
        self.description = description
        self.store = PartStore(root)
        self.index = BankIndex(self.store, description)

    @classmethod
    def create_or_open(
        cls, root: str | Place, description: BankDescription, about: Mapping[str, Any] | None = None
    ) -> BankWriter:
        """Make the bank, or go on with the one that is there.

        ``about`` is what is good to know and need not be equal (versions, dates). Raises DescriptionError, naming
        every field that differs, if the bank was made with another description.
        """
        writer = cls(Place.parse(root), description)
        writer.store.describe(description.to_dict(), dict(about or {}))
        return writer

    @staticmethod
    def write_payload(root: str | Place, description: BankDescription, part: str, items: Sequence[Latents]) -> pa.Table:
        """Write the tensors of ``items`` as one payload file, whole or not at all; returns their rows of the index.

        For a worker: nothing counts before the driver commits the rows. The same items give the same bytes. What the
        shards know of a picture (source, label, ...) is taken from ``item.row``. Raises BankError for tensors that do
        not fit the description or are not finite, OSError where the disk is full or not writable.
        """
        if not items:
            raise BankError(f"{part}: a part without entries; commit failures with commit_failures")
        if len({item.image for item in items}) != len(items):
            raise BankError(f"{part}: the same image twice; give other names of a picture to commit_aliases")
        payload = PAYLOADS[description.format]
        thumbnails = {item.image: item.thumbnail for item in items if item.thumbnail is not None}
        write_thumbnails(Place.parse(root), part, thumbnails)
        with BankWriter(Place.parse(root), description).hashing_payload(part) as stream:
            places = payload.write(cast(BinaryIO, stream), description, items)
        rows = []
        for item, where in zip(items, places, strict=True):
            row = {name: item.row.get(name) for name in PICTURE_COLUMNS}
            row.update(where, key=item.key, image=item.image, data=part, status="ok")
            row.update(data_size=stream.size, data_hash=stream.hexdigest())
            row["created"] = item.row.get("created") or now()
            rows.append(row)
        return description.index_rows(rows)

    @staticmethod
    def write_storable(
        root: str | Place, description: BankDescription, part: str, items: Iterable[tuple[Latents, str | None]]
    ) -> tuple[pa.Table | None, list[dict[str, Any]]]:
        """As :meth:`write_payload`, but an item that can't be stored costs that item alone.

        Args:
            items: each with None, or with the reason why it is of no use.

        Returns:
            (the rows of the index, None where nothing could be stored; the rows of the failures, with ``error``).
        """
        good, failures = [], []
        for item, error in items:
            try:
                if error is not None:
                    raise BankError(error)
                stored_tensors(item, description)
            except BankError as problem:  # not finite, or beyond the bank's dtype
                failures.append({**item.row, "error": str(problem)})
            else:
                good.append(item)
        return BankWriter.write_payload(root, description, part, good) if good else None, failures

    @contextlib.contextmanager
    def hashing_payload(self, part: str) -> Iterator[HashingStream]:
        """Write a part's payload, whole or not at all; the stream knows its size and hash."""
        with self.store.data(part, PAYLOADS[self.description.format].EXTENSION).writer() as stream:
            yield HashingStream(stream)

    def commit(self, part: str, rows: pa.Table | Sequence[Mapping[str, Any]]) -> None:
        """Make a part count. Raises BankError if its payload is not there as the rows say, or rows are of another."""
        table = self.description.index_rows(rows)
        if set(table["data"].to_pylist()) != {part} or set(table["status"].to_pylist()) != {"ok"}:
            raise BankError(f"{part}: rows that are not of this part, or not ok")
        place = self.store.data(part, PAYLOADS[self.description.format].EXTENSION)
        size = place.size() if place.is_file() else None
        if size != table["data_size"][0].as_py():
            written = table["data_size"][0]
            problem = "is missing" if size is None else f"has {count(size, 'byte')}, its writer wrote {written}"
            raise BankError(f"{place}: {problem}; do all machines of the job share this folder?")
        self.index.commit(part, table)

    def commit_aliases(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Other names (``key``, ``image`` and what the shards say) of images that are in the bank. Index only.

        Names that are known already are left out, so doing it again adds nothing; returns how many were new. Raises
        BankError for an image that is not in the bank.
        """
        index = self._ok(["key", "image", *self.description.place_columns])
        known = set(zip(index["key"].to_pylist(), index["image"].to_pylist(), strict=True))
        new = {(row["key"], row["image"]): row for row in rows if (row["key"], row["image"]) not in known}
        if new:
            self._commit_names(index, new)
        return len(new)

    def corrected(self, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Of rows about pictures, those that the bank has under this name and source, with another text.

        Texts are ``TEXT_COLUMNS``. A row of another bank counts where it was made later than this bank's.
        """
        columns = ["key", "image", "created", "source", *TEXT_COLUMNS]
        ok = self._ok(columns).sort_by("created")
        known = {
            (key, image): row for key, image, *row in zip(*(ok[name].to_pylist() for name in columns), strict=True)
        }
        different = []
        for row in rows:
            if (before := known.get((row["key"], row["image"]))) is not None:
                created, source, *texts = before
                later = row.get("created") is None or row["created"] > created
                if source == row["source"] and later and texts != [row.get(name) for name in TEXT_COLUMNS]:
                    different.append(row)
        return different

    def commit_corrected(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Give names that the bank has another row each, which for every reader takes the earlier one's place.

        Index only: tensors stay as they are, and so does what a tar says beside them.
        """
        new = {(row["key"], row["image"]): row for row in rows}
        if new:
            self._commit_names(self._ok(["key", "image", *self.description.place_columns]), new)

    def _commit_names(self, index: pa.Table, new: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
        """Commit rows by (key, image) that lead to where an ``index`` has their images."""
        wanted = pa.array(sorted({image for _, image in new}), pa.string())
        places = {row["image"]: row for row in index.filter(pc.is_in(index["image"], wanted)).to_pylist()}
        table = []
        for (key, image), row in sorted(new.items()):
            if image not in places:
                raise BankError(f"{key}: an alias of image {image}, which is not in {self.root}")
            where = {name: places[image][name] for name in self.description.place_columns}
            table.append(
                {**{name: row.get(name) for name in PICTURE_COLUMNS}, **where, "status": "ok", "created": now()}
            )
        texts = (row.get(name) or "" for _, row in sorted(new.items()) for name in TEXT_COLUMNS)
        self.index.commit(f"alias-{digest(*(part for pair in sorted(new) for part in pair), *texts)[:24]}", table)

    def commit_failures(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Images that could not be inverted: ``key``, ``image``, ``error`` and what the shards say. Index only.

        An ``ok`` row of the same image, whenever it was written, takes the failure's place for every reader.
        """
        table = []
        for row in sorted(rows, key=lambda one: (one["image"], one["key"])):
            if not row.get("error"):
                raise BankError(f"{row['key']}: a failure without an error")
            picture = {name: row.get(name) for name in PICTURE_COLUMNS}
            table.append({**picture, "status": "failed", "error": row["error"], "created": row.get("created") or now()})
        if table:
            self.index.commit(f"failed-{digest(*(row['image'] for row in table))[:24]}", table)

    def snapshot(self) -> None:
        """Keep opening quick, after many commits; see ``index.py``. Call it at the end of a stage."""
        self.index.write_snapshot()

    def _ok(self, columns: list[str]) -> pa.Table:
        index = self.index.read([*columns, "status"])
        return index.filter(pc.equal(index["status"], "ok"))

    def known_images(self) -> set[str]:
        """Hashes of the images whose tensors are committed."""
        return set(self._ok(["image"])["image"].to_pylist())

    def known_sources(self) -> set[str]:
        """The sources of the committed entries."""
        return set(self._ok(["source"])["source"].to_pylist())

    def known_names(self) -> set[tuple[str, str]]:
        """(key, image) of every committed entry, aliases included."""
        index = self._ok(["key", "image"])
        return set(zip(index["key"].to_pylist(), index["image"].to_pylist(), strict=True))

    def failed_images(self) -> dict[str, str]:
        """Image hash -> error, of those that failed and have not succeeded since."""
        return latest_failures(self.index.read(["image", "status", "error", "created"]), "image")

    def remove_uncommitted(self) -> list[str]:
        """Delete what killed writers left; returns the files' names. Call it while no other writer is at work."""
        self.root.remove_unfinished()
        (self.root / "columns").remove_unfinished()
        removed = self.store.remove_uncommitted()
        return removed + remove_uncommitted_thumbnails(self.root, self.store.parts())


def latest_failures(index: pa.Table, by: str) -> dict[str, str]:
    """``by`` (``image`` or ``key``) -> error of the last failure, leaving out images that have an ``ok`` row.

    Parts of an index have no order in time, so it is the status that decides: once an image is ``ok``, it is.
    """
    ok = pc.equal(index["status"], "ok")
    done = index.filter(ok)["image"].combine_chunks()
    failed = index.filter(pc.invert(ok))
    failed = failed.filter(pc.invert(pc.is_in(failed["image"], done))).sort_by([("created", "ascending")])
    return dict(zip(failed[by].to_pylist(), failed["error"].to_pylist(), strict=True))


class HashingStream:
    """Passes bytes on and keeps their number and SHA-256, so that a payload need not be read back to be hashed."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._state = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self._stream.write(data)
        self._state.update(data)
        written = memoryview(data).nbytes
        self.size += written
        return written

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._stream.flush()

    def hexdigest(self) -> str:
        return self._state.hexdigest()
