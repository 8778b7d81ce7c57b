"""A job on a Ray cluster through its job server, from any machine that reaches it: sent, followed, its exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffstyle.errors import ConfigError, one_line
from pipeline.jobfile.schema import Job
from pipeline.launch.bundle import JOB_FILE, write_bundle
from pipeline.storage.errors import Stopped
from pipeline.workers.ray_address import modes_to_try, refused, set_authentication

log = logging.getLogger(__name__)

# Seconds between two questions whether a job has ended, and how long its server may be away before it is given up.
_ASK_EVERY = 1.0
_AWAY = 60.0


def submit(address: str, job: Job, options: Sequence[str], environment: Mapping[str, str]) -> tuple[Any, str]:
    """Send a job to a cluster.

    Args:
        address: Of the cluster's dashboard, ``http://HEAD:8265``.
        job: Its data, large weights and output are where the cluster's nodes see them.
        options: Further options of ``diffstyle run``.
        environment: Variables for the run. Whoever may look at the cluster's jobs can read them.

    Returns:
        The client, and the id of the sent job.

    Raises:
        ConfigError: No job server answers there, or it refuses this process; or a file that is to travel is wrong.
    """
    client = _client(address)
    with tempfile.TemporaryDirectory(prefix="diffstyle-submit-") as folder:
        for line in write_bundle(Path(folder), job):
            log.warning("%s", line)
        command = ["python", "-m", "pipeline", "run", JOB_FILE, "--address", "auto", *options]
        try:
            sent = client.submit_job(
                entrypoint=shlex.join(command),
                runtime_env={"working_dir": folder, "env_vars": {"PYTHONUNBUFFERED": "1", **environment}},
                metadata={"diffstyle_output": job.output},
            )
        except (RuntimeError, ConnectionError, OSError, ValueError) as error:
            raise ConfigError(f"--address {address}: the cluster takes no job ({one_line(error)})") from error
    return client, str(sent)


def follow(client: Any, sent: str, show: Callable[[str], None]) -> int:
    """Show a job's log while it runs.

    Args:
        client: As :func:`submit` returned it.
        sent: The job's id.
        show: Called with pieces of the log.

    Returns:
        The exit code of the run.

    Raises:
        Stopped: The job ended without one, or its server has gone.
    """
    shown, away_since = 0, None
    while True:
        try:
            # What ends is not the connection alone: a job's last lines come after its end.
            ended = client.get_job_status(sent).is_terminal()
            text = client.get_job_logs(sent)
            show(text[shown:])
            shown = max(shown, len(text))
            if ended:
                return _exit_code(client.get_job_info(sent), sent)
            shown = asyncio.run(_tail(client, sent, show, shown))
            away_since = None
        except (ConnectionError, RuntimeError, OSError) as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > _AWAY:
                raise Stopped(
                    f"job {sent}: the cluster does not answer any more ({one_line(error)}); the job may still run: "
                    "`diffstyle status` on its output says how far it is"
                ) from error
        time.sleep(_ASK_EVERY)


async def _tail(client: Any, sent: str, show: Callable[[str], None], shown: int) -> int:
    """Show what comes after the first ``shown`` characters, until the connection ends; how many were shown in all."""
    seen = 0
    async for piece in client.tail_job_logs(sent):
        seen += len(piece)
        new = piece[max(0, len(piece) - (seen - shown)) :] if seen > shown else ""
        show(new)
        shown += len(new)
    return shown


def _exit_code(info: Any, sent: str) -> int:
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    if str(info.status.value) == "SUCCEEDED":
        return 0
    raise Stopped(
        f"job {sent} ended as {info.status.value} ({one_line(RuntimeError(info.message or 'no reason given'))}); "
        "what was committed is kept, submit it again"
    )


def _client(address: str) -> Any:
    """A client of the job server, with a token where it wants one."""
    if not re.fullmatch(r"https?://[^/\s]+/?", address):
        raise ConfigError(f"--address {address}: give the address of the cluster's dashboard, http://HEAD:8265")
    try:
        import aiohttp  # noqa: F401 - Ray's client needs it, and says so late
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise ConfigError("diffstyle submit needs Ray's job client: pip install 'diffstyle[cluster]'") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for mode in modes_to_try():
        before = set_authentication(mode)
        try:
            return JobSubmissionClient(address)
        except AuthenticationError:
            set_authentication(before)
        except (ConnectionError, RuntimeError, OSError, ValueError) as error:
            raise ConfigError(
                f"--address {address}: no Ray job server there ({one_line(error)}); fix the address, or start the "
                "head with its dashboard (pip install 'ray[default]' there)"
            ) from error
    raise refused(address)
