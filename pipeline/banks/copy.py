"""Copying banks as a whole into another: merge, export; moving one to a new version (upgrade).

All of it goes part by part through the commit protocol, new part first and old part last, so a kill leaves a bank that
opens, and doing it again ends where it would have ended. Not while another job writes the same bank.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.banks.columns import read_columns, write_column
from pipeline.banks.description import (
    BANK_FORMAT_VERSION,
    BankDescription,
    BankError,
    Latents,
    part_name,
)
from pipeline.banks.index import read_index, tensor_parts
from pipeline.banks.payload import PAYLOADS, Payloads
from pipeline.banks.reader import LatentBank
from pipeline.banks.writer import BankWriter
from pipeline.storage.parts import PartStore, differences
from pipeline.storage.place import Place

Progress = Callable[[str], None]


def _quiet(_: str) -> None:
    return None


def export(
    source: str | Place,
    target: str | Place,
    *,
    format: str | None = None,
    role: str | None = None,
    h_timesteps: Sequence[int] | None = None,
    h_dtype: str | None = None,
    x_t_dtype: str | None = None,
    progress: Progress = _quiet,
) -> int:
    """Copy a bank into another format, or one that keeps less: another role, fewer timesteps, smaller dtypes.

    Goes on where an earlier export was stopped. Returns how many images were copied. Raises BankError for something
    that the source does not have (a role that needs tensors it lacks, a timestep it did not keep).
    """
    bank = LatentBank.open(source)
    there = bank.description
    role = role or there.role
    if there.role not in (role, "both"):
        raise BankError(f"{bank.place}: a {there.role} bank can't be exported as {role}; it lacks the tensors")
    kept = () if role == "style" else there.h_timesteps if h_timesteps is None else tuple(h_timesteps)
    absent = sorted(set(kept) - set(there.h_timesteps))
    if absent:
        raise BankError(f"{bank.place}: h at timesteps {absent} is not kept; kept are {list(there.h_timesteps)}")
    description = dataclasses.replace(
        there,
        format=format or there.format,
        role=role,
        h_timesteps=kept,
        h_dtype=h_dtype or there.h_dtype,
        x_t_dtype=x_t_dtype or there.x_t_dtype,
    )
    writer = BankWriter.create_or_open(target, description, {**bank.about, "exported_from": str(bank.place)})
    writer.remove_uncommitted()
    return _pour(bank, writer, progress)


def merge(
    target: str | Place, sources: Sequence[str | Place], *, format: str | None = None, progress: Progress = _quiet
) -> int:
    """Copy the entries of several banks into ``target``, which is made if it is not there; returns how many images.

    An image that is there already is not copied again; its other names are. The banks must be equal in all but the
    format, else BankError naming the fields. ``format``: that of a new target, by default the first source's.
    """
    banks = [LatentBank.open(source) for source in sources]
    if not banks:
        raise BankError("nothing to merge: name at least one source")
    place = Place.parse(target)
    if PartStore(place).exists():
        description = LatentBank.open(place).description
    else:
        description = dataclasses.replace(banks[0].description, format=format or banks[0].description.format)
    for bank in banks:
        if bank.place == place:
            raise BankError(f"{place}: is the target and a source at once")
        same_format = dataclasses.replace(bank.description, format=description.format)
        found = differences(description.to_dict(), same_format.to_dict())
        if found:
            raise BankError(f"{bank.place} can't be merged into {place}: {'; '.join(found)}")
    about = {**banks[0].about, "merged_from": [str(bank.place) for bank in banks]}
    writer = BankWriter.create_or_open(place, description, about)
    writer.remove_uncommitted()
    return sum(_pour(bank, writer, progress) for bank in banks)


def _pour(bank: LatentBank, writer: BankWriter, progress: Progress) -> int:
    """Copy what the writer's bank lacks: images, then other names of them, then failures."""
    known = writer.known_images()
    copied = 0
    for part, rows in tensor_parts(PartStore(bank.place)).items():
        new = [row for row in rows if row["image"] not in known]
        if new:
            whole = len(new) == len(rows) and bank.description == writer.description
            if whole:
                _copy_part(bank.place, writer, part, new)
            else:
                repack(bank.payloads, writer, new)
            known.update(row["image"] for row in new)
            copied += len(new)
            progress(f"{part}: {len(new)} of {len(rows)} images copied")
    index = read_index(PartStore(bank.place))
    ok = index.filter(pc.equal(index["status"], "ok"))
    writer.commit_aliases(ok.to_pylist())
    failures = index.filter(pc.not_equal(index["status"], "ok")).to_pylist()
    known_failures = writer.failed_images()
    writer.commit_failures(row for row in failures if row["image"] not in known and row["image"] not in known_failures)
    if dataclasses.replace(bank.description, format=writer.description.format) == writer.description:
        there = read_columns(writer.root)  # what was computed from the same tensors holds for their copies
        for name, values in read_columns(bank.place).items():
            have = there.get(name, {})
            write_column(writer.root, name, {image: value for image, value in values.items() if image not in have})
    writer.snapshot()
    return copied


def _copy_part(source: Place, writer: BankWriter, part: str, rows: list[dict[str, Any]]) -> None:
    """The payload as it is, byte for byte, under the name that its images give it."""
    extension = PAYLOADS[writer.description.format].EXTENSION
    name = part_name([row["image"] for row in rows])
    origin = PartStore(source).data(part, extension)
    with origin.open() as stream, writer.hashing_payload(name) as target:
        while piece := stream.read(8 << 20):
            target.write(piece)
        if target.hexdigest() != rows[0]["data_hash"]:
            raise BankError(f"{origin}: differs from its hash in the index; run `diffstyle bank repair` there")
    writer.commit(name, [{**row, "data": name} for row in rows])


def repack(payloads: Payloads, writer: BankWriter, rows: list[dict[str, Any]]) -> None:
    items = [_fitted(entry, writer.description) for entry in payloads.read_rows(rows)]
    name = part_name([item.image for item in items])
    writer.commit(name, writer.write_payload(writer.root, writer.description, name, items))


def _fitted(entry: Latents, wanted: BankDescription) -> Latents:
    """The entry with no more timesteps than wanted; dtypes and roles are the writer's business."""
    if entry.h is None or not wanted.keeps_h:
        return dataclasses.replace(entry, h_timesteps=wanted.h_timesteps)
    slices = [entry.h_timesteps.index(timestep) for timestep in wanted.h_timesteps]
    return dataclasses.replace(entry, h=np.ascontiguousarray(entry.h[slices]), h_timesteps=wanted.h_timesteps)


# ---- versions ----
# Format version -> the step from it to the next one. A step gets the store and the description's identity, changes what
# it must so that doing it twice does no harm, and returns the identity of the next version (its number aside). The
# description is written after the step: a kill between them repeats the step.
Migration = Callable[[PartStore, dict[str, Any]], dict[str, Any]]
MIGRATIONS: dict[int, Migration] = {}


def upgrade(path: str | Place, *, progress: Progress = _quiet) -> list[int]:
    """Bring a bank to this release's format version; returns the versions it went through ([]: nothing to do).

    Raises BankError for a newer bank, and for one that is too old for any release that knows the way.
    """
    store = PartStore(Place.parse(path))
    stored = store.description()
    identity = stored.get("identity", {})
    version = identity.get("format_version")
    if identity.get("kind") != "bank" or not isinstance(version, int) or version >= BANK_FORMAT_VERSION:
        BankDescription.from_dict(identity, str(store.root))  # says what is wrong, if something is
        return []
    passed = []
    while version < BANK_FORMAT_VERSION:
        if version not in MIGRATIONS:
            raise BankError(f"{store.root}: no way is known from format version {version}; make the bank again")
        identity = {**MIGRATIONS[version](store, identity), "format_version": version + 1}
        text = json.dumps({**stored, "identity": identity}, indent=2, sort_keys=True)
        (store.root / "description.json").write_bytes(text.encode() + b"\n")
        version += 1
        passed.append(version)
        progress(f"now format version {version}")
    return passed
