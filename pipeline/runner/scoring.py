"""Stage 4 in the driver: score every picture of an output that has no scores yet."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from diffstyle.errors import ConfigError
from pipeline.banks.columns import read_columns
from pipeline.banks.reader import LatentBank
from pipeline.jobfile.schema import BankSpec
from pipeline.models.network_spec import NetworkSpec
from pipeline.results.manifest import Manifest
from pipeline.results.scores import Scores
from pipeline.runner.network_scoring import score_by_networks
from pipeline.runner.run import Run
from pipeline.stages.reconstruct import missing_rows, reconstruct
from pipeline.stages.score import Sources, missing_scores, score_stage, scores_identity
from pipeline.stages.walk import Walk
from pipeline.storage.counts import count

log = logging.getLogger(__name__)

#: How many network calls finding ``style_returns`` may take, as a share of those that made the pictures.
RETURNS_SHARE = 0.04


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
    scored = scores.scored()
    todo = missing_scores(manifest, scored)
    run.counts.scored_before += len(scored)

    @functools.cache
    def sources() -> dict[str, Sources]:
        return {side.name: Sources.of(side.shards) for side in run.sides if side.needs_shards}

    returns = _style_returns(run, manifest, todo, sources().get(run.sides[-1].name)) if len(todo) else {}
    with run.stage("score", len(todo), "picture", scores.store.remove_uncommitted) as on_done:
        pool = run.pool if len(todo) else None
        sides = list(sources().values()) if len(todo) else []
        done, failed = score_stage(pool, scores, todo, sides, returns, run.share(len(todo)), on_done)
    run.counts.scored += done
    run.counts.not_scored += failed
    score_by_networks(run, networks, sources)


def _style_returns(run: Run, manifest: Manifest, todo: pa.Table, sources: Sources | None) -> dict[str, float]:
    """Style image -> dB at which it comes back from its x_T, of those that are known or cheap to find out.

    ``sources``: the styles' prepared pictures; None where there are none to compare with (another job's bank, samples).
    """
    side = run.sides[-1]
    place = side.bank if isinstance(side.spec, BankSpec) else run.bank(side).place
    if sources is not None:
        bank = LatentBank.open(place)
        steps, styles = Walk.of_bank(bank.description).steps, set(todo["style_image"].to_pylist())
        pictures = sources.only(styles).rows
        rows = [row for row in missing_rows(bank, steps, pictures) if row["image"] in pictures]
        needed, made = len(rows) * steps, pc.sum(manifest.table(["network_calls"])["network_calls"]).as_py() or 0
        if needed > RETURNS_SHARE * made:
            log.warning(
                f"style_returns is empty for {count(len(rows), 'style')}: finding it takes {needed:,} network calls, "
                f"the pictures took {made:,}; `diffstyle reconstruct {place}` before the first `score` fills it in"
            )
        elif rows:
            with run.stage("reconstruct styles", len(rows), "picture", lambda: None) as on_done:
                reconstruct(
                    run.pool,
                    bank,
                    rows,
                    steps,
                    per_unit=run.share(len(rows)),
                    shards=side.shards,
                    pictures=pictures,
                    on_done=on_done,
                )
    return read_columns(place).get("psnr", {})
