"""Writing an object only if there is none of that name: what a lock and a description on a store rest on."""

from __future__ import annotations

from pipeline.storage import objects
from pipeline.storage.place import Place


def create(place: Place, data: bytes) -> bool:
    """Write an object of a store whole, unless there is one of that name.

    Returns:
        Whether it is there with these bytes: written now, or by a request whose answer was lost. Give it bytes that
        nobody else would write where it matters who was first.

    Raises:
        OSError: The store refuses or can't be reached.
    """
    created = objects.create(place.scheme, place.path, data)
    if created:
        place.changed(len(data))
    return created
