"""What a data set held besides its pictures, kept with the shards: a small table for `status` and for the next run."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources.passed_over import PassedOver
from pipeline.storage.place import Place

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
    """What is kept with the shards at ``root``, by file; nothing where no run has said."""
    place = root / _NAME
    if not place.is_file():
        return {}
    by_file: dict[str, PassedOver] = {}
    try:
        with place.open() as stream:
            rows = pq.read_table(stream, schema=SCHEMA).to_pylist()
    except (pa.ArrowException, OSError):
        return {}  # damaged: the next listing counts anew
    for row in rows:
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
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), stream, compression="zstd")


def total(by_file: Mapping[str, PassedOver]) -> PassedOver:
    """The counts of all files together."""
    added = PassedOver()
    for one in by_file.values():
        added.include(one)
    return added
