"""Are the shards as they were written? ``check_shards`` looks, ``drop_parts`` drops what is not.

A part goes as a whole: its pictures are then unknown, and the next run prepares them again from their sources.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipeline.shards.rows import INDEX_SCHEMA, REJECTS_SCHEMA, read_png
from pipeline.shards.store import ShardStore
from pipeline.shards.write import described
from pipeline.storage.damage import Damage, tar_members
from pipeline.storage.place import Place
from pipeline.storage.png import whole_png
from pipeline.storage.tables import DamagedError, read_table


@dataclass
class ShardsReport:
    """What ``check_shards`` saw.

    Attributes:
        pictures: Rows of the index that are as they were written.
        rejects: Rows of the rejects.
        problems: A line for each thing that is wrong.
        notes: What is no problem: tars of a killed run, or of one that is at work.
        broken: The parts that go.
    """

    pictures: int = 0
    rejects: int = 0
    problems: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)


def check_shards(root: Place) -> ShardsReport:
    """Check every part: index and rejects readable, every row's picture in its tar, every byte as it was written.

    Raises DescriptionError or ShardError where the store's description can't be used. Reads every byte twice.
    """
    report = ShardsReport()
    shards = ShardStore(root)
    _ = shards.preparation
    store, owned = shards.parts, set()
    for part in store.parts():
        place = store.index(part)
        try:
            rows = store.part_rows(part, INDEX_SCHEMA).to_pylist()
            rejects = shards.rejects_of(part)
            if rejects.is_file():
                place = rejects
                report.rejects += len(read_table(rejects, REJECTS_SCHEMA, cure=store.cure))
        except DamagedError as error:
            owned.add(part)
            report.broken.add(part)
            report.problems.append(Damage(place, str(error).removeprefix(f"{place}: ").partition("; run ")[0]))
            continue
        if rows:
            owned.add(part)
        wrong = _check_part(store.data_folder / f"{part}.tar", part, rows)
        if wrong is None:
            report.pictures += len(rows)
        else:
            report.problems.append(wrong)
            report.broken.add(part)
    for entry in store.data_folder.list():
        if entry.place.name.removesuffix(".tar") not in owned:
            report.notes.append(f"{entry.place}: no part of the index names it; left by a killed run, or in work")
    return report


def _check_part(place: Place, part: str, rows: list[dict[str, Any]]) -> Damage | None:
    """What is wrong with a part's tar; it has a picture and its JSON for each key."""
    first = {row["key"]: row for row in reversed(rows)}
    if any(row["data"] != part or row["image"] != first[row["key"]]["image"] for row in rows):
        return Damage(place, "rows of its index are not of this part, or disagree on a picture")
    left = {f"{key}.{suffix}" for key in first for suffix in ("png", "json")}
    try:
        for name, offset, data in tar_members(place) if rows else ():
            key, _, suffix = name.rpartition(".")
            row = first.get(key)
            if row is None or name not in left:
                return Damage(place, f"member {name} is not in the index")
            left.discard(name)
            if suffix == "json":
                if json.loads(data) != json.loads(described(row)):
                    return Damage(place, f"member {name} is not as the index says")
            elif any((one["offset"], one["size"]) != (offset, len(data)) for one in rows if one["key"] == key):
                return Damage(place, f"the index does not point at {name}")
            elif not whole_png(data):
                return Damage(place, f"member {name}: bytes have changed since it was written")
            else:
                read_png(data, row)
    except FileNotFoundError:
        return Damage(place, "missing, though the index names it")
    except (DamagedError, OSError, SyntaxError, ValueError) as error:
        return Damage(place, str(error).removeprefix(f"{place}: "))
    return Damage(place, f"lacks {min(left)}") if left else None


def drop_parts(root: Place, parts: Iterable[str]) -> None:
    """Take parts out of the store: the index first, then tar and rejects. Call it while holding the output's lock."""
    shards = ShardStore(root)
    for part in sorted(parts):
        shards.parts.drop(part)
        shards.parts.data(part, "tar").delete()
        shards.rejects_of(part).delete()
