"""What the data set says of each pair: columns of the manifest and scores, without what only a run needs."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.json import read_json

from pipeline.storage.identity import source_name

#: Columns that say how the run went, not what the picture is.
_RUN_ONLY = {"picture", "picture_bytes", "format", "seconds", "created"}
#: Characters of ``2024-05-01T10:00:00.123456789+02:00``.
_LONGEST_DATE = 35


def described(table: pa.Table, with_splits: bool) -> pa.Table:
    """The columns of the data set: ``pair``, ``split``, names, settings, rights, scores.

    Left out is what is null in every row. A source that is a file is named without the folders of this machine; an
    address stays whole. ``phash`` is written in hexadecimal digits.

    Args:
        table: The chosen pairs.
        with_splits: Whether there are splits to name.
    """
    names = [name for name in table.column_names if name not in _RUN_ONLY | {"pair", "split"}]
    names = ["pair", *(["split"] if with_splits else []), *names]
    arrays = {name: table[name] for name in names if table[name].null_count < len(table)}
    for side in ("content", "style"):
        name = f"{side}_source"
        if name in arrays:
            distinct = pc.unique(arrays[name])
            public = {source: _public(source) for source in distinct.to_pylist() if source is not None}
            arrays[name] = pa.array([public.get(source) for source in arrays[name].to_pylist()], pa.string())
    if "phash" in arrays:
        arrays["phash"] = pa.array([one and one.hex() for one in arrays["phash"].to_pylist()], pa.string())
    return pa.table(arrays)


def _public(source: str) -> str:
    return source if "://" in source else source_name(source)


def are_dates(texts: pa.ChunkedArray) -> bool:
    """Whether a reader that guesses types takes a column of texts for dates: where each of them is written as one."""
    distinct = [value or "" for value in pc.unique(texts).to_pylist()]
    # The first alone tells for nearly all columns, and a date is short.
    return bool(distinct) and _read_as_dates(distinct[:1]) and _read_as_dates(distinct)


def _read_as_dates(texts: Sequence[str]) -> bool:
    if any(len(text) > _LONGEST_DATE for text in texts):
        return False
    lines = "\n".join(json.dumps({"text": text}) for text in texts)
    return bool(pa.types.is_timestamp(read_json(io.BytesIO(lines.encode())).schema.field("text").type))


def as_json(table: pa.Table, empty_texts: bool) -> Iterator[dict[str, Any]]:
    """Each row for JSON: a number that is missing, or not finite, is null.

    Args:
        table: The rows.
        empty_texts: Whether a text that is missing is empty instead of null.
    """
    texts = {field.name for field in table.schema if empty_texts and pa.types.is_string(field.type)}
    for batch in table.to_batches(1024):
        for row in batch.to_pylist():
            yield {name: _plain("" if value is None and name in texts else value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
