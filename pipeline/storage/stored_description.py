"""What a store of parts holds and how it was made: ``description.json``, written once and compared ever after."""

from __future__ import annotations

import json
from typing import Any

from diffstyle.errors import DiffStyleError
from pipeline.storage.conditional import create
from pipeline.storage.differences import differences
from pipeline.storage.identity import digest_of
from pipeline.storage.layout import SIDES, OutputLayout
from pipeline.storage.place import Place

_USUAL = "description.json"


class DescriptionError(DiffStyleError):
    """A store that is missing, unreadable, or was made with other settings than those asked for."""


class StoredDescription:
    """The description of a store.

    Args:
        root: The store's folder.
        name: Of the file in it, which is not the usual one where the folder holds several stores.
    """

    def __init__(self, root: Place, name: str = _USUAL) -> None:
        self.place = root / name
        self._root = root

    @property
    def is_usual(self) -> bool:
        """Whether it is the one of a folder that is one store."""
        return self.place.name == _USUAL

    def exists(self) -> bool:
        """Whether there is one, and so the store."""
        return self.place.is_file()

    def read(self) -> dict[str, Any]:
        """It, with ``identity`` and ``about``.

        Raises:
            DescriptionError: There is none, or it is not as it was written.
        """
        try:
            stored = json.loads(self.place.read_bytes())
            if not isinstance(stored, dict) or not all(
                isinstance(stored.get(n, {}), dict) for n in ("identity", "about")
            ):
                raise ValueError("no object with identity and about")
            if stored.get("hash", _hash(stored)) != _hash(stored):
                raise ValueError("it was changed since it was written")
            return stored
        except FileNotFoundError:
            banks = [str(bank) for side in SIDES for bank in OutputLayout(self._root).banks(side)]
            cure = "is this the right folder?"
            if banks:
                cure = f"this is a run's output; give one of its banks, {' or '.join(banks)}"
            raise DescriptionError(f"{self._root}: no {self.place.name} here; {cure}") from None
        except NotADirectoryError:
            raise DescriptionError(
                f"{self._root}: this is a file; give the folder that holds {self.place.name}"
            ) from None
        except ValueError as error:
            raise DescriptionError(
                f"{self.place}: not readable ({error}); restore a copy, or give the job another output folder"
            ) from error

    def write(self, identity: dict[str, Any], about: dict[str, Any]) -> None:
        """Write it where there is none, else compare.

        Args:
            identity: All that must be equal for parts to mix.
            about: What is good to know: versions, dates.

        Raises:
            DescriptionError: As :meth:`check`.
        """
        if not self.exists():
            stored = {"identity": identity, "about": about}
            data = json.dumps({**stored, "hash": _hash(stored)}, indent=2, sort_keys=True).encode() + b"\n"
            if self.place.is_local:
                self.place.write_bytes(data)
            elif not create(self.place, data):
                self.write(identity, about)  # another was faster
            return
        self.check(identity)

    def check(self, identity: dict[str, Any]) -> None:
        """Compare, where there is one.

        Raises:
            DescriptionError: It differs, in the fields that are named.
        """
        if not self.exists():
            return
        stored_identity = self.read().get("identity", {})
        wanted = json.loads(json.dumps(identity))  # as JSON gives it back: tuples become lists
        differing = differences(stored_identity, wanted)
        if differing:
            raise DescriptionError(
                f"{self._root if self.is_usual else self.place} was made with other settings: {'; '.join(differing)}; "
                "give this job another output folder"
            )


def _hash(stored: dict[str, Any]) -> str:
    """Over what a description says; a description without one, such as one written by hand, is taken as it is."""
    return digest_of({name: stored.get(name, {}) for name in ("identity", "about")})
