"""Where a Ray cluster is, and how it wants to be joined: with a token, or without one.

Ray has token authentication on where a token is there when the cluster starts, and off where none is. A program that
joins by address must know which it is: with the wrong one it is refused after 20 s, or let in and then can't start
actors. So the cluster is asked before it is joined.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

from diffstyle.errors import ConfigError
from pipeline.workers import ray_probe

log = logging.getLogger(__name__)

# How long the head of a cluster may take to answer. Ray's own patience is minutes, and then it ends the process.
ANSWER_WITHIN = 5.0
# The same for the question whether it lets this process in, with the start of the process that asks.
_ASKED_WITHIN = 30.0

_MODE = "RAY_AUTH_MODE"


def no_cluster(address: str, why: str) -> ConfigError:
    """The error for an address at which no cluster can be joined."""
    return ConfigError(
        f"--address {address}: no Ray cluster there ({why}); fix the address, or omit --address for an embedded Ray"
    )


def resolved(address: str) -> str:
    """``HOST:PORT`` of a cluster that answers.

    Args:
        address: as ``--address`` gives it; ``auto`` is the cluster of this machine, or of ``RAY_ADDRESS``.

    Raises:
        ConfigError: nothing is there.
    """
    if address == "auto":
        from ray._private import services

        try:
            place = services.get_ray_address_from_environment("auto", None)
        except ConnectionError as error:
            raise ConfigError(
                "--address auto: no Ray cluster runs on this machine; start one with `ray start --head`, give the "
                "address of another, or omit --address for an embedded Ray"
            ) from error
    else:
        place = address
    host_and_port = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", place)
    if host_and_port is None:
        raise no_cluster(address, "an address is HOST:PORT or auto")
    try:
        socket.create_connection((host_and_port[1], int(host_and_port[2])), timeout=ANSWER_WITHIN).close()
    except (OSError, OverflowError) as error:
        where = f" of {place}" if place != address else ""
        raise no_cluster(address, f"{getattr(error, 'strerror', None) or error}{where}") from error
    return str(place)


def wants_token(address: str) -> bool:
    """Whether the cluster at ``address`` (``HOST:PORT``) is joined with a token.

    Raises:
        ConfigError: it refuses this process, or is no Ray cluster.
    """
    for mode in modes_to_try():
        answer = _asked(address, mode)
        if answer == "ok":
            if mode == "token":
                _warn_of_readers()
            return mode == "token"
        if answer != "refused":
            raise no_cluster(address, answer)
    raise refused(address)


def modes_to_try() -> list[str]:
    """The ways in which this process may ask to be let in, in order.

    Without a token first: a cluster that wants none lets one in that has one, but then fails to start actors.
    """
    stated = os.environ.get(_MODE, "").lower()
    modes = [stated] if stated else ["disabled", "token"]
    return [mode for mode in modes if mode != "token" or token_at() is not None]


def set_authentication(mode: str | None) -> str | None:
    """Make Ray use this mode of authentication in this process from now on; returns what it was told before.

    Args:
        mode: ``token`` or ``disabled``; None: as Ray chooses.
    """
    from ray._raylet import Config  # type: ignore[attr-defined]

    before = os.environ.pop(_MODE, None)
    if mode is not None:
        os.environ[_MODE] = mode
    Config.initialize("")  # Ray reads its settings once
    return before


def check_here(address: str) -> None:
    """Check that a node of a cluster runs on this machine: Ray joins by it alone, and would wait a minute for one."""
    from ray._private import services

    if hasattr(services, "find_node_ids") and not services.find_node_ids():
        raise ConfigError(
            f"--address {address}: no node of the cluster runs on this machine; run `ray start --address={address}` "
            "here first, or send the job there with `diffstyle submit`"
        )


def _asked(address: str, mode: str) -> str:
    """``ok``, ``refused``, or why it could not be asked."""
    try:
        done = subprocess.run(
            # Not as a module: what this package imports would cost the time again. -P: nor its siblings by their names.
            [sys.executable, "-P", ray_probe.__file__, address],
            env={**os.environ, _MODE: mode, "RAY_USAGE_STATS_ENABLED": "0"},
            capture_output=True,
            text=True,
            timeout=_ASKED_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"what is there gave no answer as Ray does, within {_ASKED_WITHIN:g} s"
    lines = done.stdout.split("\n")
    answer = lines[0] if lines[0] else "failed without a word"
    return answer.removeprefix("failed ")


def _token_file() -> Path | None:
    """The file that Ray would read a token from."""
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return Path(named)
    try:
        return Path.home() / ".ray" / "auth_token"
    except RuntimeError:  # no home is known
        return None


def token_at() -> str | None:
    """Where this process has a token, for messages; None: nowhere. In Ray's order."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    file = _token_file()
    return str(file) if file is not None and file.is_file() else None


def _warn_of_readers() -> None:
    """Ray writes its token with the rights that new files have, so often for all to read."""
    file = None if os.environ.get("RAY_AUTH_TOKEN") else _token_file()
    if file is not None and file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s: other users can read this token, and run code on the cluster; chmod 600 %s", file, file)


def refused(address: str) -> ConfigError:
    """The error for a cluster that wants a token and did not get the right one."""
    place, stated = token_at(), os.environ.get(_MODE, "").lower()
    if stated == "disabled":
        why = f"this cluster wants a token, but {_MODE} is disabled; unset {_MODE}"
    elif place is not None:
        why = (
            f"this cluster refuses the token of {place}; set RAY_AUTH_TOKEN to the cluster's "
            "(`ray get-auth-token` on its head prints it)"
        )
    else:
        named = os.environ.get("RAY_AUTH_TOKEN_PATH")
        missing = f"RAY_AUTH_TOKEN_PATH names {named}, which is no file" if named else "this process has none"
        why = (
            f"this cluster wants a token, and {missing}; copy the head's ~/.ray/auth_token to this machine, or set "
            "RAY_AUTH_TOKEN (`ray get-auth-token` on the head prints it)"
        )
    return ConfigError(f"--address {address}: {why}")
