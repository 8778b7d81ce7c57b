"""The weights of a model on this machine: checked by their hash, and fetched first where a job names an address."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from diffstyle.errors import CheckpointError
from pipeline.models.config import RANDOM_WEIGHTS, STORES, ModelConfig, WeightsChoice
from pipeline.models.download import check_cached, fetch_weights
from pipeline.models.records import read_record, record_place
from pipeline.models.store_download import object_mark
from pipeline.models.weights import (
    Remote,
    cache_place_if_known,
    missing_weights,
    named_weights,
    remote_weights,
    weights_place,
)
from pipeline.storage.identity import file_hash

log = logging.getLogger(__name__)


def weights_here(
    config: ModelConfig, weights: str | os.PathLike[str] | WeightsChoice | None = None, fetch: bool = False
) -> Path | None:
    """The weights of a model on this machine, checked against their hash; what is named by address is fetched first.

    Where several processes of a machine want the same weights, one fetches them, and the others wait for it.

    Args:
        config: the model.
        weights: as a job names them; None: the model's own.
        fetch: fetch them also from an address on the web that only the config names. For workers: their driver has
            those weights, and compares what they loaded with its own.

    Returns:
        The file, or the folder of a hub's repository; None for random weights.

    Raises:
        CheckpointError: they are not here, or others than they should be.
        FetchError: they can't be fetched.
    """
    named, _ = named_weights(config, weights)
    if named is not None and RANDOM_WEIGHTS.fullmatch(os.fspath(named)):
        return None
    place, remote = weights_place(config, weights), remote_weights(config, weights)
    if remote is not None and (remote.by_run or (fetch and place is None)):
        if place is None:
            log.info("fetching the weights of %s from %s", config.name, remote.weights.url or remote.weights.hub)
        return _current(remote)
    if place is None:
        raise CheckpointError(missing_weights(config, weights))
    if place == cache_place_if_known(config):
        check_cached(config)
    elif isinstance(weights, WeightsChoice) and weights.sha256:
        _check_named(place, weights.sha256)
    return place


def _check_named(place: Path, sha256: str) -> None:
    """CheckpointError where a file of the user's has not the hash that the job names."""
    if not place.is_file():
        raise CheckpointError(f"{place}: weights.sha256 is the hash of a file, and this is a folder; omit it")
    if (seen := file_hash(place)) != sha256:
        raise CheckpointError(
            f"{place}: its sha256 is {seen}, not {sha256} as the job says; fix weights.sha256 or path"
        )


def _current(remote: Remote) -> Path:
    """Fetched weights, which are still those at their address where no hash says which ones they must be."""
    weights, fetched = remote.weights, remote.place.is_file()
    place = fetch_weights(weights, remote.place, wait=True)
    if fetched and weights.url and weights.sha256 is None and weights.url.startswith(STORES):
        noted, mark = read_record(place).get("mark"), object_mark(weights.url)
        if noted not in (None, mark):
            raise CheckpointError(
                f"{weights.url}: was overwritten since this machine fetched it; name the one that is meant (weights: "
                f"{{path: {weights.url}, sha256: ...}}), or delete {place} and {record_place(place).name}"
            )
    return place
