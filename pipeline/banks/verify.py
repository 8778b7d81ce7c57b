"""Is a bank what it says it is? ``verify`` looks at everything, ``repair`` drops what is broken.

What is dropped is missing, and what is missing the next ``precompute`` makes again: a bank is never fixed by guessing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.banks.columns import damaged_columns, drop_column
from pipeline.banks.description import BankDescription, Latents
from pipeline.banks.drop import delete_part, drop
from pipeline.banks.index import SNAPSHOT, BankIndex, read_description
from pipeline.banks.payload import PAYLOADS, Payloads
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import BankError, TensorSpec
from pipeline.banks.thumbnails import damaged_thumbnails, drop_thumbnails
from pipeline.banks.writer import BankWriter
from pipeline.storage.counts import count
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. ``kind``: what ``repair`` does about it.

    ``index`` (an index file that can't be read), ``part`` (a payload that is missing, changed, or not what the index
    says): the part goes. ``alias`` (a name that leads nowhere): the name goes. ``doubled`` (an image with tensors in
    two parts): all but the first go. ``snapshot`` (a copy of the index that differs from it): the copy goes.
    ``column`` (one that was computed later and can't be read): its file goes. ``thumbnails`` (those of a part, which
    can't be read): their file goes.
    ``inversion`` (a sample that inverts to something else): nothing, since it says that the model or the code differs,
    not which entries do.
    """

    kind: str
    part: str
    message: str
    image: str | None = None

    def __str__(self) -> str:
        return f"{self.part}: {self.message}"


@dataclass
class BankReport:
    """What ``verify`` saw. ``ok`` if there is no problem; ``notes`` are no problems (what a killed writer left)."""

    parts: int = 0
    images: int = 0
    names: int = 0
    failed: int = 0
    bytes: int = 0
    sampled: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(
    path: str | Place,
    *,
    reinvert: Callable[[Latents], str | None] | None = None,
    sample: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BankReport:
    """Check every part: payload against its hash, entries against the index both ways, shapes, dtypes, finite values.

    ``reinvert`` is called with ``sample`` random entries and says what is wrong with one, or None. ``progress`` is
    called with (parts done, parts). Reads every byte twice, a few parts at a time. Raises DescriptionError or BankError
    only where the description itself can't be used.
    """
    place = Place.parse(path)
    store = PartStore(place)
    description, _ = read_description(store)
    index = BankIndex(store, description)
    report = BankReport()
    indexed: dict[str, list[dict[str, Any]]] = {}
    for part in store.parts():
        try:
            indexed[part] = index.part(part).to_pylist()
        except BankError as error:
            report.problems.append(Problem("index", part, str(error)))
    rows = [row for part_rows in indexed.values() for row in part_rows]
    ok = [row for row in rows if row["status"] == "ok"]
    report.failed = len({row["image"] for row in rows} - {row["image"] for row in ok})
    report.names = len({(row["key"], row["image"]) for row in ok})

    own = {part: [row for row in part_rows if row["data"] == part] for part, part_rows in indexed.items()}
    own = {part: part_rows for part, part_rows in own.items() if part_rows}
    report.parts = len(own)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        checks = pool.map(lambda item: _check_part(store, description, *item), own.items())
        for done, (part, problems) in enumerate(zip(own, checks, strict=True), 1):
            report.problems += problems
            report.bytes += own[part][0]["data_size"] or 0
            progress(done, len(own))

    first: dict[str, dict[str, Any]] = {}
    for part, part_rows in own.items():
        for row in part_rows:
            earlier = first.setdefault(row["image"], row)
            if earlier is not row:
                fault = f"{row['key']} has its tensors in {earlier['data']} too"
                report.problems.append(Problem("doubled", part, fault, row["image"]))
    report.images = len(first)
    for part, part_rows in indexed.items():
        for row in part_rows:
            if (
                row["status"] == "ok"
                and row["data"] != part
                and not _leads_to(row, own.get(row["data"], []), description)
            ):
                fault = f"{row['key']} is a name for an image that is not in {row['data']}"
                report.problems.append(Problem("alias", part, fault, row["image"]))
    for entry in store.data_folder.list():
        if entry.place.name not in {f"{part}.{PAYLOADS[description.format].EXTENSION}" for part in own}:
            report.notes.append(f"{entry.place}: no part of the index names it; left by a killed writer, or in work")
    if not any(problem.kind == "index" for problem in report.problems) and (wrong := index.check_snapshot()):
        report.problems.append(Problem("snapshot", SNAPSHOT, wrong))
    report.problems += [Problem("column", file, message) for file, message in damaged_columns(place).items()]
    report.problems += [Problem("thumbnails", part, message) for part, message in damaged_thumbnails(place).items()]
    if reinvert and sample and report.ok:
        _sample(place, report, reinvert, sample, seed)
    return report


def _leads_to(row: dict[str, Any], rows: list[dict[str, Any]], description: BankDescription) -> bool:
    names = ("image", *description.place_columns)
    return any(all(candidate[name] == row[name] for name in names) for candidate in rows)


def _check_part(store: PartStore, description: BankDescription, part: str, rows: list[dict[str, Any]]) -> list[Problem]:
    """What is wrong with one payload; the first few of each kind are enough to say."""
    payload = PAYLOADS[description.format]
    place = store.data(part, payload.EXTENSION)
    if len({(row["data_size"], row["data_hash"]) for row in rows}) != 1:
        return [Problem("part", part, "its rows name different sizes or hashes of one payload")]
    messages = []
    try:
        size, found_hash = _hash(place)
        if size != rows[0]["data_size"]:
            sizes = f"the payload has {count(size, 'byte')}, the index says {rows[0]['data_size']}"
            return [Problem("part", part, sizes)]
        if found_hash != rows[0]["data_hash"]:
            messages.append("the payload differs from its hash: bytes have changed since it was written")
        messages += _check_entries(place, payload, store, description, rows)
    except FileNotFoundError:
        messages.append("the payload is missing")
    except BankError as error:
        messages.append(str(error))
    return [Problem("part", part, message) for message in messages]


def _check_entries(
    place: Place, payload: Any, store: PartStore, description: BankDescription, rows: list[dict[str, Any]]
) -> list[str]:
    """Each entry as a plain reader of the format sees it, against its row and against what the index's offsets give."""
    messages = []
    by_row = {row["row"]: row for row in rows}
    payloads = Payloads(store, description)
    seen = set()
    for entry in payload.read_all(place):
        at = entry.row["row"]
        row = by_row.get(at)
        seen.add(at)
        if row is None or (row["image"], row["key"]) != (entry.image, entry.key):
            messages.append(f"row {at} holds {entry.key}, the index says {row['key'] if row else 'nothing'}")
            continue
        surplus = sorted(set(entry.tensors) - set(description.names))
        if surplus:
            messages.append(f"{entry.key}: holds {' and '.join(surplus)}, which the description does not name")
        (indexed,) = payloads.read_rows([row])
        for spec in description.tensors:
            messages += _check_tensor(entry, spec, indexed.tensors[spec.name])
    messages += [f"{row['key']} is in the index, not in the payload" for at, row in by_row.items() if at not in seen]
    return messages


def _check_tensor(entry: Latents, spec: TensorSpec, indexed: np.ndarray) -> list[str]:
    """What is wrong with a tensor as the format has it; ``indexed`` is what the index's offsets give."""
    tensor = entry.tensors.get(spec.name)
    if tensor is None:
        return [f"{entry.key}: {spec.name} is missing"]
    wrong = []
    if entry.timesteps.get(spec.name) != spec.timesteps:
        wrong.append(f"{entry.key}: {spec.name} is for timesteps {entry.timesteps.get(spec.name)}")
    if tensor.shape != spec.stored_shape or tensor.dtype != spec.stored_dtype:
        wrong.append(f"{entry.key}: {spec.name} is {tensor.dtype} {tensor.shape}, not {spec}")
    elif tensor.tobytes() != indexed.tobytes():
        wrong.append(f"{entry.key}: the index does not point at its {spec.name}")
    elif not np.isfinite(tensor).all():
        wrong.append(f"{entry.key}: {spec.name} has values that are not finite")
    return wrong


def _hash(place: Place) -> tuple[int, str]:
    state, size = hashlib.sha256(), 0
    with place.open() as stream:
        while piece := stream.read(8 << 20):
            state.update(piece)
            size += len(piece)
    return size, state.hexdigest()


def _sample(root: Place, report: BankReport, reinvert: Callable[[Latents], str | None], sample: int, seed: int) -> None:
    bank = LatentBank.open(root)
    numbers = np.random.default_rng(seed).permutation(len(bank))[:sample]
    for number in sorted(numbers.tolist()):
        entry = bank[number]
        report.sampled += 1
        wrong = reinvert(entry)
        if wrong:
            report.problems.append(Problem("inversion", entry.row["data"], f"{entry.key}: {wrong}", entry.image))


def repair(path: str | Place, report: BankReport | None = None) -> list[str]:
    """Drop what ``report`` (by default: a new ``verify``) calls broken; returns a line for each thing dropped.

    What went is then missing, and the next ``precompute`` makes it again. A payload with a wrong hash goes as a whole:
    no entry of it can be trusted. Call it while no other job writes the bank.
    """
    place = Place.parse(path)
    report = report or verify(place)
    store = PartStore(place)
    writer = BankWriter(place, read_description(store)[0])
    done = []
    for part in sorted({problem.part for problem in report.problems if problem.kind == "index"}):
        store.drop(part)
        done.append(f"{part}: index file dropped")
    for file in sorted(problem.part for problem in report.problems if problem.kind == "column"):
        drop_column(place, file)
        done.append(f"columns/{file}: dropped, it can be made again")
    for part in sorted(problem.part for problem in report.problems if problem.kind == "thumbnails"):
        drop_thumbnails(place, part)
        done.append(f"{part}: thumbnails dropped")
    broken = {problem.part for problem in report.problems if problem.kind == "part"}
    for part in sorted(broken):
        lost = len(writer.index.part(part))
        delete_part(writer, part)
        done.append(f"{part}: dropped with its {count(lost, 'image')}")
    if any(problem.kind == "snapshot" for problem in report.problems):
        writer.index.delete_snapshot()
        done.append(f"{SNAPSHOT}: dropped, the index itself is whole")
    seen: set[str] = set()
    second: set[tuple[str, str]] = set()
    for part, rows in writer.index.tensor_parts().items():
        images = {row["image"] for row in rows}
        second.update((part, image) for image in images & seen)
        seen |= images
    done += [f"{part}: {image} dropped, it is in another part too" for part, image in sorted(second)]
    done += drop(place, lambda row: (row["data"], row["image"]) in second)
    writer.remove_uncommitted()
    return done
