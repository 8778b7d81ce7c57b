"""Stage 2 in the driver: the bank of each side, made or grown; a job that needs another one than is there gets it."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import time
from typing import Any

import diffstyle
from diffstyle.errors import ConfigError
from pipeline.jobfile.schema import BankSpec, SampleSpec
from pipeline.launch.own_files import as_named
from pipeline.runner.run import Run
from pipeline.stages.invert import invert_stage, missing_rows, missing_samples, open_bank, sample_stage
from pipeline.storage.address import AS_WRITTEN
from pipeline.storage.parts import PartStore

log = logging.getLogger(__name__)


def precompute(run: Run) -> None:
    """Invert or sample what the banks lack, for each side that is not a bank already; ``run`` holds the lock.

    Raises:
        ConfigError: The pictures are not prepared yet.
    """
    for side in run.sides:
        if isinstance(side.spec, BankSpec):
            continue
        if side.needs_shards and not PartStore(side.shards).exists():
            raise ConfigError(f"{side.shards}: no prepared pictures yet; run `diffstyle shard` on the job first")
        bank = run.bank(side)
        if not bank.made:
            run.begin()
        writer = open_bank(bank.place, bank.description, _about(run))
        run.bank_made(side)
        writer.remove_uncommitted()
        part, retry = run.job.bank.part_size, run.options.retry_failed
        if isinstance(side.spec, SampleSpec):
            total = len(missing_samples(writer, side.spec))
        else:
            rows = missing_rows(writer, side.shards, run.wanted_images(side), retry)
            total = len(rows.todo)
            if any(rows):
                run.begin()
        if bank.instead_of:
            cost = bank.cost(total, part)
            warning = f"{bank.instead_of}, so another bank is made beside it, {bank.place.name}: {cost}"
            log.warning("%s: %s", side.name, warning)
            run.log("warning", said=warning)
        if isinstance(side.spec, SampleSpec):
            with run.stage(f"sample {side.name}", total, "picture", writer.remove_uncommitted) as on_done:
                pool = run.pool if total else None
                done = sample_stage(pool, side.spec, writer, min(part, run.share(total)), on_done=on_done)
        else:
            with run.stage(f"invert {side.name}", total, "picture", writer.remove_uncommitted) as on_done:
                pool = run.pool if rows.todo else None
                part = min(part, run.share(total))
                done = invert_stage(pool, side.shards, writer, rows, part, on_done=on_done)
            run.counts.corrected += len(rows.corrected)
        run.counts.inverted += done
        run.counts.not_inverted += len(writer.failed_images())


def _about(run: Run) -> dict[str, Any]:
    """What is good to know of a bank: versions of what can change numbers, and the model as the job says it."""
    written = run.job.model_dump(mode="json", context={AS_WRITTEN: True}, include={"model", "weights"})
    return {
        "diffstyle": diffstyle.__version__,
        "torch": importlib.metadata.version("torch"),  # without importing it
        "numpy": importlib.metadata.version("numpy"),
        "python": platform.python_version(),
        **({"weights": run.facts.weights} if run.facts.weights else {}),
        "job": {name: as_named(value) for name, value in written.items() if value is not None},
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
