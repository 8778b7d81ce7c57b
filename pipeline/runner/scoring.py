"""Stage 4 in the driver: score every picture of an output that has no scores yet."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffstyle.errors import ConfigError
from pipeline.banks.columns import read_columns
from pipeline.banks.reader import LatentBank
from pipeline.jobfile.schema import BankSpec
from pipeline.models.network_spec import NetworkSpec
from pipeline.results.manifest import Manifest
from pipeline.results.scores import SCORES_OF_SIDES, Scores
from pipeline.runner.network_scoring import score_by_networks
from pipeline.runner.run import Run
from pipeline.runner.sides import Side
from pipeline.stages.reconstruct import missing_rows, reconstruct
from pipeline.stages.score import Sources, Unscored, score_stage, scores_identity
from pipeline.stages.walk import Walk
from pipeline.storage.counts import count
from pipeline.storage.layout import OutputLayout
from pipeline.storage.pair_ids import PairIds, PairValues, packed
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place

log = logging.getLogger(__name__)

#: How many network calls finding ``style_returns`` may take, as a share of those that made the pictures. All of scoring
#: is to take at most 5 % of the time, the rest of it takes 0.5 %, and a call that made a picture was the dearer one: it
#: decodes twice where it injects.
RETURNS_SHARE = 0.045

SidesSources = Mapping[str, Sources]


def score(run: Run, networks: Sequence[NetworkSpec] = ()) -> None:
    """Score what lacks scores; ``run`` holds the output's lock. Killed at any moment, the next call goes on.

    Args:
        run: The run.
        networks: Those that score the pictures too, besides the run's own model.

    Raises:
        ConfigError: There are no pictures yet.
        DescriptionError: The output was scored with another model or in another way.
    """
    manifest, scores = Manifest(run.output), Scores(run.output)
    if not manifest.store.exists():
        raise ConfigError(f"{run.output}: no pictures to score yet; run the job first")
    run.begin()
    scores.open(scores_identity(run.facts.fingerprint))
    scores.store.remove_uncommitted()

    @functools.cache
    def sources() -> dict[str, Sources]:
        shards = {side.name: _prepared(side) for side in run.sides}
        return {name: Sources.of(place) for name, place in shards.items() if place is not None}

    _forget_those_with_sources(manifest, scores, sources)
    scored = scores.scored()
    todo = Unscored(manifest, scored)
    run.counts.scored_before += len(scored)
    without = scores.lacking("style_returns")
    styles = todo.images("style") | manifest.images("style", without)
    returns = _style_returns(run, manifest, styles, sources) if styles else {}
    with run.stage("score", len(todo), "picture", scores.store.remove_uncommitted) as on_done:
        pool = run.pool if len(todo) else None
        sides = list(sources().values()) if len(todo) else []
        done, failed = score_stage(pool, scores, todo, sides, returns, run.share(len(todo)), on_done)
    run.counts.scored += done
    run.counts.not_scored += failed
    if returns and len(values := _of_pairs(manifest, without, returns)):
        filled = scores.fill("style_returns", values)
        run.counts.notes.append(f"style_returns filled in for {count(filled, 'picture')} scored before")
    _tell_empty(run, manifest, scores)
    score_by_networks(run, networks, sources)


def _prepared(side: Side) -> Place | None:
    """Where a side's prepared pictures lie: in this output, or beside the bank that the job names; None: nowhere."""
    if side.needs_shards:
        return side.shards
    shards = OutputLayout.shards_beside(side.bank) if isinstance(side.spec, BankSpec) else None
    return shards if shards is not None and PartStore(shards).exists() else None


def _of_pairs(manifest: Manifest, pairs: PairIds, of_styles: Mapping[str, float]) -> PairValues:
    """The number of each pair's style."""
    ids, values = [], []
    for rows in manifest.made(["pair", "style_image"], pairs):
        ids.append(packed(rows["pair"]))
        numbers = (of_styles.get(image, math.nan) for image in rows["style_image"].to_pylist())
        values.append(np.fromiter(numbers, np.float32, len(rows)))
    return PairValues(ids, values)


def _forget_those_with_sources(manifest: Manifest, scores: Scores, sources: Callable[[], SidesSources]) -> None:
    """Drop the rows that are empty for want of a source that can be read now: those pairs are scored again."""
    columns = {side: names[0] for side, names in SCORES_OF_SIDES.items()}
    empty = {side: scores.lacking(name) for side, name in columns.items()}
    if not any(len(pairs) for pairs in empty.values()):
        return
    images = pa.array(sorted({image for side in sources().values() for image in side.rows}), pa.string())
    again = [
        packed(rows["pair"].filter(pc.is_in(rows[f"{side}_image"], images)))
        for side, pairs in empty.items()
        for rows in manifest.made(["pair", f"{side}_image"], pairs)
    ]
    scores.drop(PairIds(*again))


def _tell_empty(run: Run, manifest: Manifest, scores: Scores) -> None:
    """A line for each side whose pictures are not here: which scores stay empty, and why."""
    for side, names in SCORES_OF_SIDES.items():
        empty = scores.lacking(names[0])
        if len(empty):
            missing = count(len(manifest.images(side, empty)), f"prepared {side}", "is/are")
            run.counts.notes.append(
                f"{missing} not here (from samples, or a bank without shards beside it), so these scores of "
                f"{count(len(empty), 'picture')} stay empty: {', '.join(names)}"
            )


def _calls(rows: pa.Table) -> int:
    return pc.sum(rows["network_calls"]).as_py() or 0


def _style_returns(
    run: Run, manifest: Manifest, styles: set[str], sources: Callable[[], SidesSources]
) -> dict[str, float]:
    """Style image -> dB at which it comes back from its x_T, of those that are known or cheap to find out."""
    side = run.sides[-1]
    place = side.bank if isinstance(side.spec, BankSpec) else run.bank(side).place
    known = read_columns(place).get("psnr", {})
    unknown = styles - set(known)
    if not unknown or side.name not in sources() or not PartStore(place).exists():
        return known
    bank = LatentBank.open(place)
    steps = Walk.of_bank(bank.description).steps
    pictures = sources()[side.name].only(unknown).rows
    rows = [row for row in missing_rows(bank, steps, pictures) if row["image"] in pictures]
    needed, made = len(rows) * steps, sum(_calls(rows) for rows in manifest.made(["network_calls"]))
    if isinstance(side.spec, BankSpec):  # another run's, perhaps in use
        why = f"the bank {place} is not this run's"
    elif needed > RETURNS_SHARE * made:
        share = f"{RETURNS_SHARE:.1%} of the {made:,} that the pictures took"
        why = f"finding it takes {count(needed, 'network call')}, more than {share}"
    else:
        why = ""
    if rows and why:
        log.warning(
            f"the score style_returns, how near a style's inversion comes back to it, is left empty for "
            f"{count(len(rows), 'style')}: {why}; `diffstyle reconstruct {place}`, then `diffstyle score {run.output}` "
            "fills it in"
        )
    elif rows:
        with run.stage("reconstruct styles", len(rows), "picture", lambda: None) as on_done:
            reconstruct(
                run.pool,
                bank,
                rows,
                steps,
                per_unit=run.share(len(rows)),
                shards=sources()[side.name].shards,
                pictures=pictures,
                on_done=on_done,
            )
    return read_columns(place).get("psnr", {})
