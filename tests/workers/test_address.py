"""Joining a cluster that was started with `ray start --head`, with and without a token, and being refused by one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.ray_head import TOKEN, ray_head

from diffstyle.errors import ConfigError
from pipeline.workers import ray_address
from pipeline.workers.ray_cluster import start_ray

# Joins, computes on an actor, leaves; then the process's own settings are as they were.
JOIN = """
import os, sys, time
from diffstyle.errors import DiffStyleError
from pipeline.workers.ray_cluster import start_ray, stop_ray
before = dict(os.environ)
try:
    start_ray(sys.argv[1])
except DiffStyleError as error:
    print(error)
    sys.exit(error.exit_code)
import ray

@ray.remote(num_cpus=0)
class Adder:
    def add(self, a, b):
        return a + b

print(ray.get(Adder.remote().add.remote(2, 3)))
stop_ray()
assert os.environ.get("RAY_AUTH_MODE") == before.get("RAY_AUTH_MODE")
"""


def join(address: str, environment: dict[str, str], code: int = 0) -> tuple[str, str]:
    """What is printed, and written to stderr."""
    command = [sys.executable, "-c", JOIN, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout.rstrip("\n"), done.stderr


@pytest.mark.slow
def test_a_head_with_a_token(tmp_path):
    with ray_head(tmp_path / "home", token=True) as head:
        joins = (
            (head.address, {}),  # as on the head itself
            ("auto", {"RAY_ADDRESS": head.address}),
            (head.address, {"HOME": str(tmp_path), "RAY_AUTH_TOKEN": TOKEN}),
        )
        # Side by side, here and below: most of each is waiting.
        with ThreadPoolExecutor(len(joins)) as threads:
            done = threads.map(lambda one: join(one[0], head.environment(**one[1])), joins)
            assert list(done) == [("5", "")] * len(joins)
        refusals = {
            "this process has none; copy the head's ~/.ray/auth_token": {"HOME": str(tmp_path)},
            "names /nowhere/t, which is no file": {"HOME": str(tmp_path), "RAY_AUTH_TOKEN_PATH": "/nowhere/t"},
            "refuses the token of RAY_AUTH_TOKEN; set RAY_AUTH_TOKEN": {"RAY_AUTH_TOKEN": "f" * 32},
            "RAY_AUTH_MODE is disabled; unset": {"RAY_AUTH_MODE": "disabled"},
        }
        with ThreadPoolExecutor(2) as threads:  # no more: each has its time limit
            refused = threads.map(
                lambda changes: join(head.address, head.environment(**changes), code=2), refusals.values()
            )
            answers = dict(zip(refusals, refused, strict=True))
        for words, (text, stderr) in answers.items():  # in our words: Ray's own answer takes 20 s on an idle machine
            assert text.startswith(f"--address {head.address}: this cluster ")
            assert words in text
            assert (len(text.splitlines()), stderr) == (1, "")
            assert "f" * 32 not in text
        # What Ray writes by itself is for all to read.
        (head.home / ".ray" / "auth_token").chmod(0o644)
        text, stderr = join(head.address, head.environment())
        assert (text, stderr.count("\n")) == ("5", 1)
        assert "other users can read this token" in stderr
        assert TOKEN not in stderr


@pytest.mark.slow
def test_a_head_without_a_token(tmp_path):
    with ray_head(tmp_path / "home", token=False) as head:
        joins = (
            (head.address, {}),
            # A token for another cluster does not disturb: with it, actors would not start.
            (head.address, {"RAY_AUTH_TOKEN": TOKEN}),
            ("auto", {"RAY_AUTH_TOKEN": TOKEN, "RAY_ADDRESS": head.address}),
        )
        with ThreadPoolExecutor(len(joins)) as threads:
            done = threads.map(lambda one: join(one[0], head.environment(**one[1])), joins)
            assert list(done) == [("5", "")] * len(joins)


@pytest.fixture
def no_join(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was asked"))


def test_auto_without_a_cluster(no_join, monkeypatch):
    from ray._private import services

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: None)
    with pytest.raises(ConfigError, match=r"--address auto: no Ray cluster runs on this machine; start one with"):
        start_ray("auto")


def test_auto_where_the_last_cluster_has_ended(no_join, monkeypatch):
    with socket.socket() as mute:  # bound and not listening: nobody else takes the port meanwhile
        mute.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(ConfigError, match=r"auto: no Ray cluster there \(Connection refused of 127\.0\.0\.1:\d+\)"):
            start_ray("auto")


def test_what_answers_is_no_ray(no_join, monkeypatch):
    """A server that takes connections and says nothing: the question ends in time, and in one line."""
    monkeypatch.setattr(ray_address, "_ASKED_WITHIN", 3.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Thread(target=_take_all, args=(server,), daemon=True).start()
        with pytest.raises(ConfigError, match="gave no answer as Ray does") as caught:
            start_ray(f"127.0.0.1:{server.getsockname()[1]}")
    assert len(str(caught.value).splitlines()) == 1


def _take_all(server: socket.socket) -> None:
    taken = []
    while True:
        try:
            taken.append(server.accept())
        except OSError:
            return


def test_no_node_on_this_machine(no_join, monkeypatch):
    from ray._private import services

    from pipeline.workers import ray_cluster

    monkeypatch.setattr(ray_cluster, "resolved", lambda address: address)
    monkeypatch.setattr(ray_cluster, "wants_token", lambda address: False)
    monkeypatch.setattr(services, "find_node_ids", list)
    with pytest.raises(ConfigError, match="no node of the cluster runs on this machine; run `ray start"):
        start_ray("h:1")


def test_a_client_address_is_refused(no_join, monkeypatch):
    from pipeline.workers import ray_cluster

    monkeypatch.setattr(ray_cluster, "resolved", lambda address: address)
    before = os.environ.get("RAY_AUTH_MODE")  # the Ray of other tests sets it
    with pytest.raises(ConfigError, match="Ray's own client can't run a job"):
        start_ray("ray://h:10001")
    assert os.environ.get("RAY_AUTH_MODE") == before
