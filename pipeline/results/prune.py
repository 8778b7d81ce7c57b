"""Dropping results that no current job wants: rows of the manifest first, then their pictures.

Rows go first, so a kill leaves pictures without rows and never a row without its picture. Plain files without a row are
found by listing the folder; the tars to be rewritten are noted in a file until all are done.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, islice

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.contact_sheets import stale_sheets
from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.results.sweep_sheet import sweep_sheets
from pipeline.results.words import NAMING
from pipeline.storage.files_below import files_below
from pipeline.storage.identity import source_parts
from pipeline.storage.layout import OutputLayout
from pipeline.storage.pair_ids import PairIds, packed
from pipeline.storage.place import Entry, Place
from pipeline.storage.tar import TarWriter

_RECIPE = list(NAMING)


@dataclass(frozen=True)
class Leavings:
    """What is to go: manifest parts with rows that are not wanted, and files of pictures that no row will name.

    Attributes:
        parts: Part -> how many of its rows go.
        named: The files below the output, by their paths, that rows will name.
        n_spare: How many files no row will name: plain pictures and whole tars.
        sheets: Contact sheets of settings that are gone.
        tars: Those that lose some of their members, by their paths below the output.
        size: Bytes of the files and sheets.
    """

    parts: dict[str, int]
    named: PairIds
    n_spare: int
    sheets: list[Entry]
    tars: list[str]
    size: int

    @property
    def pairs(self) -> int:
        return sum(self.parts.values())

    @property
    def files(self) -> int:
        """How many files go or lose some of their members."""
        return self.n_spare + len(self.sheets) + len(self.tars)

    def __bool__(self) -> bool:
        return bool(self.parts or self.files)


def find_leavings(manifest: Manifest, wanted: PairIds) -> Leavings:
    """What ``wanted``, all pairs that current jobs ask for, leaves over. Changes nothing."""
    parts, named, losing = {}, [], set(_read(manifest.output))
    recipes = [pa.table({name: pa.array([], MANIFEST_SCHEMA.field(name).type) for name in _RECIPE})]
    for part in manifest.store.parts():
        rows = manifest.store.part_rows(part, MANIFEST_SCHEMA, ["pair", "picture", *_RECIPE])
        keep = pa.array(wanted.contains(packed(rows["pair"])))
        recipes.append(rows.filter(keep).select(_RECIPE).group_by(_RECIPE).aggregate([]))
        named.append(packed(_files(rows["picture"].filter(keep))))
        going = rows["picture"].filter(pc.invert(keep))
        if len(going):
            parts[part] = len(going)
            losing.update(file for file in _files(going) if file.endswith(".tar"))
    stay = PairIds(*named)
    n_spare = size = 0
    for entry in _spare(manifest, stay):
        n_spare, size = n_spare + 1, size + entry.size
    sheets = stale_sheets(manifest.output, pa.concat_tables(recipes))
    if parts:  # it may show what goes; the next run draws it again
        sheets += sweep_sheets(manifest.output)
    tars = sorted(tar for tar in losing if tar in stay)
    return Leavings(parts, stay, n_spare, sheets, tars, size + sum(entry.size for entry in sheets))


def drop_leavings(manifest: Manifest, leavings: Leavings, wanted: PairIds) -> None:
    """Drop them. Call it while holding the output's lock; killed at any moment, the next prune goes on."""
    output, store = manifest.output, manifest.store
    OutputLayout(output).plan.delete()  # its counts are of the manifest as it was
    if leavings.tars:
        OutputLayout(output).pruning.write_bytes(json.dumps(leavings.tars).encode())
    for part in leavings.parts:
        rows = store.part_rows(part, MANIFEST_SCHEMA)
        manifest.replace(part, rows, rows.filter(pa.array(wanted.contains(packed(rows["pair"])))))
    for entry in chain(_spare(manifest, leavings.named), leavings.sheets):
        entry.place.delete()
    tars = set(leavings.tars)
    for part in store.parts() if tars else []:
        members: dict[str, list[str]] = {}
        for picture in store.part_rows(part, MANIFEST_SCHEMA, ["picture"])["picture"].to_pylist():
            tar, member = source_parts(picture or "")
            if tar in tars:
                members.setdefault(tar, []).append(member or "")
        for tar, names in members.items():
            _keep_members(output / tar, names)
    OutputLayout(output).pruning.delete()


def _files(pictures: pa.ChunkedArray) -> list[str]:
    """The files that a column ``picture`` names, by their paths below the output."""
    files = pc.unique(pc.replace_substring_regex(pictures, "(?s)#.*", ""))
    return [source_parts(file)[0] for file in files.to_pylist() if file]


def _spare(manifest: Manifest, named: PairIds) -> Iterator[Entry]:
    """The files of pictures that are not ``named``."""
    entries = files_below(manifest.store.data_folder)
    while some := list(islice(entries, 10_000)):
        paths = packed([entry.place.relative_to(manifest.output) for entry in some])
        yield from compress(some, ~named.contains(paths))


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
