"""Copying banks as a whole into another: merge, export.

All of it goes part by part through the commit protocol, new part first and old part last, so a kill leaves a bank that
opens, and doing it again ends where it would have ended. Not while another job writes the same bank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.banks.columns import read_columns, write_column
from pipeline.banks.description import BankDescription, Latents, part_name
from pipeline.banks.index import BankIndex
from pipeline.banks.payload import PAYLOADS, Payloads
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import BankError, TensorSpec
from pipeline.banks.thumbnails import stored_thumbnails, write_thumbnails
from pipeline.banks.writer import BankWriter
from pipeline.storage.counts import count
from pipeline.storage.differences import differences
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place

Progress = Callable[[str], None]


def _quiet(_: str) -> None:
    return None


def export(
    source: str | Place,
    target: str | Place,
    *,
    format: str | None = None,
    tensors: Sequence[str] | None = None,
    timesteps: Mapping[str, Sequence[int]] | None = None,
    dtypes: Mapping[str, str] | None = None,
    progress: Progress = _quiet,
) -> int:
    """Copy a bank into another format, or one that keeps less: fewer tensors, fewer timesteps, smaller dtypes.

    Goes on where an earlier export was stopped.

    Args:
        source: The bank to copy.
        target: The bank to make, or to go on with.
        format: "parquet" or "webdataset"; None: the source's.
        tensors: The names of those to keep; None: all.
        timesteps: Name of a tensor -> the timesteps to keep of it; those not named keep all.
        dtypes: Name of a tensor -> its dtype in the target; those not named keep theirs.
        progress: Called with a line for each part.

    Returns:
        How many images were copied.

    Raises:
        BankError: For something that the source does not have (a tensor, a timestep).
    """
    bank = LatentBank.open(source)
    timesteps, dtypes = dict(timesteps or {}), dict(dtypes or {})
    names = bank.description.names if tensors is None else tuple(dict.fromkeys(tensors))
    for name in sorted({*names, *timesteps, *dtypes}):
        if not bank.description.keeps(name):
            raise BankError(f"{bank.place}: keeps no {name}; it keeps {' and '.join(bank.description.names)}")
        if name not in names:
            raise BankError(f"{name}: is not exported; name it among the tensors, or give it no timesteps or dtype")
    specs = [_less(bank, bank.description.tensor(name), timesteps.get(name), dtypes.get(name)) for name in names]
    description = dataclasses.replace(bank.description, format=format or bank.description.format, tensors=tuple(specs))
    writer = BankWriter.create_or_open(target, description, {**bank.about, "exported_from": str(bank.place)})
    writer.remove_uncommitted()
    return _pour(bank, writer, progress)


def _less(bank: LatentBank, spec: TensorSpec, timesteps: Sequence[int] | None, dtype: str | None) -> TensorSpec:
    if timesteps is not None:
        absent = sorted(set(timesteps) - set(spec.timesteps or ()))
        if absent:
            kept = "none" if spec.timesteps is None else list(spec.timesteps)
            raise BankError(f"{bank.place}: {spec.name} at timesteps {absent} is not kept; kept are {kept}")
        spec = dataclasses.replace(spec, timesteps=tuple(timesteps))
    return dataclasses.replace(spec, dtype=dtype or spec.dtype)


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
        differing = differences(description.to_dict(), same_format.to_dict())
        if differing:
            raise BankError(f"{bank.place} can't be merged into {place}: {'; '.join(differing)}")
    about = {**banks[0].about, "merged_from": [str(bank.place) for bank in banks]}
    writer = BankWriter.create_or_open(place, description, about)
    writer.remove_uncommitted()
    return sum(_pour(bank, writer, progress) for bank in banks)


def _pour(bank: LatentBank, writer: BankWriter, progress: Progress) -> int:
    """Copy what the writer's bank lacks: images, then other names of them, then failures."""
    known = writer.known_images()
    source = BankIndex(PartStore(bank.place), bank.description)
    copied = 0
    for part, rows in source.tensor_parts().items():
        new = [row for row in rows if row["image"] not in known]
        if new:
            whole = len(new) == len(rows) and bank.description == writer.description
            if whole:
                _copy_part(bank.place, writer, part, new)
            else:
                repack(bank.payloads, writer, new)
            known.update(row["image"] for row in new)
            copied += len(new)
            progress(f"{part}: {len(new)} of {count(len(rows), 'image')} copied")
    index = source.read()
    ok = index.filter(pc.equal(index["status"], "ok"))
    writer.commit_aliases(ok.to_pylist())
    writer.commit_corrected(writer.corrected(bank.index.to_pylist()))
    failures = index.filter(pc.not_equal(index["status"], "ok")).to_pylist()
    known_failures = writer.failed_images()
    writer.commit_failures(row for row in failures if row["image"] not in known and row["image"] not in known_failures)
    if dataclasses.replace(bank.description, format=writer.description.format) == writer.description:
        columns = read_columns(writer.root)  # what was computed from the same tensors holds for their copies
        for name, values in read_columns(bank.place).items():
            have = columns.get(name, {})
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
    write_thumbnails(writer.root, name, stored_thumbnails(source, rows))
    writer.commit(name, [{**row, "data": name} for row in rows])


def repack(payloads: Payloads, writer: BankWriter, rows: list[dict[str, Any]]) -> None:
    """Write the entries of ``rows``, read from ``payloads``, as a new part of the writer's bank."""
    thumbnails = stored_thumbnails(payloads.root, rows)
    items = [
        dataclasses.replace(_fitted(entry, writer.description), thumbnail=thumbnails.get(entry.image))
        for entry in payloads.read_rows(rows, writer.description.names)
    ]
    name = part_name([item.image for item in items])
    writer.commit(name, writer.write_payload(writer.root, writer.description, name, items))


def _fitted(entry: Latents, wanted: BankDescription) -> Latents:
    """The entry with no more timesteps than wanted; dtypes are the writer's business."""
    tensors, timesteps = dict(entry.tensors), dict(entry.timesteps)
    for one in wanted.tensors:
        have = entry.timesteps.get(one.name)
        if one.timesteps is not None and have is not None and have != one.timesteps:
            slices = [have.index(timestep) for timestep in one.timesteps]
            tensors[one.name] = np.ascontiguousarray(tensors[one.name][slices])
            timesteps[one.name] = one.timesteps
    return dataclasses.replace(entry, tensors=tensors, timesteps=timesteps)
