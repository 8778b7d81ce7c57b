"""Dropping images of a bank.

Part by part through the commit protocol, new part first and old part last, so a kill leaves a bank that opens, and
doing it again ends where it would have ended. Not while another job writes the same bank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.banks.copy import Progress, _quiet, repack
from pipeline.banks.index import BankIndex, read_description
from pipeline.banks.payload import PAYLOADS, Payloads
from pipeline.banks.thumbnails import drop_thumbnails
from pipeline.banks.writer import BankWriter
from pipeline.storage.counts import count
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place


def prune(path: str | Place, keep: Iterable[str], *, dry_run: bool = False, progress: Progress = _quiet) -> list[str]:
    """Drop all images but those whose hashes are in ``keep``, failed ones too; returns the hashes that are dropped.

    Parts that lose some of their images are written again without them, so the space is free afterwards.
    """
    store = PartStore(Place.parse(path))
    index = BankIndex(store, read_description(store)[0])
    kept = set(keep)
    images = set(index.read(["image"])["image"].to_pylist())
    dropped = sorted(images - kept)
    if dropped and not dry_run:
        drop(store.root, lambda row: row["image"] not in kept, progress)
    return dropped


def drop(root: Place, unwanted: Callable[[dict[str, Any]], bool], progress: Progress = _quiet) -> list[str]:
    """Drop the rows, of tensors and of failures, for which ``unwanted`` holds; other names go with the last tensors.

    In this order, so that every moment leaves a bank that reads right: parts without the unwanted are committed, other
    names are led to where their tensors now are, then the old parts go, each index file before its payload. Returns a
    line for each name that had no tensors left to lead to.
    """
    store = PartStore(root)
    writer = BankWriter(root, read_description(store)[0])
    payloads = Payloads(store, writer.description)
    writer.remove_uncommitted()
    writer.index.delete_snapshot()
    old: set[str] = set()
    others: list[str] = []  # parts without a payload of their own: other names, and failures
    for part in store.parts():
        rows = writer.index.part(part).to_pylist()
        if not any(row["data"] == part for row in rows):
            others.append(part)
            continue
        rest = [row for row in rows if not unwanted(row)]
        if len(rest) < len(rows):
            old.add(part)
            if rest:
                repack(payloads, writer, rest)
            progress(f"{part}: {len(rows) - len(rest)} of {count(len(rows), 'image')} dropped")
    names = _follow(writer.index, others, old, unwanted)
    for part in sorted(old):
        delete_part(writer, part)
    writer.snapshot()
    return names


def made_before(root: Place, time: datetime) -> bool:
    """Whether all images of a bank were made before some time; one that does not say when was not."""
    store = PartStore(root)
    made = BankIndex(store, read_description(store)[0]).read(["created"])["created"]
    old = pc.fill_null(pc.less(made, pa.scalar(time, made.type)), False)
    return bool(pc.all(old).as_py() in (True, None))


def delete(root: Place) -> None:
    """Delete a whole bank. Killed at any moment, it is a bank with fewer images, which can be deleted again."""
    prune(root, [])
    description = root / "description.json"
    for entry in root.list(recursive=True, hidden=None):
        if entry.place != description:
            entry.place.delete()
    description.delete()
    if root.is_local:  # its empty folders
        root.delete_tree()


def _follow(
    index: BankIndex, others: list[str], old: set[str], unwanted: Callable[[dict[str, Any]], bool]
) -> list[str]:
    """Lead other names to where the tensors are once the ``old`` parts are gone; returns those that lead nowhere."""
    parts = index.tensor_parts()
    tensors = {row["image"]: row for part in sorted(parts) if part not in old for row in parts[part]}
    dropped = []
    for part in others:
        rows = index.part(part).to_pylist()
        rest = []
        for row in rows:
            if row["status"] != "ok":
                rest += [] if unwanted(row) else [row]
            elif row["image"] in tensors:
                rest.append({**row, **{name: tensors[row["image"]][name] for name in index.description.place_columns}})
            else:
                dropped.append(f"{part}: {row['key']} dropped, another name of an image that is gone")
        if not rest:
            index.store.drop(part)
        elif rest != rows:
            index.commit(part, rest)
    return dropped


def delete_part(writer: BankWriter, part: str) -> None:
    """Take a part out of the index, then delete its payload."""
    writer.store.drop(part)
    writer.store.data(part, PAYLOADS[writer.description.format].EXTENSION).delete()
    drop_thumbnails(writer.root, part)
