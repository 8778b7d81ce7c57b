"""Fetching a repository of the Hugging Face Hub through its own client: tokens, mirrors, locks, resuming are there."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from diffstyle.diffusers_files import CONFIG, WEIGHTS, folder_weights, shards_of, weight_names
from diffstyle.errors import CheckpointError, one_line
from pipeline.models.config import Weights
from pipeline.models.fetch_errors import FetchError, FullDiskError, InterruptedFetchError, NotFoundError, RefusedError
from pipeline.models.records import check_record


def fetch_repository(weights: Weights, place: Path) -> Path:
    """Download ``config.json`` and the weights of a diffusers repository into the folder ``place``; returns it.

    A token comes from ``HF_TOKEN`` or the client's login, a mirror from ``HF_ENDPOINT``. Files that are there already
    are checked against their records and not fetched again.

    Raises:
        FetchError: with the reason, and what to do.
    """
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if not is_complete(place):
        _file(weights, endpoint, CONFIG, place)
        _weights(weights, endpoint, place)
    files = folder_weights(place)
    try:
        for file in files:
            check_record(file, weights.sha256 if len(files) == 1 else None, f"{endpoint}/{weights.hub}/{file.name}")
    except CheckpointError as error:
        raise FetchError(str(error)) from None
    return place


def is_complete(place: Path) -> bool:
    """Whether all files of a repository that are needed lie in a folder."""
    files = folder_weights(place)
    return (place / CONFIG).is_file() and bool(files) and all(file.is_file() for file in files)


def _weights(weights: Weights, endpoint: str, place: Path) -> None:
    for name in weight_names():
        try:
            file = _file(weights, endpoint, name, place)
        except NotFoundError:
            continue
        for shard in shards_of(file) if name.endswith(".json") else ():
            _file(weights, endpoint, shard.name, place)
        return
    page = weights.page or f"{endpoint}/{weights.hub}"
    raise FetchError(f"{endpoint}/{weights.hub}: has neither {' nor '.join(WEIGHTS)}, whole or in shards; see {page}")


def _file(weights: Weights, endpoint: str, name: str, place: Path) -> Path:
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
        from huggingface_hub.utils import disable_progress_bars
    except ImportError as error:
        raise FetchError(
            f"weights.hub: {weights.hub} is fetched with the package huggingface_hub, which is not installed; "
            "pip install 'diffstyle[hub]'"
        ) from error
    if not sys.stderr.isatty():
        disable_progress_bars()
    url = f"{endpoint}/{weights.hub}"
    token = "set HF_TOKEN or run `hf auth login`"
    try:
        return Path(
            hub.hf_hub_download(
                str(weights.hub),
                name,
                revision=weights.revision,
                local_dir=place,
                endpoint=endpoint,
                library_name="diffstyle",
            )
        )
    except errors.GatedRepoError:
        raise RefusedError(f"{url}: is gated; accept its terms on that page, then {token} of that account") from None
    except errors.RepositoryNotFoundError:
        raise RefusedError(
            f"{url}: no such repository, or a private one; check weights.hub, or {token} of an account that may read it"
        ) from None
    except errors.RevisionNotFoundError:
        raise RefusedError(f"{url}: has no revision '{weights.revision}'; check weights.revision") from None
    except errors.LocalEntryNotFoundError as error:
        reason = error.__cause__ or error
        raise InterruptedFetchError(
            f"{url}: cannot be reached ({one_line(reason, most=160)}); run the same command again when it can"
        ) from error
    except errors.EntryNotFoundError:
        raise NotFoundError(f"{url}: has no file {name} in revision '{weights.revision}'") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        kind = InterruptedFetchError if status >= 500 or status == 429 else RefusedError
        raise kind(f"{url}: the server refuses (HTTP {status}: {one_line(error, most=160)})") from error
    except (OSError, errors.HTTPError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FullDiskError(
                f"{url}: the disk of {place} is full; make room and run the same command again"
            ) from error
        raise InterruptedFetchError(f"{url}: the connection was cut ({one_line(error, 160)}); run it again") from error
