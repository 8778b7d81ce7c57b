"""Starting Ray quietly, refusing wrong addresses quickly, ending cleanly, and how many workers fit."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from support.waiting import wait_for

from diffstyle.errors import ConfigError
from pipeline.storage.errors import Stopped
from pipeline.workers import ray_cluster
from pipeline.workers.ray_cluster import start_ray
from pipeline.workers.ray_room import plan_workers
from pipeline.workers.unit import Resources

# ---- how many workers ----


@pytest.fixture
def cluster(monkeypatch):
    """Pretend that the cluster has these nodes, each given as (CPUs, GPUs)."""
    import ray

    def pretend(*nodes: tuple[int, int]) -> None:
        listed = [{"Alive": True, "Resources": {"CPU": float(cpu), "GPU": float(gpu)}} for cpu, gpu in nodes]
        lost = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        monkeypatch.setattr(ray, "nodes", lambda: [*listed, lost, {"Alive": True, "Resources": {}}])

    return pretend


def all_fit(n: int, each: Resources, *nodes: tuple[int, int]) -> bool:
    """Whether Ray, which rounds to 0.0001, can place that many workers."""
    places = 0
    for cpu, gpu in nodes:
        fit = round(cpu * 10000) // round(each.num_cpus * 10000)
        if each.num_gpus:
            fit = min(fit, gpu * (10000 // round(each.num_gpus * 10000)))
        places += fit
    return places >= n


@pytest.mark.parametrize(
    ("nodes", "actors", "threads", "n", "each"),
    [
        ([1], None, None, 1, 1),
        ([2], None, None, 2, 1),
        ([4], None, None, 4, 1),
        ([16], None, None, 4, 4),
        ([64], None, None, 4, 16),
        ([16], None, 2, 8, 2),
        ([16], 2, None, 2, 4),
        ([2], None, 8, 1, 8),
        ([2], 3, None, 3, 1),
        ([6, 6], None, 4, 2, 4),
        ([4] * 10, None, None, 40, 1),
        ([4] * 10, 7, 4, 7, 4),
        ([3, 5], 3, 8, 3, 8),
    ],
)
def test_workers_on_cpus(cluster, nodes, actors, threads, n, each):
    cluster(*((cpu, 0) for cpu in nodes))
    workers, resources = plan_workers("cpu", actors, threads)
    assert (workers, resources.threads, resources.num_gpus) == (n, each, 0)
    assert resources.num_cpus <= each
    assert all_fit(workers, resources, *((cpu, 0) for cpu in nodes))


def test_the_threads_do_not_depend_on_the_number_of_workers(cluster):
    cluster((16, 0))
    assert len({plan_workers("cpu", actors, None)[1].threads for actors in (None, 1, 2, 4, 8, 40)}) == 1


@pytest.mark.parametrize("actors", range(1, 20))
def test_any_number_of_workers_finds_a_place(cluster, actors):
    cluster((2, 0), (3, 0))
    assert all_fit(*plan_workers("cpu", actors, None), (2, 0), (3, 0))
    cluster((2, 1), (8, 2))
    assert all_fit(*plan_workers("cuda", actors, None), (2, 1), (8, 2))


@pytest.mark.parametrize(
    ("nodes", "actors", "n", "each"),
    [
        ([(8, 1)], None, 1, 1.0),
        ([(8, 8)], None, 8, 1.0),
        ([(8, 1)], 2, 2, 0.5),
        ([(8, 4)], 2, 2, 1.0),
        ([(8, 2)], 5, 5, 0.3333),  # three on one of them
        ([(8, 1), (8, 1), (8, 0)], None, 2, 1.0),
    ],
)
def test_workers_on_gpus(cluster, nodes, actors, n, each):
    cluster(*nodes)
    workers, resources = plan_workers("cuda", actors, None)
    assert (workers, resources.num_gpus) == (n, each)
    assert all_fit(workers, resources, *nodes)


def test_no_gpu_is_one_clear_line(cluster):
    cluster((8, 0))
    with pytest.raises(ConfigError, match=r"compute\.device is cuda, but the cluster has no GPU"):
        plan_workers("cuda", None, None)


def test_one_worker_on_a_mac(cluster):
    cluster((8, 0))
    assert plan_workers("mps", 4, None)[0] == 1


# ---- addresses ----


@pytest.fixture
def no_ray(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was asked"))


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}", "[::1]:{}"])
def test_nobody_at_the_address(no_ray, form):
    with socket.socket() as mute:  # bound and not listening: nobody else takes the port meanwhile
        mute.bind(("127.0.0.1", 0))
        address = form.format(mute.getsockname()[1])
        with pytest.raises(ConfigError, match="no Ray cluster there") as caught:
            start_ray(address)
    assert address in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["no-such-host.invalid:6379", "127.0.0.1:99999"])
def test_no_such_address(no_ray, address):
    with pytest.raises(ConfigError, match="fix the address"):
        start_ray(address)


def test_not_an_address():
    done = subprocess.run(
        [sys.executable, "-c", "from pipeline.workers.ray_cluster import start_ray; start_ray('nonsense')"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stderr.splitlines()[-1].startswith("diffstyle.errors.ConfigError: --address nonsense: no Ray cluster")


def test_a_machine_too_busy_for_ray_is_told_in_one_line_and_leaves_nothing(monkeypatch):
    import ray

    folders = []

    def too_slow(**options):
        folders.append(Path(options["_temp_dir"]))
        raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", too_slow)
    # The Ray of the other tests stays as it is.
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_cluster, "_EMBEDDED", {})
    monkeypatch.setattr(ray_cluster, "_MODES_BEFORE", [])
    with pytest.raises(Stopped, match="Run the job again later, or with --local"):
        start_ray()
    assert [folder.exists() for folder in folders] == [False]


# ---- an embedded run from outside ----

RUN = """
    import os, signal, sys, time
    from pipeline.workers.ray_cluster import start_ray
    from pipeline.workers.ray_pool import RayPool; from pipeline.workers.unit import Resources

    class Unit:
        name = "unit"
        def __init__(self, what):
            self.what = what
        def load(self):
            print("a unit's print")
        def compute(self, context, loaded):
            if self.what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600 if self.what == "sleep" else 0)
        def save(self, computed):
            return os.getpid()
        def split(self):
            return []

    begun = time.monotonic()
    start_ray()
    start_ray()  # the second does nothing
    started = time.monotonic() - begun
    try:
        with RayPool(1, None, Resources(num_cpus=0.5, threads=None), retries=0) as pool:
            errors = [outcome.error for outcome in pool.run([Unit("die"), Unit("well")])]
            assert sum(bool(error) for error in errors) == 1
            time.sleep(1)  # Ray tells of a dead worker a moment later
            if sys.argv[1] == "sleep":
                print(f"started in {started:.1f} s", flush=True)
                list(pool.run([Unit("sleep"), Unit("sleep")]))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(5)
"""


def descendants(pid: int) -> list[tuple[int, str]]:
    """The processes below ``pid``, each with its start time, by which it is known from a later one of its number."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(words[1]), []).append((int(stat.parent.name), words[19]))
    found, open_ends = [], [pid]
    while open_ends:
        children = parents.get(open_ends.pop(), [])
        found += children
        open_ends += [child for child, _ in children]
    return found


def alive(process: tuple[int, str]) -> bool:
    try:
        words = Path(f"/proc/{process[0]}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return words[0] not in "ZX" and words[19] == process[1]


def start(what: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUN), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.slow
@pytest.mark.parametrize(
    "whole_group",
    [pytest.param(True, id="as a terminal does"), pytest.param(False, id="the driver alone", marks=pytest.mark.long)],
)
def test_a_run_is_quiet_and_ctrl_c_ends_it_with_all_its_processes(whole_group):
    process = start("sleep")
    try:
        said = process.stdout.readline()
        assert said.startswith("started in"), process.stderr.read()
        print(said)
        time.sleep(2)  # the units are running
        below = descendants(process.pid)
        assert len(below) >= 3
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=300)  # half of what a unit sleeps
    finally:
        process.kill()
    assert (process.returncode, out, err) == (5, "interrupted\n", "")  # and nothing that Ray would say
    wait_for(lambda: not any(map(alive, below)))


# A command as a scheduler runs it: its signal handlers are there before Ray starts.
COMMAND = """
    import click, sys, time
    from pipeline.cli import main as cli
    from pipeline.workers.ray_cluster import start_ray

    group = cli.LazyGroup("x", table={})
    def go():
        import ray

        start_ray()

        @ray.remote
        def one():
            return 1

        ray.get(one.remote())
        print("up", flush=True)
        time.sleep(600)
    group.get_command = lambda ctx, name: click.Command("go", callback=go)
    group.main(["go"])
"""


def listening(pids: set[int]) -> set[str]:
    """The addresses, as /proc writes them, on which these processes listen."""
    sockets = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(str(handle.readlink()))
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                addresses.add(words[1].rpartition(":")[0])
    return addresses


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    # A hangup takes the way of SIGTERM (tests/cli/test_cli.py has each signal without Ray).
    [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.long), signal.SIGKILL],
)
def test_an_embedded_ray_listens_on_the_loopback_and_goes_with_its_command(number, tmp_path):
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(COMMAND)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_TMPDIR": str(folder)},
    )
    try:
        assert process.stdout.readline() == "up\n"
        below = descendants(process.pid)
        addresses = listening({process.pid, *(pid for pid, _ in below)})
        assert addresses
        assert addresses <= LOOPBACK
        assert len(list(folder.iterdir())) == 1
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    wait_for(lambda: not any(map(alive, below)))
    if number == signal.SIGKILL:
        wait_for(lambda: not list(folder.iterdir()))
    else:
        assert (process.returncode, out) == (4, "")
        assert err.strip().startswith("stopped;")
        assert len(err.strip().splitlines()) == 1  # no trace of Ray's
    assert not list(folder.iterdir())
    folder.rmdir()


# A program that has a process of its own, and keeps it when the Ray that it started ends.
BYSTANDER = """
    import subprocess, sys, time
    from pathlib import Path
    from pipeline.workers.ray_cluster import start_ray, stop_ray

    own = subprocess.Popen(["sleep", "600"])
    begun = time.monotonic()
    start_ray()
    started = time.monotonic() - begun
    log = next(Path(sys.argv[1]).glob("ds-*/session_2*/logs/raylet.out"))
    reader = subprocess.Popen(["tail", "-f", str(log)], stdout=subprocess.DEVNULL)
    print(f"{started:.1f} s to start", flush=True)
    sys.stdin.readline()
    stop_ray()
    print(own.poll(), reader.poll(), list(Path(sys.argv[1]).iterdir()), flush=True)
    own.kill()
    reader.kill()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.slow
def test_an_embedded_ray_is_small_and_ends_without_the_programs_own_processes():
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(BYSTANDER), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A home that can't be written is no hindrance: Ray's token is not kept there.
        env={**os.environ, "RAY_TMPDIR": str(folder), "HOME": "/proc/nobody"},
    )
    try:
        print(process.stdout.readline())
        commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid, _ in descendants(process.pid)]
        assert any(b"raylet" in command for command in commands)
        for omitted in (b"dashboard.py", b"monitor.py"):
            assert not [command for command in commands if omitted in command.partition(b"--")[0]]
        out, _ = process.communicate("stop\n", timeout=300)
    finally:
        process.kill()
    assert out == "None None []\n"
    folder.rmdir()


def test_ray_gets_a_short_folder(tmp_path, monkeypatch):
    from pipeline.workers.ray_cluster import LONGEST_TEMPORARY_FOLDER, _temporary_folder

    long = tmp_path / ("t" * 80)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for place in (str(long), "/proc/nowhere", ""):  # too long, not writable, not set: then it is /tmp
        monkeypatch.setenv("TMPDIR", place)
        folder = _temporary_folder()
        assert folder.parent == Path("/tmp")
        folder.rmdir()
    for place, why in ((str(long), "bytes"), ("/proc/x", "can't be written")):
        monkeypatch.setenv("RAY_TMPDIR", place)
        with pytest.raises(ConfigError, match=why) as caught:
            _temporary_folder()
        assert str(caught.value).startswith("RAY_TMPDIR: ")
        assert caught.value.exit_code == 2
    session = "/ds-12345678/session_2026-11-25_21-19-33_123456_1234567/sockets/plasma_store"
    assert LONGEST_TEMPORARY_FOLDER + len(session) <= 107
