"""Dropping results that no current job wants: rows of the manifest first, then their pictures.

Rows go first, so a kill leaves pictures without rows and never a row without its picture. Plain files without a row are
found by listing the folder; the tars to be rewritten are noted in a file until all are done.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.contact_sheets import stale_sheets
from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.storage.identity import source_parts
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place
from pipeline.storage.tar import TarWriter

_RECIPE = ["settings", "gamma", "gamma_schedule"]


@dataclass(frozen=True)
class Leavings:
    """What is to go: manifest parts with rows that are not wanted, and files of pictures that no row will name."""

    parts: dict[str, int]  # part -> how many of its rows go
    files: list[Place]  # plain pictures and whole tars, and contact sheets of settings that are gone
    tars: list[str]  # tars that lose some of their members, by their path below the output
    size: int  # bytes of ``files``

    @property
    def pairs(self) -> int:
        return sum(self.parts.values())

    def __bool__(self) -> bool:
        return bool(self.parts or self.files or self.tars)


def find_leavings(manifest: Manifest, wanted: set[str]) -> Leavings:
    """What ``wanted``, the ids of all pairs that current jobs ask for, leaves over. Changes nothing."""
    ids = pa.array(wanted, pa.string())
    parts, named, losing = {}, set(), set(_read(manifest.output))
    recipes = [pa.table({name: pa.array([], MANIFEST_SCHEMA.field(name).type) for name in _RECIPE})]
    for part in manifest.store.parts():
        rows = manifest.store.part_rows(part, MANIFEST_SCHEMA, ["pair", "picture", *_RECIPE])
        keep = pc.is_in(rows["pair"], ids)
        recipes.append(rows.filter(keep).select(_RECIPE).group_by(_RECIPE).aggregate([]))
        files = {source_parts(picture)[0] for picture in rows["picture"].filter(keep).to_pylist() if picture}
        named |= files
        n = pc.sum(pc.invert(keep)).as_py() or 0
        if n:
            parts[part] = n
            losing |= {file for file in files if file.endswith(".tar")}
    payload_files = manifest.store.data_folder.list(recursive=True)
    spare = [entry for entry in payload_files if entry.place.relative_to(manifest.output) not in named]
    spare += stale_sheets(manifest.output, pa.concat_tables(recipes))
    return Leavings(parts, [entry.place for entry in spare], sorted(losing & named), sum(entry.size for entry in spare))


def drop_leavings(manifest: Manifest, leavings: Leavings, wanted: set[str]) -> None:
    """Drop them. Call it while holding the output's lock; killed at any moment, the next prune goes on."""
    output, store = manifest.output, manifest.store
    ids = pa.array(wanted, pa.string())
    OutputLayout(output).plan.delete()  # its counts are of the manifest as it was
    if leavings.tars:
        OutputLayout(output).pruning.write_bytes(json.dumps(leavings.tars).encode())
    for part in leavings.parts:
        rows = store.part_rows(part, MANIFEST_SCHEMA)
        manifest.replace(part, rows, rows.filter(pc.is_in(rows["pair"], ids)))
    for file in leavings.files:
        file.delete()
    for tar in leavings.tars:
        part = tar.rpartition("/")[2].removesuffix(".tar")
        pictures = store.part_rows(part, MANIFEST_SCHEMA, ["picture"])["picture"].to_pylist()
        _keep_members(output / tar, [source_parts(picture)[1] or "" for picture in pictures])
    OutputLayout(output).pruning.delete()


def _read(output: Place) -> list[str]:
    try:
        return json.loads(OutputLayout(output).pruning.read_bytes())
    except FileNotFoundError:
        return []


def _keep_members(place: Place, pictures: Sequence[str]) -> None:
    """Rewrite a tar with the samples of ``pictures`` alone, byte for byte as they are."""
    samples = {name.partition(".")[0] for name in pictures}
    with (
        place.open() as stream,
        tarfile.open(fileobj=stream) as old,
        place.writer() as out,
    ):
        new = TarWriter(out)
        for member in old:
            if member.name.partition(".")[0] in samples:
                content = old.extractfile(member)
                assert content is not None  # the tars of results hold plain files alone
                new.add(member.name, content.read())
        new.end()
