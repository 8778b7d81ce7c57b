"""A folder that grows by whole parts: the one commit protocol of shards, banks and manifests.

::

    STORE/
      description.json       what the store holds and how it was made; parts that differ in it never mix
      data/PART.EXT          the payload, written first
      index/PART.parquet     a row for each item of the part; its appearance is the commit

A kill at any moment leaves at most a payload without an index part. Nothing reads such a payload; the part is made
again under the same name or removed by :meth:`PartStore.remove_uncommitted`.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffstyle.errors import DiffStyleError
from pipeline.storage.place import Place


class DescriptionError(DiffStyleError):
    """A store that is missing, unreadable, or was made with other settings than those asked for."""


class PartStore:
    """See the module's text. ``data`` and ``index`` are the names of the two folders."""

    def __init__(self, root: Place, data: str = "data", index: str = "index", description: str = "description.json"):
        self.root = root
        self.data_folder = root / data
        self.index_folder = root / index
        self._description = root / description

    # ---- description ----
    def description(self) -> dict[str, Any]:
        """The store's description; DescriptionError where there is none or it is not JSON."""
        try:
            return json.loads(self._description.read_bytes())
        except FileNotFoundError:
            raise DescriptionError(
                f"{self.root}: no {self._description.name} here; is this the right folder?"
            ) from None
        except ValueError as error:
            raise DescriptionError(
                f"{self._description}: not readable as JSON ({error}); restore or delete it"
            ) from error

    def exists(self) -> bool:
        return self._description.is_file()

    def describe(self, identity: dict[str, Any], about: dict[str, Any]) -> None:
        """Open the store for parts of this identity, or refuse.

        ``identity`` holds all that must be equal for parts to mix; ``about`` what is good to know (versions, dates).
        Raises DescriptionError that names every field in which an existing store differs.
        """
        if not self.exists():
            text = json.dumps({"identity": identity, "about": about}, indent=2, sort_keys=True)
            self._description.write_bytes(text.encode() + b"\n")
            return
        there = self.description().get("identity", {})
        wanted = json.loads(json.dumps(identity))  # as JSON gives it back: tuples become lists
        differing = differences(there, wanted)
        if differing:
            raise DescriptionError(
                f"{self.root} was made with other settings: {'; '.join(differing)}. "
                "Give this job another output folder, or delete that one"
            )

    # ---- parts ----
    def parts(self) -> list[str]:
        """Names of the committed parts, sorted."""
        return [entry.place.name.removesuffix(".parquet") for entry in self.index_folder.list(".parquet")]

    def data(self, part: str, extension: str) -> Place:
        """Where the payload of a part lies."""
        return self.data_folder / f"{part}.{extension}"

    def commit(self, part: str, rows: pa.Table) -> None:
        """Make a part count. Its payload must be whole by now."""
        with (self.index_folder / f"{part}.parquet").writer() as stream:
            pq.write_table(rows, stream, compression="zstd")

    def rows(self, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
        """The rows of all committed parts, in the order of the parts' names, read with ``schema``.

        A column that older parts lack reads as null. Memory: the index alone, never a payload.
        """
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        files = [entry.place.path for entry in self.index_folder.list(".parquet")]
        if not files:
            return wanted.empty_table()
        import pyarrow.dataset as ds

        dataset = ds.dataset(files, filesystem=self.index_folder.fs, format="parquet", schema=schema)
        return dataset.to_table(columns=wanted.names)

    def part_rows(self, part: str, schema: pa.Schema) -> pa.Table:
        """The rows of one committed part."""
        with (self.index_folder / f"{part}.parquet").open() as stream:
            return pq.read_table(stream, schema=schema)

    def drop(self, part: str) -> None:
        """Take a part's rows out of the store. Its payload, if it has one, is then uncommitted."""
        (self.index_folder / f"{part}.parquet").delete()

    def remove_uncommitted(self) -> list[str]:
        """Delete payloads that no index part names, and unfinished files. Call it while holding the store's lock."""
        committed = set(self.parts())
        removed = []
        for entry in self.data_folder.list():
            if entry.place.name.partition(".")[0] not in committed:
                entry.place.delete()
                removed.append(entry.place.name)
        self.root.remove_unfinished()  # a description
        self.data_folder.remove_unfinished(recursive=True)
        self.index_folder.remove_unfinished()
        return removed


def now() -> datetime.datetime:
    """The time, in UTC, for a row's column ``created``."""
    return datetime.datetime.now(datetime.UTC)


def differences(there: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """One phrase for each field in which two nested mappings differ: ``inversion.steps is 50 there, 40 asked``."""
    found: list[str] = []
    for name in sorted(set(there) | set(wanted)):
        a, b = there.get(name), wanted.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name} is {json.dumps(a)} there, {json.dumps(b)} asked")
    return found
