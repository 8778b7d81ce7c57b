"""The files of a folder one after the other: of ten million a list would take gigabytes."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pipeline.storage.objects import await_answer, object_store, store_errors
from pipeline.storage.place import Entry, Place


def files_below(folder: Place) -> Iterator[Entry]:
    """The files below ``folder`` at any depth, in no order; as :meth:`Place.list` has them, so none that is hidden.

    A file that comes or goes meanwhile may be there or not. On a store empty objects are omitted: they can't be told
    from the markers that stand for folders.

    Raises:
        OSError: The folder can't be read, or the store can't be reached.
    """
    yield from _on_disk(folder) if folder.is_local else _on_store(folder)


def _on_disk(folder: Place) -> Iterator[Entry]:
    waiting = [folder.path]
    while waiting:
        try:
            scan = os.scandir(waiting.pop())
        except FileNotFoundError:
            continue
        with scan:
            for one in scan:
                if one.name.startswith("."):
                    continue
                if one.is_dir():
                    waiting.append(one.path)
                elif one.is_file():
                    try:
                        about = one.stat()
                    except FileNotFoundError:
                        continue
                    yield Entry(Place(folder.scheme, one.path), about.st_size, about.st_mtime_ns)


def _on_store(folder: Place) -> Iterator[Entry]:
    import obstore

    bucket, _, key = folder.path.partition("/")
    await_answer(folder.scheme, folder.path)
    with store_errors(folder.scheme, folder.path):
        listing = obstore.list(object_store(folder.scheme, bucket), f"{key.rstrip('/')}/")
    while True:
        with store_errors(folder.scheme, folder.path):
            listed = next(listing, None)
        if listed is None:
            return
        for one in listed:
            place = Place(folder.scheme, f"{bucket}/{one['path']}")
            if one["size"] and not any(piece.startswith(".") for piece in place.relative_to(folder).split("/")):
                yield Entry(place, one["size"], int(one["last_modified"].timestamp() * 1e9))
