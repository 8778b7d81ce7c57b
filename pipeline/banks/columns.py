"""Columns that are computed from a bank later (a PSNR, a thumbnail): beside the index, not in it.

``columns/NAME.parquet`` holds ``image`` and ``value``. The parts of the index stay as they were committed, so a column
can be added, or made again, while others read and write the bank.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.banks.description import INDEX_COLUMNS
from pipeline.banks.tensors import BankError
from pipeline.storage.place import Place
from pipeline.storage.tables import DamagedError, read_table, write_table


def write_column(root: str | Place, name: str, values: Mapping[str, Any]) -> None:
    """Set the column's values for these images (by hash); those of other images stay.

    Values are all numbers, all strings or all bytes. Raises BankError for a name that is the index's own or no word.
    """
    if name in INDEX_COLUMNS or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise BankError(f"column {name!r}: use a lower-case word that is no column of the index")
    place = _folder(root) / f"{name}.parquet"
    if not values:
        return
    merged = {**(_read(place) if place.is_file() else {}), **values}
    images = sorted(merged)
    try:
        table = pa.table({"image": images, "value": [merged[image] for image in images]})
    except pa.ArrowException as error:
        raise BankError(f"column {name!r}: values of different kinds ({error})") from error
    with place.writer() as stream:
        write_table(stream, table)


def read_columns(root: str | Place) -> dict[str, dict[str, Any]]:
    """Name -> image hash -> value, of all columns."""
    return {entry.place.name.removesuffix(".parquet"): _read(entry.place) for entry in _folder(root).list(".parquet")}


def damaged_columns(root: str | Place) -> dict[str, str]:
    """File name -> what is wrong with it, of the columns that can't be read."""
    wrong = {}
    for entry in _folder(root).list(".parquet"):
        try:
            _read(entry.place)
        except BankError as error:
            wrong[entry.place.name] = str(error)
    return wrong


def drop_column(root: str | Place, file: str) -> None:
    """Delete a column's file."""
    (_folder(root) / file).delete()


def _folder(root: str | Place) -> Place:
    return Place.parse(root) / "columns"


def _read(place: Place) -> dict[str, Any]:
    try:
        table = read_table(place, None, ("image", "value"), cure="delete it, it can be made again")
    except DamagedError as error:
        raise BankError(str(error)) from error
    return dict(zip(table["image"].to_pylist(), table["value"].to_pylist(), strict=True))
