"""Dropping results that no current job wants: rows of the manifest first, then their pictures, then their scores.

Rows go first, so a kill leaves pictures and scores without rows and never a row without its picture. A note says that
it is under way, with the tars to be rewritten, until all is done; plain files and scores without a row are found by
listing.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.contact_sheets import stale_sheets
from pipeline.results.frechet import frechet_distances
from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.results.named_files import files_of, spare_files
from pipeline.results.network_scores import networks_of
from pipeline.results.retention import Rule
from pipeline.results.scores import SCORES_SCHEMA, Scores
from pipeline.results.sweep_sheet import sweep_sheets
from pipeline.results.words import NAMING
from pipeline.storage.counts import count, data_size
from pipeline.storage.identity import source_parts
from pipeline.storage.layout import OutputLayout
from pipeline.storage.pair_ids import PairIds, packed
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Entry, Place
from pipeline.storage.tar import TarWriter

_RECIPE = list(NAMING)


@dataclass(frozen=True)
class Leavings:
    """What is to go: manifest parts with rows that don't stay, and files of pictures that no row will name.

    Attributes:
        parts: Part -> how many of its rows go.
        named: The files below the output, by their paths, that rows will name.
        n_spare: How many files no row will name: plain pictures and whole tars.
        sheets: Contact sheets of settings that are gone.
        tars: Those that lose some of their members, by their paths below the output.
        size: Bytes of the files and sheets.
        scores: How many rows of scores no row of the manifest will have, in all stores of scores.
        unfinished: Whether an earlier drop was killed.
    """

    parts: dict[str, int]
    named: PairIds
    n_spare: int
    sheets: list[Entry]
    tars: list[str]
    size: int
    scores: int
    unfinished: bool

    @property
    def pairs(self) -> int:
        return sum(self.parts.values())

    @property
    def files(self) -> int:
        """How many files go or lose some of their members."""
        return self.n_spare + len(self.sheets) + len(self.tars)

    def __bool__(self) -> bool:
        return bool(self.parts or self.files or self.scores or self.unfinished)

    def __str__(self) -> str:
        scores = f", {count(self.scores, 'row')} of scores" if self.scores else ""
        return f"{count(self.pairs, 'pair')} and {count(self.files, 'file')} ({data_size(self.size)}){scores}"


def find_leavings(manifest: Manifest, rule: Rule) -> Leavings:
    """What does not stay by ``rule``. Changes nothing."""
    tars_before = _under_way(manifest.output)
    parts, named, pairs, losing = {}, [], [], set(tars_before or ())
    recipes = [pa.table({name: pa.array([], MANIFEST_SCHEMA.field(name).type) for name in _RECIPE})]
    columns = list(dict.fromkeys(("pair", "picture", *_RECIPE, *rule.columns)))
    for part in manifest.store.parts():
        rows = manifest.store.part_rows(part, MANIFEST_SCHEMA, columns)
        keep = pa.array(rule.stays(rows))
        recipes.append(rows.filter(keep).select(_RECIPE).group_by(_RECIPE).aggregate([]))
        named.append(packed(files_of(rows["picture"].filter(keep))))
        pairs.append(packed(rows["pair"].filter(keep)))
        going = rows["picture"].filter(pc.invert(keep))
        if len(going):
            parts[part] = len(going)
            losing.update(file for file in files_of(going) if file.endswith(".tar"))
    n_scores = sum(int((~kept).sum()) for *_, kept in _scores(manifest.output, PairIds(*pairs)))
    del pairs
    stay = PairIds(*named)
    n_spare = size = 0
    for entry in spare_files(manifest, stay):
        n_spare, size = n_spare + 1, size + entry.size
    sheets = stale_sheets(manifest.output, pa.concat_tables(recipes))
    if parts:  # it may show what goes; the next run draws it again
        sheets += sweep_sheets(manifest.output)
    tars = sorted(tar for tar in losing if tar in stay)
    size += sum(entry.size for entry in sheets)
    return Leavings(parts, stay, n_spare, sheets, tars, size, n_scores, tars_before is not None)


def drop_leavings(manifest: Manifest, leavings: Leavings, rule: Rule) -> None:
    """Drop them. Call it while holding the output's lock; killed at any moment, the next drop goes on."""
    output, store = manifest.output, manifest.store
    OutputLayout(output).plan.delete()  # its counts are of the manifest as it was
    OutputLayout(output).pruning.write_bytes(json.dumps(leavings.tars).encode())
    for part in leavings.parts:
        rows = store.part_rows(part, MANIFEST_SCHEMA)
        manifest.replace(part, rows, rows.filter(pa.array(rule.stays(rows))))
    for entry in chain(spare_files(manifest, leavings.named), leavings.sheets):
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
    _drop_scores(manifest)
    OutputLayout(output).pruning.delete()


def is_under_way(output: Place) -> bool:
    """Whether a drop was killed, or is under way."""
    return _under_way(output) is not None


def _drop_scores(manifest: Manifest) -> None:
    """Drop the rows of scores that no row of the manifest has, and find settings' distances again."""
    output = manifest.output
    pairs = PairIds(*manifest.store.each(lambda rows: packed(rows["pair"]), MANIFEST_SCHEMA, ["pair"]))
    for store, schema, part, kept in _scores(output, pairs):
        if kept.all():
            continue
        if not kept.any():
            store.drop(part)
        else:
            store.commit(part, store.part_rows(part, schema).filter(pa.array(kept)))
    for network in networks_of(output):
        if network.frechet():
            network.write_frechet(frechet_distances(manifest, network))


def _scores(output: Place, pairs: PairIds) -> Iterator[tuple[PartStore, pa.Schema, str, np.ndarray]]:
    """Of each part of each store of scores, which of its rows are of ``pairs``: (n,) bool."""
    own = Scores(output)
    stores = [(own.store, SCORES_SCHEMA)] if own.exists() else []
    stores += [(network.store, network.schema) for network in networks_of(output)]
    for store, schema in stores:
        for part in store.parts():
            yield store, schema, part, pairs.contains(packed(store.part_rows(part, schema, ["pair"])["pair"]))


def _under_way(output: Place) -> list[str] | None:
    """The tars that a drop which was killed was about to rewrite; None where none was."""
    try:
        return [str(tar) for tar in json.loads(OutputLayout(output).pruning.read_bytes())]
    except FileNotFoundError:
        return None


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
