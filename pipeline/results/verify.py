"""Is every picture of the manifest there, as its row says? ``check_results`` looks, ``drop_damaged`` drops what is not.

What is dropped is missing, and the next run makes what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.manifest import MANIFEST_SCHEMA, TIMING_COLUMNS, Manifest
from pipeline.results.named_files import files_of, files_there, spare_files
from pipeline.results.pictures import inside
from pipeline.storage.counts import count
from pipeline.storage.damage import Damage, tar_members
from pipeline.storage.identity import digest, source_parts
from pipeline.storage.layout import OutputLayout
from pipeline.storage.pair_ids import PairIds, packed
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.stored_description import DescriptionError
from pipeline.storage.tables import DamagedError

_COLUMNS = ["pair", "status", "picture", "picture_hash", "picture_bytes"]


@dataclass
class ResultsReport:
    """What ``check_results`` saw.

    Attributes:
        pairs: Rows of the manifest that are not failures.
        bytes: Of the pictures that are as their rows say.
        problems: A line for each thing that is wrong.
        broken: Manifest parts that go as a whole: not readable.
        rows: Part -> the pairs whose rows go: their picture or its tar is missing or damaged, or another part has
            them too.
        files: Files that go: damaged, or named by no row.
    """

    pairs: int = 0
    bytes: int = 0
    problems: list[Damage] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    rows: dict[str, set[str]] = field(default_factory=dict)
    files: list[Place] = field(default_factory=list)


def check_results(manifest: Manifest) -> ResultsReport:
    """Check the manifest's parts, and every picture against its row, both ways. Reads every picture once.

    Memory: a part at a time, and some 16 bytes a pair and a file; and what is wrong.
    """
    report = ResultsReport()
    output, store = manifest.output, manifest.store
    present = files_there(manifest)  # before the rows: what a run that is under way adds meanwhile is no problem
    files: list[np.ndarray] = []
    ids: list[np.ndarray] = []
    seen: dict[str, str] = {}  # pair -> the part that has it, of those that are in several
    if store.exists():
        try:
            store.description()
        except DescriptionError as error:
            report.problems.append(Damage(output, str(error).removeprefix(f"{output}/")))
            report.files.append(output / OutputLayout.DESCRIPTION)
    for part in store.parts():
        table = _made(report, store, part, ["pair", "status", "picture"])
        ids.append(packed(table["pair"]))
        files.append(packed(files_of(table["picture"])))
    several = PairIds.more_than_once(*ids)
    named = PairIds(*files)
    del ids, files
    for part in store.parts():
        table = _made(report, store, part, _COLUMNS)
        place = store.index(part)
        made = table.to_pylist()
        if len(several):
            twice = table["pair"].filter(pa.array(several.contains(packed(table["pair"])))).to_pylist()
            again = [pair for pair in twice if seen.setdefault(pair, part) != part]
        else:
            again = []
        if again:
            message = (
                f"{count(len(again), 'pair', 'has/have')} a row in another part too, the first in {seen[again[0]]}"
            )
            report.problems.append(Damage(place, message))
            report.rows.setdefault(part, set()).update(again)
        report.pairs += len(made)
        rows_of_tars: dict[str, list[int]] = {}
        for n, row in enumerate(made):
            if source_parts(row["picture"] or "")[1]:
                rows_of_tars.setdefault(source_parts(row["picture"])[0], []).append(n)
        if rows_of_tars:  # their samples say all that a row does
            whole = _made(report, store, part, MANIFEST_SCHEMA.names)
            rows_of_tars = rows_of_tars if len(whole) == len(made) else {}
        for tar, numbers in sorted(rows_of_tars.items()):
            _check_tar(report, output, part, tar, whole.take(numbers).to_pylist())
        _check_files(report, output, part, [row for row in made if source_parts(row["picture"] or "")[1] is None])
    spare = present.without(named)
    places = [entry.place for entry in spare_files(manifest, named)] if len(spare) else []
    known = spare.contains(packed([place.relative_to(output) for place in places]))
    for place in sorted((place for place, was_present in zip(places, known, strict=True) if was_present), key=str):
        report.problems.append(Damage(place, "no row of the manifest names it"))
        report.files.append(place)
    return report


def _made(report: ResultsReport, store: PartStore, part: str, columns: list[str]) -> pa.Table:
    """The rows of a part that are not failures; none where it can't be read, which the report then says."""
    place = store.index(part)
    try:
        if part not in report.broken:
            rows = store.part_rows(part, MANIFEST_SCHEMA, columns)
            return rows.filter(pc.equal(rows["status"], "ok"))
    except DamagedError as error:
        report.problems.append(Damage(place, str(error).removeprefix(f"{place}: ").partition("; run ")[0]))
        report.broken.add(part)
    except FileNotFoundError:  # a run that is under way has merged it; `diffstyle verify` says that one is
        pass
    return MANIFEST_SCHEMA.empty_table().select(columns)


def _check_files(report: ResultsReport, output: Place, part: str, rows: list[dict[str, Any]]) -> None:
    with ThreadPoolExecutor(4 if output.is_local else 16) as pool:
        for row, wrong in zip(rows, pool.map(lambda row: _wrong_file(output, row), rows), strict=True):
            if wrong is None:
                report.bytes += row["picture_bytes"]
                continue
            report.problems.append(wrong)
            report.rows.setdefault(part, set()).add(row["pair"])
            if wrong.place != output:
                report.files.append(wrong.place)


def _wrong_file(output: Place, row: Mapping[str, Any]) -> Damage | None:
    path = source_parts(row["picture"] or "")[0]
    if not inside(path):
        return Damage(output, f"the row of pair {row['pair']} names {row['picture']!r}, which is no picture of a run")
    try:
        return _wrong_bytes(output / path, (output / path).read_bytes(), row)
    except FileNotFoundError:
        return Damage(output / path, "missing, though a row of the manifest names it")


def _wrong_bytes(place: Place, data: bytes, row: Mapping[str, Any]) -> Damage | None:
    if len(data) != row["picture_bytes"]:
        return Damage(place, f"has {count(len(data), 'byte')}, its row says {row['picture_bytes']}")
    if digest(data) != row["picture_hash"]:
        return Damage(place, "bytes have changed since it was written")
    return None


def _check_tar(report: ResultsReport, output: Place, part: str, tar: str, rows: list[dict[str, Any]]) -> None:
    """A tar is whole or it goes, with all its rows: no member of a damaged one is to be trusted."""
    place = output / tar
    wanted = {source_parts(row["picture"])[1]: row for row in rows}
    described = {(name or "").rpartition(".")[0] + ".json": row for name, row in wanted.items()}
    problem: Damage | None = None
    if not inside(tar):
        problem = Damage(output, f"a row of {part} names {tar!r}, which is no picture of a run")
    left = set(wanted) | set(described)
    try:
        for name, _, data in tar_members(place) if problem is None else ():
            left.discard(name)
            if name in wanted:
                problem = problem or _wrong_bytes(place, data, wanted[name])
            elif name not in described or not _says(data, described[name]):
                problem = problem or Damage(place, f"member {name} is not as the manifest says")
        if problem is None and left:
            problem = Damage(place, f"lacks {min(name or '' for name in left)}")
    except DamagedError as error:
        problem = Damage(place, str(error).removeprefix(f"{place}: "))
    except FileNotFoundError:
        problem = Damage(place, "missing, though the manifest names it")
    if problem is None:
        report.bytes += sum(row["picture_bytes"] for row in wanted.values())
        return
    report.problems.append(problem)
    report.rows.setdefault(part, set()).update(row["pair"] for row in rows)
    if problem.place == place:
        report.files.append(place)


def _says(data: bytes, row: Mapping[str, Any]) -> bool:
    """Whether a sample's JSON says what its row does."""
    try:
        return json.loads(data) == {n: v for n, v in row.items() if v is not None and n not in TIMING_COLUMNS}
    except ValueError:
        return False


def drop_damaged(manifest: Manifest, report: ResultsReport) -> None:
    """Drop what ``report`` names, rows before files. Call it while holding the output's lock."""
    if not report.problems:
        return
    OutputLayout(manifest.output).plan.delete()  # its counts are of the manifest as it was
    for part in sorted(report.broken):
        manifest.store.drop(part)
    for part in sorted(set(report.rows) - report.broken):
        rows = manifest.store.part_rows(part, MANIFEST_SCHEMA)
        gone = pc.is_in(rows["pair"], pa.array(sorted(report.rows[part]), pa.string()))
        manifest.replace(part, rows, rows.filter(pc.invert(gone)))
    _delete(report.files)
    # A part that is gone had pictures, which no row names now.
    named = manifest.store.each(lambda rows: packed(files_of(rows["picture"])), MANIFEST_SCHEMA, ["picture"])
    _delete(entry.place for entry in spare_files(manifest, PairIds(*named)))


def _delete(files: Iterable[Place]) -> None:
    for file in files:
        file.delete()
