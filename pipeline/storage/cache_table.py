"""A small JSON file in the cache folder: results that take long to find, each by the digest of what it holds for."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.storage.cache import cache_if_known
from pipeline.storage.place import Place

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheTable:
    """Results by key, kept from run to run. Without it everything works, and takes longer: that is told as a warning.

    Attributes:
        name: of the file in the cache folder.
        without: what happens where a result is not known, for people.
    """

    name: str
    without: str

    @property
    def place(self) -> Path | None:
        """The file; None where there is no cache folder."""
        cache = cache_if_known()
        return cache / self.name if cache else None

    def get(self, key: str) -> dict[str, Any] | None:
        """The entry of a key; None where there is none, or the file can't be read."""
        entry = self._entries().get(key)
        return entry if isinstance(entry, dict) else None

    def put(self, key: str, entry: Mapping[str, Any]) -> None:
        """Keep an entry, beside all others: another job may have added some since they were read."""
        if (place := self.place) is None:
            return
        entries = {**self._entries(), key: dict(entry)}
        try:
            Place.parse(place).write_bytes(json.dumps(entries, indent=1, sort_keys=True).encode())
        except OSError as error:  # a cache that several machines share may be read-only
            log.warning("%s can't be written (%s); next time %s", place, error, self.without)

    def _entries(self) -> dict[str, Any]:
        if (place := self.place) is None:
            return {}
        try:
            entries = json.loads(place.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("%s can't be read (%s); %s", place, error, self.without)
            return {}
        if not isinstance(entries, dict):
            log.warning("%s holds no table of results; %s", place, self.without)
            return {}
        return entries
