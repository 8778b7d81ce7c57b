"""What of a job is done and what is left, by its data sets and its output: no model runs, nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.banks.reader import LatentBank
from pipeline.banks.writer import BankWriter
from pipeline.jobfile.schema import BankSpec, Job, ListedPairs, RandomPairs, SampleSpec
from pipeline.models.session import ModelFacts
from pipeline.results.manifest import Manifest
from pipeline.runner.sides import PlannedBank, Side
from pipeline.shards.store import ShardStore, open_shards
from pipeline.sources import open_source
from pipeline.sources.attributes import file_version
from pipeline.stages.inject import PairPlan, all_remaining, recipes
from pipeline.stages.pairs import Entries, Listed, PairsError, entries, read_list, wanted_pairs
from pipeline.stages.sample import sample_source

#: What a picture that is not prepared yet is called in place of its hash.
_NEW = "new: "
_COLUMNS = ("key", "image", "source", "source_hash", "label", "caption", "meta")


@dataclass(frozen=True)
class SideCounts:
    """How far one side of a job is, in numbers of pictures.

    Attributes:
        pictures: how many its data set lists; of a bank or of samples, how many there are.
        to_prepare: how many of them a run would read now.
        rejected: how many could not be read before, and are not tried again.
        inverted: how many distinct pictures have their latents.
        to_invert: how many would get theirs now. Of what is not prepared yet, each counts, a copy too; not those of
            which only a caption, a label or metadata is new.
        failed: how many could not be inverted before, and are not tried again.
    """

    pictures: int
    to_prepare: int = 0
    rejected: int = 0
    inverted: int = 0
    to_invert: int = 0
    failed: int = 0


@dataclass(frozen=True)
class SideState:
    """How far one side of a job is, and its pictures.

    Attributes:
        side: contents, styles or both.
        source: where its pictures come from, for people: ``in FOLDER``.
        entries: the distinct pictures, made or not, as pairs are made of them.
        counts: how far they are.
        thing: what one of them is, for people.
    """

    side: Side
    source: str
    entries: Entries
    counts: SideCounts
    thing: str = "picture"


def side_state(side: Side, retry: bool, shards: bool, bank: PlannedBank) -> SideState:
    """How far a side is.

    Args:
        side: contents, styles or both.
        retry: whether what failed before is tried again.
        shards: whether its prepared pictures are there, and as the job wants them.
        bank: its latent bank, as it is or would be made.

    Raises:
        DiffStyleError: its data set or its bank can't be read.
    """
    if isinstance(side.spec, BankSpec):
        opened = LatentBank.open(bank.place)
        made = entries(opened.index)
        counts = SideCounts(len(made), inverted=len(made))
        return SideState(side, f"in the bank {opened.place}", made, counts)
    writer = BankWriter(bank.place, bank.description) if bank.made else None
    if isinstance(side.spec, SampleSpec):
        return _of_samples(side, side.spec, writer)
    return _of_data_set(side, writer, retry, shards)


def _of_samples(side: Side, spec: SampleSpec, writer: BankWriter | None) -> SideState:
    known = writer.known_sources() if writer else set()
    wanted = [sample_source(spec.seed, number) for number in range(spec.sample)]
    missing = [source for source in wanted if source not in known]
    made = LatentBank.open(writer.root).index.select(_COLUMNS).to_pylist() if writer else []
    rows = [*made, *(_unprepared(source) for source in missing)]
    counts = SideCounts(spec.sample, inverted=spec.sample - len(missing), to_invert=len(missing))
    return SideState(side, "of the model", entries(_table(rows)), counts, "sample")


def _of_data_set(side: Side, writer: BankWriter | None, retry: bool, shards: bool) -> SideState:
    source = open_source(side.spec)
    listing = list(source.listing())
    store = open_shards(side.shards) if shards else None
    to_read, changed = _to_read(side, store, retry) if store else (set(listing), set(listing))
    rows = store.current().select(_COLUMNS).to_pylist() if store else []
    image_of = {row["source"]: row["image"] for row in rows if row["source"] not in changed}
    rejects = dict(zip(*_reasons(store), strict=True)) if store else {}
    failed = {} if writer is None or retry else writer.failed_images()
    done = writer.known_images() if writer else set()
    listed: list[Listed] = []
    for name in listing:
        image = image_of.get(name) or (_NEW + name if name in to_read else None)
        reason = rejects.get(name, "it can't be read") if image is None else "it could not be inverted"
        listed.append(Listed(name, None if image in failed and image not in done else image, reason))
    images = {row.image for row in listed if row.image is not None}
    distinct = [*rows, *(_unprepared(name) for name in dict.fromkeys(listing) if name in to_read - image_of.keys())]
    distinct = [row for row in distinct if row["source"] in image_of or row["image"].startswith(_NEW)]
    counts = SideCounts(
        len(listing),
        to_prepare=len(to_read),
        rejected=sum(name in rejects and name not in to_read for name in listing),
        inverted=len(images & done),
        to_invert=len(images - done),
        failed=len({image for name in listing if (image := image_of.get(name)) in failed and image not in done}),
    )
    return SideState(side, f"in {source.text}", entries(_table(distinct), listed, source.roots), counts)


def _to_read(side: Side, store: ShardStore, retry: bool) -> tuple[set[str], set[str]]:
    """The sources that the shard stage would read now, and those of them whose own file is new or has changed.

    Of the others only what is said beside them has: a corrected caption leaves a picture as it is.
    """
    known = store.known(retry)
    items = [item for block in open_source(side.spec).blocks(known) for item in block.items]
    changed = {item.source for item in items if file_version(item.version) != file_version(known.get(item.source, ""))}
    return {item.source for item in items}, changed


def _reasons(store: ShardStore) -> tuple[list[str], list[str]]:
    rejects = store.rejects()
    return rejects["source"].to_pylist(), rejects["reason"].to_pylist()


def _unprepared(source: str) -> dict[str, Any]:
    return {**dict.fromkeys(_COLUMNS), "key": _NEW + source, "image": _NEW + source, "source": source}


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    schema = pa.schema([(name, pa.string()) for name in _COLUMNS])
    return pa.Table.from_pylist([{name: row[name] for name in _COLUMNS} for row in rows], schema)


# ---- pairs ----


@dataclass(frozen=True)
class PairsState:
    """How far the pairs of one point of the sweep are.

    Attributes:
        wanted: how many the job asks for.
        done: how many are made.
        failed: how many failed before, and are not tried again.
        to_make: how many would be made now.
    """

    wanted: int
    done: int = 0
    failed: int = 0
    to_make: int = 0


def pairs_states(
    job: Job, facts: ModelFacts, contents: SideState, styles: SideState, banks: Any, retry: bool
) -> tuple[list[PairsState], int]:
    """How far each point of the sweep is, in the order of ``job.settings()``; and the rows whose picture can't be used.

    Args:
        job: the job.
        facts: of its model; the fingerprint is what results are known by.
        contents: as :func:`side_state` gives it.
        styles: likewise.
        banks: the descriptions of the content bank and of the style bank, as they are or would be; None: one of them
            does not fit the job, so no result of it can be there.
        retry: whether what failed before is tried again.

    Raises:
        DiffStyleError: the pairs can't be made of these pictures.
    """
    manifest = Manifest(contents.side.output)
    has_rows = banks is not None and manifest.store.exists() and bool(manifest.store.parts())
    points = len(job.settings())
    if not has_rows and (job.pairs == "all" or isinstance(job.pairs, RandomPairs)):  # there may be more than fit here
        n = len(contents.entries) * (
            len(styles.entries) if job.pairs == "all" else min(job.pairs.random, len(styles.entries))  # type: ignore[union-attr]
        )
        return [PairsState(n, to_make=n)] * points, 0
    try:
        pairs = wanted_pairs(job, contents.entries, styles.entries)
    except PairsError:
        if not isinstance(job.pairs, ListedPairs) or not (contents.counts.to_prepare or styles.counts.to_prepare):
            raise
        # A list may name keys, which pictures have once they are prepared.
        n = len({(row.content, row.style) for row in read_list(job.pairs.file)})
        return [PairsState(n, to_make=n)] * points, 0
    if not has_rows:
        return [PairsState(len(pairs), to_make=len(pairs))] * points, len(pairs.lost)
    sweep = recipes(job, facts, banks[0], banks[1], contents.entries)
    work = all_remaining(PairPlan(sweep, contents.entries, styles.entries, pairs), manifest.known(), retry)
    states = {
        one.recipe.settings: PairsState(len(pairs) - one.n_twice, one.n_done, one.n_failed, len(one.contents))
        for one in work
    }
    # A point that means the same as another is made once.
    return [states.get(settings, PairsState(0)) for settings in job.settings()], len(pairs.lost)
