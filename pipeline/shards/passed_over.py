"""What a data set held besides its pictures, kept with the shards: a small table for `status` and for the next run."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from pipeline.sources.passed_over import PassedOver
from pipeline.storage.place import Place
from pipeline.storage.tables import read_table, write_table

_NAME = "passed_over.parquet"
SCHEMA = pa.schema(
    [
        ("file", pa.string()),  # the tar that holds it; empty where the data set is not made of such files
        ("reason", pa.string()),
        ("n", pa.int64()),
        ("examples", pa.list_(pa.string())),
    ]
)


def read_passed_over(root: Place) -> dict[str, PassedOver]:
    """What is kept with the shards at ``root``, by file; nothing where no run has said. DamagedError as any table."""
    place = root / _NAME
    if not place.is_file():
        return {}
    by_file: dict[str, PassedOver] = {}
    for row in read_table(place, SCHEMA, cure="delete it; the next run counts again").to_pylist():
        by_file.setdefault(row["file"], PassedOver()).add(row["reason"], *row["examples"], n=row["n"])
    return by_file


def write_passed_over(root: Place, by_file: Mapping[str, PassedOver]) -> None:
    """Keep what the listing of the whole data set passed over, in place of what was kept before."""
    rows = [
        {"file": file, "reason": reason, "n": n, "examples": one.examples.get(reason, [])}
        for file, one in sorted(by_file.items())
        for reason, n in sorted(one.items())
    ]
    with (root / _NAME).writer() as stream:
        write_table(stream, pa.Table.from_pylist(rows, SCHEMA))


def total(by_file: Mapping[str, PassedOver]) -> PassedOver:
    """The counts of all files together."""
    added = PassedOver()
    for one in by_file.values():
        added.include(one)
    return added
