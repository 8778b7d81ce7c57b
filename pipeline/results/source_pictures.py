"""The pictures of contents and styles, to be shown beside results: whole from shards, small from banks."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffstyle.errors import ConfigError
from pipeline.banks.tensors import BankError
from pipeline.banks.thumbnails import bank_thumbnails
from pipeline.shards.store import open_shards
from pipeline.storage.layout import SIDES, OutputLayout
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.stored_description import DescriptionError
from pipeline.storage.yamlfile import parse_yaml

log = logging.getLogger(__name__)


class SourcePictures:
    """Finds pictures by their hashes, and remembers them.

    Args:
        shards: Where prepared pictures may be; stores that are not there are passed over.
        banks: Banks that may have thumbnails of the others.
    """

    def __init__(self, shards: Sequence[Place], banks: Sequence[Place] = ()) -> None:
        self._shards = [open_shards(place) for place in shards if PartStore(place).exists()]
        self._banks = [place for place in dict.fromkeys(banks) if PartStore(place).exists()]
        self._known: dict[str, np.ndarray | None] = {}

    def of(self, images: Collection[str]) -> dict[str, np.ndarray]:
        """Image hash -> uint8 (h, w, 3), of those that anybody has. A thumbnail is smaller than the picture was."""
        missing = {image for image in images if image not in self._known}
        for store in self._shards:
            if missing:
                table = store.rows()
                rows = table.filter(pc.is_in(table["image"], pa.array(sorted(missing), pa.string()))).to_pylist()
                first = {row["image"]: row for row in reversed(rows)}
                if first:
                    self._known.update(zip(first, store.read_many(list(first.values())), strict=True))
                missing -= set(first)
        for place in self._banks:
            if missing:
                thumbnails = thumbnails_of(place, missing)
                self._known.update(thumbnails)
                missing -= set(thumbnails)
        self._known.update(dict.fromkeys(missing))
        return {image: pixels for image in images if (pixels := self._known[image]) is not None}


def run_banks(run: Place) -> list[Place]:
    """The banks of a run: its own, and those that its job names. Those of a job that can't be read are not known."""
    places = [OutputLayout(run).bank(side) for side in SIDES]
    job = OutputLayout(run).job
    if job.is_file():
        try:
            values = parse_yaml(job.read_bytes().decode(), str(job)).value
        except (ConfigError, UnicodeDecodeError) as error:
            log.warning("thumbnails of other banks are not shown: %s", error)
            values = None
        for side in ("content", "style") if isinstance(values, dict) else ():
            source = values.get(side)
            if isinstance(source, dict) and isinstance(source.get("bank"), str):
                places.append(Place.parse(source["bank"]))
    return [place for place in places if PartStore(place).exists()]


def thumbnails_of(bank: Place, images: Collection[str]) -> dict[str, np.ndarray]:
    """As :func:`bank_thumbnails`; a bank that can't be read has none, and the log says why: they are only shown."""
    try:
        return bank_thumbnails(bank, images)
    except (BankError, DescriptionError) as error:
        log.warning("thumbnails are not shown: %s", error)
        return {}
