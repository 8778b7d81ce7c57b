"""The bytes of the chosen pictures, as the run has them, each checked against its hash."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa

from diffstyle.errors import ConfigError
from pipeline.results.pictures import EXTENSIONS, inside
from pipeline.shards.rows import read_png
from pipeline.shards.store import ShardStore
from pipeline.storage.identity import digest, source_parts
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place
from pipeline.storage.tables import DamagedError

_CURE = "run `diffstyle verify RUN --repair` and the job again"
_KEPT_SOURCES = 512


@dataclass(frozen=True)
class Sample:
    """A chosen pair with its pictures.

    Attributes:
        name: A name for its files, unlike any other's, without a dot.
        row: What the data set says of it, ready for JSON.
        pictures: ``image``, the result, and where sources are asked for ``content`` and ``style``: the file's name
            without a folder, and its bytes.
    """

    name: str
    row: Mapping[str, Any]
    pictures: Mapping[str, tuple[str, bytes]] = field(repr=False)


class RunPictures:
    """Reads results from a run's folder of pictures, and sources from its shards.

    Args:
        run: The output folder.
        table: The chosen pairs.
        triplets: Whether the sources are asked for, too.

    Raises:
        ConfigError: Sources are asked for, and the run's shards lack some of them.
    """

    def __init__(self, run: Place, table: pa.Table, triplets: bool) -> None:
        self.run = run
        self.triplets = triplets
        self._sources: dict[str, dict[str, tuple[ShardStore, dict[str, Any]]]] = {}
        for side in ("content", "style") if triplets else ():
            wanted = set(table[f"{side}_image"].to_pylist())
            self._sources[side] = prepared = _prepared(run, side, wanted)
            if wanted - set(prepared):
                raise ConfigError(
                    f"--pictures triplets: {len(wanted - set(prepared)):,} of {len(wanted):,} {side} pictures are not "
                    f"in {OutputLayout(run).root}/shards (random samples and banks of other jobs have none); "
                    "use --pictures results"
                )
        self._members = lru_cache(maxsize=64)(self._tar_members)
        self._source = lru_cache(maxsize=_KEPT_SOURCES)(self._read_source)

    def samples(self, table: pa.Table, rows: Iterator[Mapping[str, Any]]) -> Iterator[Sample]:
        """Each pair with its pictures.

        Args:
            table: The pairs.
            rows: What the data set says of each.

        Raises:
            DamagedError: A picture is missing, or not as the manifest says.
        """
        columns = ["pair", "content_key", "style_key", "content_image", "style_image"]
        columns += ["picture", "picture_hash", "picture_bytes", "format"]
        facts = (one for batch in table.select(columns).to_batches(1024) for one in batch.to_pylist())
        for fact, row in zip(facts, rows, strict=True):
            name = f"{fact['content_key']}__{fact['style_key']}__{fact['pair'][:12]}"
            pictures = {"image": (f"{name}.{EXTENSIONS[fact['format']]}", self._result(fact))}
            for side in self._sources:
                pictures[side] = (f"{fact[f'{side}_key']}.png", self._source(side, fact[f"{side}_image"]))
            yield Sample(name, row, pictures)

    def _result(self, fact: Mapping[str, Any]) -> bytes:
        file, member = source_parts(fact["picture"] or "")
        if not inside(file):
            raise DamagedError(
                f"{self.run}: the row of pair {fact['pair']} names {fact['picture']!r}, no picture of it"
            )
        place = self.run / file
        shown = place if member is None else f"{place}#{member}"
        try:
            if member is None:
                data = place.read_bytes()
            else:
                members = self._members(place)
                if member not in members:
                    raise DamagedError(f"{shown}: missing, though a row of the manifest names it; {_CURE}")
                data = place.read_range(*members[member])
        except FileNotFoundError:
            raise DamagedError(f"{shown}: missing, though a row of the manifest names it; {_CURE}") from None
        if len(data) != fact["picture_bytes"] or digest(data) != fact["picture_hash"]:
            raise DamagedError(f"{shown}: bytes have changed since it was written; {_CURE}")
        return data

    def _tar_members(self, place: Place) -> dict[str, tuple[int, int]]:
        try:
            with place.open() as stream, tarfile.open(fileobj=stream) as tar:
                return {one.name: (one.offset_data, one.size) for one in tar}
        except tarfile.TarError as error:
            raise DamagedError(f"{place}: no readable tar ({error}); {_CURE}") from error

    def _read_source(self, side: str, image: str) -> bytes:
        store, row = self._sources[side][image]
        place = store.parts.data(row["data"], "tar")
        try:
            data = place.read_range(row["offset"], row["size"])
            read_png(data, row)
        except (OSError, ValueError) as error:
            text = " ".join(str(error).split())
            raise DamagedError(f"{place}: the picture {row['key']} can't be read ({text}); {_CURE}") from error
        return data


def _prepared(run: Place, side: str, wanted: set[str]) -> dict[str, tuple[ShardStore, dict[str, Any]]]:
    prepared: dict[str, tuple[ShardStore, dict[str, Any]]] = {}
    for name in (side, "both"):
        store = ShardStore(OutputLayout(run).shards(name))
        if not store.parts.exists():
            continue
        for row in store.rows(["key", "image", "data", "offset", "size"]).to_pylist():
            if row["image"] in wanted:
                prepared.setdefault(row["image"], (store, row))
    return prepared
