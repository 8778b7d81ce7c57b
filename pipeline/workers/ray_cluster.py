"""Starting Ray, or joining a cluster, and ending what was started."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffstyle.errors import ConfigError
from pipeline.storage.errors import Stopped, headline
from pipeline.workers import ray_watcher
from pipeline.workers.local import cores
from pipeline.workers.ray_address import check_here, no_cluster, resolved, set_authentication, wants_token

log = logging.getLogger(__name__)

# Ray's sockets lie in its temporary folder. A socket's path has 107 bytes at most: 64 are Ray's, 12 the folder's name.
LONGEST_TEMPORARY_FOLDER = 31
# The folders of the embedded Rays that this process started and that have not ended, with what watches over each.
_EMBEDDED: dict[Path, subprocess.Popen[bytes]] = {}
# The modes of authentication that were set before those that a Ray was started or joined with.
_MODES_BEFORE: list[str | None] = []
# What Ray starts for a cluster, for people who look at it: a service for scaling, one for logs, the dashboard.
_FOR_CLUSTERS = ("start_monitor", "start_log_monitor", "start_api_server")


def start_ray(address: str | None = None) -> bool:
    """Start an embedded Ray (``address`` None) or join the cluster at ``address``, and return True.

    Where one is connected already, nothing is done, and False is returned.

    Raises:
        ConfigError: There is no cluster at ``address``, or Ray can't start here.
        Stopped: The machine is so busy that Ray gave up.
    """
    # Ray would otherwise hide the GPUs of workers that ask for none, and warn about the coming change on every start.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # An embedded Ray is an implementation detail of one command; it should not phone home from it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return False
    _silence_raylet()
    try:
        with _signal_handlers_kept():
            if address is None:
                _start_embedded()
            else:
                _join(address)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise no_cluster(address or "local", headline(error)) from error
    except OSError as error:
        raise ConfigError(
            f"Ray can't start: {error.strerror} ({error.filename}); set TMPDIR and HOME to folders that can be written"
        ) from error
    except Exception as error:
        # Ray has no class of its own for this, and no setting for its limit of 30 s.
        if type(error) is not Exception or "timed out during startup" not in str(error):
            raise
        stop_ray()  # what had come up
        raise Stopped(
            "Ray was not up within its own limit of 30 s: this machine has too much to do. "
            "Run the job again later, or with --local, which needs no Ray"
        ) from error
    return True


def _join(address: str) -> None:
    """Join the cluster at ``address``, with a token where it wants one."""
    import ray

    place = resolved(address)
    if place.startswith("ray://"):
        raise ConfigError(
            f"--address {address}: Ray's own client can't run a job; give HOST:PORT of the head from one of the "
            "cluster's nodes, or send the job there with `diffstyle submit`"
        )
    mode = "token" if wants_token(place) else "disabled"
    check_here(place)
    _forget_token()
    with _authentication(mode):
        ray.init(address=place, log_to_driver=False, logging_level=logging.ERROR)


def _start_embedded() -> None:
    """Start Ray for this process alone: on the loopback, in a folder of its own, gone when the process ends."""
    import ray
    from ray._private import ray_constants

    folder = _temporary_folder()
    # Should this process be killed, nothing in it can clean up any more.
    _EMBEDDED[folder] = subprocess.Popen(
        [sys.executable, "-I", "-S", ray_watcher.__file__, str(os.getpid()), str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # signals to this process's group are not for it
    )
    atexit.register(_end_at_exit, folder)  # after Ray's own, so it runs before it
    # Ray listens on the address that other machines see, unless it is told that there is no cluster to be had.
    ray_constants.ENABLE_RAY_CLUSTER = False
    with _only_what_runs_work(), _token_of_its_own(), _authentication("token"):
        ray.init(
            address="local",
            num_cpus=cores(),  # what the run planned with
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
        )


@contextlib.contextmanager
def _only_what_runs_work() -> Iterator[None]:
    """Ray starts three processes for a cluster, also where it is embedded: a third of all, half of the time to start.

    No option omits them, and these names are not public: where Ray has renamed one, that process just runs.
    """
    from ray._private.node import Node

    def start_nothing(node: object, *values: object, **options: object) -> None:
        """Take the place of what starts a process."""

    before = {name: getattr(Node, name) for name in _FOR_CLUSTERS if hasattr(Node, name)}
    for name in before:
        setattr(Node, name, start_nothing)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


@contextlib.contextmanager
def _authentication(mode: str) -> Iterator[None]:
    """Start or join a Ray inside with this mode; it stays until :func:`stop_ray`, or until that fails."""
    _MODES_BEFORE.append(set_authentication(mode))
    try:
        yield
    except BaseException:
        set_authentication(_MODES_BEFORE.pop())
        raise


@contextlib.contextmanager
def _token_of_its_own() -> Iterator[None]:
    """What is inside gets a new token through the environment, where none is given; Ray would keep one in the home.

    Only what is inside: what else this process starts might join a cluster, which has another token.
    """
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        yield
        return
    _forget_token()
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_TOKEN"]


def _forget_token() -> None:
    """Ray reads its token once in a process, and the next Ray may have another one."""
    import ray._raylet

    if hasattr(ray._raylet, "AuthenticationTokenLoader"):
        ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _temporary_folder() -> Path:
    """A new folder for Ray, with a path that is short enough for its sockets."""
    named = os.environ.get("RAY_TMPDIR")
    name = "RAY_TMPDIR" if named else "TMPDIR"
    why = ""
    for folder in [named] if named else [os.environ.get("TMPDIR"), "/tmp"]:
        if not folder:
            continue
        if len(os.fsencode(folder)) > LONGEST_TEMPORARY_FOLDER:
            why = f"{folder} has {len(os.fsencode(folder))} bytes, and Ray's sockets leave {LONGEST_TEMPORARY_FOLDER}"
            continue
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix="ds-", dir=folder))
        except OSError as error:
            why = f"{folder} can't be written ({error.strerror})"
    raise ConfigError(f"{name}: {why}; set {name} to a short path of a folder that can be written, such as /tmp")


def _end_at_exit(folder: Path) -> None:
    """End what is left when the process ends, whatever signals come."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    _end_embedded(folder)


def stop_ray() -> None:
    """End the embedded Ray that :func:`start_ray` started, or leave the cluster that it joined."""
    import ray

    ray.shutdown()
    for folder in list(_EMBEDDED):
        _end_embedded(folder)
    _forget_token()
    while _MODES_BEFORE:
        set_authentication(_MODES_BEFORE.pop())


def _end_embedded(folder: Path) -> None:
    """End Ray and what it started, and remove its folder."""
    import ray

    if folder not in _EMBEDDED:
        return
    watcher = _EMBEDDED.pop(folder)
    ray.shutdown()
    _forget_token()
    # Its agents notice by themselves that it has ended, but some only after a while.
    ray_watcher.end_embedded(folder, patience=2)
    watcher.kill()
    watcher.wait()


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Ray puts its own handlers in place of the command's, in Python and beneath it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _silence_raylet() -> None:
    """Ray prints half a page on stdout for each worker that dies; the engine tells of it in its own words."""
    from ray._private import worker

    def to_log(data: dict[str, Any], *args: object, **options: object) -> None:
        for line in data.get("lines", []):
            log.debug("ray: %s", line)

    if hasattr(worker, "print_to_stdstream"):  # not a public name: where Ray has renamed it, it just stays talkative
        worker.print_to_stdstream = to_log
