"""A job's first pictures that can be read, prepared and inverted in a scratch folder: for trials on a few pairs."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from diffstyle.errors import ConfigError
from pipeline.jobfile.schema import BankSpec, Job, SampleSpec
from pipeline.runner.inverting import precompute
from pipeline.runner.listing import listed_pictures
from pipeline.runner.run import Options, Run
from pipeline.runner.sides import Side
from pipeline.shards.store import ShardError
from pipeline.stages.pairs import Listed
from pipeline.storage.counts import count
from pipeline.storage.parts import PartStore
from pipeline.workers.local import LocalWorkers

log = logging.getLogger(__name__)

#: For each picture that is wanted so many of a data set's first ones are looked at, until as many can be read.
LOOKED_AT = 64
# How many more are looked at than before, where too few can be read.
_WIDER = 4


def with_first_pictures(job: Job, folder: str, n: int, *, quiet: bool = False) -> Run:
    """Prepare and invert the first ``n`` different pictures of each side that can be read, in this process.

    One that can't be read is told of in a line of the log, and the next one takes its place.

    Args:
        job: The job; nothing of its output is touched.
        folder: An empty folder, in place of its output.
        n: How many pictures of each side; a bank is taken as it is.
        quiet: Show no progress.

    Returns:
        The run, which has ended, of the job with these pictures alone.

    Raises:
        ConfigError: None of a side's first pictures can be read: names the first, and why.
        DiffStyleError: As a run of the job does.
    """
    run = Run(_small(job, folder, _limits(job, folder, n), n), Options(quiet=quiet), LocalWorkers())
    run.check(("precompute", "inject"))
    with run:
        precompute(run)
    return run


def _limits(job: Job, folder: str, n: int) -> dict[str, int]:
    """Prepare pictures until there are enough; how many of each side's were looked at for them."""
    limits = {"content": n, "style": n}
    while True:
        run = Run(_small(job, folder, limits, n), Options(quiet=True), LocalWorkers())
        run.check(("shard", "precompute", "inject"))
        with run:
            unread = None
            try:
                run.shard()
            except ShardError as error:  # perhaps one can be read of those that follow
                unread = error
        listed = [
            (side, listed_pictures(side)) for side in run.sides if side.needs_shards and PartStore(side.shards).exists()
        ]
        enough = dict(limits)
        for side, rows in listed:
            limit = _limit(side.spec.limit, rows, n, LOOKED_AT * n)
            enough |= dict.fromkeys(("content", "style") if side.name == "both" else (side.name,), limit)
        if enough == limits:
            for side, rows in listed:
                _tell_of_unreadable(side, rows)
            if unread is not None:
                raise unread
            return limits
        limits = enough


def _small(job: Job, folder: str, limits: Mapping[str, int], n: int) -> Job:
    """The job with its first pictures on each side, as many as ``limits`` says, in a scratch folder."""

    def few(side: str) -> object:
        source = getattr(job, side)
        if isinstance(source, BankSpec):
            return source
        if isinstance(source, SampleSpec):
            return source.model_copy(update={"sample": min(source.sample, n)})
        limit = limits[side] if source.limit is None else min(source.limit, limits[side])
        return source.model_copy(update={"limit": limit})

    compute = job.compute.model_copy(update={"batch": n if job.compute.batch == "auto" else job.compute.batch})
    return job.model_copy(
        update={
            "output": folder,
            "content": few("content"),
            "style": few("style"),
            "pairs": "all",
            "score": None,
            "stop_after": None,
            # Of a few pairs nothing is gained by compiling.
            "compute": compute.model_copy(update={"compile": False}),
        }
    )


def _limit(limit: int, rows: list[Listed], n: int, most: int) -> int:
    """How many of a data set's pictures to look at, up to the n-th that can be read; ``rows``: its first ``limit``."""
    images: set[str] = set()
    for place, row in enumerate(rows, 1):
        if row.image is not None:
            images.add(row.image)
        if len(images) == n:
            return place
    return limit if len(rows) < limit else min(_WIDER * limit, max(most, limit))


def _tell_of_unreadable(side: Side, rows: list[Listed]) -> None:
    """Name the first picture that was passed over. Raises ConfigError where none is left."""
    unread = list({row.source: row for row in rows if row.image is None and row.source}.values())
    if not unread:
        return
    name = "content" if side.name == "both" else side.name
    first = f"{unread[0].source}: {unread[0].reason}"
    if all(row.image is None for row in rows):
        raise ConfigError(
            f"{name}: {count(len(rows), 'picture')} looked at, and none can be read; the first: {first}; repair or "
            f"remove it, or give other pictures as `{name}`"
        )
    more = f", as are {len(unread) - 1} more" if len(unread) > 1 else ""
    log.warning("%s: %s; it is passed over%s, and the next pictures are taken", name, first, more)
