"""Why a job can't run here as it is: weights, device, output, what an earlier job left in it, the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from diffstyle.errors import DiffStyleError
from pipeline.jobfile.schema import Job
from pipeline.models.config import RANDOM_WEIGHTS, ModelConfig, WeightsChoice
from pipeline.models.session import ModelFacts, resolve_device
from pipeline.models.store_download import object_mark
from pipeline.models.weights import missing_weights, remote_weights, weights_place
from pipeline.runner.check import check_job, file_in_the_way
from pipeline.runner.sides import Side
from pipeline.storage.counts import data_size
from pipeline.storage.lock import holder_of
from pipeline.storage.place import Place
from pipeline.workers.local import require_device


def of_weights(job: Job, config: ModelConfig) -> str | None:
    """The model's weights are not on this machine."""
    named = job.weights.path if isinstance(job.weights, WeightsChoice) else job.weights
    if named is not None and RANDOM_WEIGHTS.fullmatch(os.fspath(named)):
        return None
    if weights_place(config, job.weights) is not None:
        return None
    remote = remote_weights(config, job.weights)
    if remote is None or not remote.by_run:
        return missing_weights(config, job.weights)
    try:
        if remote.weights.url:
            object_mark(remote.weights.url)  # a run would fetch it: it must be there
    except DiffStyleError as error:
        return str(error)
    return None


def of_device(job: Job) -> str | None:
    """The device that the job asks for is not on this machine."""
    try:
        require_device(resolve_device(job.compute.device))
    except DiffStyleError as error:
        return f"{error}, or --address of a cluster that has one"
    return None


def of_output(output: Place) -> str | None:
    """The output can't be written, or another run holds it. Of a store nothing is said: only a write would tell."""
    if not output.is_local:
        return None
    if (why := file_in_the_way(output)) is not None:
        return why
    folder = Path(output.path)
    nearest = _nearest(folder)
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"output: {nearest} can't be written by this user; change its rights, or give another output"
    if folder.is_dir() and (holder := holder_of(output)) is not None:
        return f"{output} is in use by {holder}; wait until it ends, or stop it"
    return None


def of_disk(output: Place, bytes_to_write: float) -> str | None:
    """The disk of the output has less room than the job would take."""
    free = free_bytes(output)
    if free is None or free >= bytes_to_write:
        return None
    return (
        f"the disk of {output} has {data_size(free)} free, and about {data_size(bytes_to_write)} would be written; "
        "free some space, or give another output"
    )


def free_bytes(output: Place) -> int | None:
    """What is free on the output's disk; None for a store."""
    return shutil.disk_usage(_nearest(Path(output.path))).free if output.is_local else None


def _nearest(folder: Path) -> Path:
    """The folder itself, or the first above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def of_job(job: Job, sides: Sequence[Side], facts: ModelFacts) -> str | None:
    """A run would refuse the job: what an earlier one left in the output does not fit it, or its settings no bank."""
    try:
        check_job(job, sides, ("shard", "precompute", "inject"), facts)
    except DiffStyleError as error:
        return str(error)
    return None
