"""One run at a time on an output folder: real processes, real kills, a real S3 protocol."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures

from diffstyle.errors import DiffStyleError
from pipeline.storage import lock as lock_module
from pipeline.storage import objects
from pipeline.storage import turns as turns_module
from pipeline.storage.errors import Stopped
from pipeline.storage.holder import Holder
from pipeline.storage.lock import LockedError, OutputLock, holder_of
from pipeline.storage.place import Place
from pipeline.storage.turns import DiskTurns, StoreTurns, Turn

HOLD = """
    import sys, time
    from pipeline.storage import holder, lock
    from pipeline.storage.place import Place
    if "elsewhere" in sys.argv:
        holder._machine = lambda: "another boot"
    lock.BEAT_EVERY = 0.2
    with lock.OutputLock(Place.parse(sys.argv[1])) as held:
        if "silent" in sys.argv:
            held._end.set()
            held._thread.join()
        print("held", flush=True)
        time.sleep(600)
"""


@pytest.fixture
def hold():
    """Start a process that holds a folder until it is killed; ``elsewhere``: as if on another machine."""
    started = []

    def start(folder: Place, *how: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOLD), str(folder), *how], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def bucket(s3_bucket) -> Place:  # noqa: F811
    return Place.parse(f"{s3_bucket}/out")


@pytest.fixture
def out(tmp_path) -> Place:
    return Place.parse(tmp_path / "out")


@pytest.fixture(params=["disk", "s3"])
def folder(request, out) -> Place:
    return request.getfixturevalue("bucket") if request.param == "s3" else out


@pytest.fixture(autouse=True)
def always_looking(monkeypatch):
    monkeypatch.setattr(turns_module._StoreFence, "LOOK_EVERY", -1.0)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(lock_module, "DEAD_AFTER", 1.0)
    monkeypatch.setattr(lock_module, "LOOK_EVERY", 0.05)


@pytest.fixture
def looking_often(monkeypatch):
    """A sign of life is seen at once, and waited for as long as a busy machine may need to give one."""
    monkeypatch.setattr(lock_module, "LOOK_EVERY", 0.05)


def turns_of(folder: Place) -> DiskTurns | StoreTurns:
    return DiskTurns(folder) if folder.is_local else StoreTurns(folder)


def elsewhere(**changes) -> Holder:
    """A holder on another machine."""
    return replace(Holder.me(), host="node-7", machine="another boot", pid=4321, **changes)


def open_turn(folder: Place, holder: Holder, number: int = 1) -> None:
    assert turns_of(folder).begin(Turn(number, is_open=True, holder=holder))


def lock_files(out: Place) -> list[str]:
    root = Path(out.path)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


# ---- both kinds ----


def test_a_folder_is_held_and_let_go(folder):
    assert holder_of(folder) is None
    with OutputLock(folder) as held:
        held.check()
        holder = holder_of(folder)
        assert holder.pid == os.getpid()
        assert holder.host == os.uname().nodename
        assert not folder.list(recursive=True)  # hidden from all who list the output
    assert holder_of(folder) is None
    with OutputLock(folder):
        pass
    assert turns_of(folder).newest().number == 2


def test_it_is_let_go_after_an_exception(folder):
    with pytest.raises(ZeroDivisionError), OutputLock(folder):
        raise ZeroDivisionError
    assert holder_of(folder) is None


def test_a_second_run_is_refused_at_once_and_in_one_line(folder, hold):
    process = hold(folder)
    begun = time.monotonic()
    with pytest.raises(LockedError) as caught, OutputLock(folder):
        pass
    assert time.monotonic() - begun < lock_module.DEAD_AFTER / 2
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(folder), f"process {process.pid}", os.uname().nodename, "since 20", "wait", "another output"):
        assert part in message
    assert holder_of(folder).pid == process.pid  # the refused one has not disturbed it


def test_a_killed_run_is_succeeded_at_once_and_it_is_said(folder, hold, caplog):
    process = hold(folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert holder_of(folder) is None
    begun = time.monotonic()
    with caplog.at_level(logging.WARNING), OutputLock(folder) as held:
        held.check()
        assert holder_of(folder).pid == os.getpid()
    assert time.monotonic() - begun < lock_module.DEAD_AFTER / 2
    assert f"taken over from process {process.pid}" in caplog.text


def test_a_stopped_process_of_this_machine_still_holds(folder, hold):
    process = hold(folder)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(LockedError), OutputLock(folder):
        pass


def test_a_run_elsewhere_holds_as_long_as_its_heart_beats(folder, hold, looking_often, caplog):
    """Fails where the heartbeat never beats: the other run would be taken for dead."""
    process = hold(folder, "elsewhere")
    for _ in range(2):
        with pytest.raises(LockedError, match=f"process {process.pid}"), OutputLock(folder):
            pass
    assert "sign of life" in caplog.text


def test_a_run_elsewhere_that_falls_silent_is_succeeded(folder, hold, impatient, caplog):
    process = hold(folder, "elsewhere", "silent")
    with OutputLock(folder) as held:
        held.check()
        assert holder_of(folder).pid == os.getpid()
    assert f"taken over from process {process.pid}" in caplog.text


@pytest.mark.parametrize("shift", [-10_000.0, 10_000.0])
def test_clocks_that_differ_decide_nothing(folder, hold, looking_often, monkeypatch, shift):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + shift)
    process = hold(folder, "elsewhere")
    if folder.is_local:  # a heartbeat stamped by a clock that is far off
        os.utime(DiskTurns(folder)._holder(1), (now() + shift,) * 2)
    with pytest.raises(LockedError, match=f"process {process.pid}"), OutputLock(folder):
        pass


def test_of_many_at_once_one_wins(folder):
    for _ in range(8 if folder.scheme == "s3" else 30):
        results = race(folder, 6)
        assert len(results["won"]) == 1
        assert len(results["refused"]) == 5


def race(folder: Place, n: int) -> dict[str, list]:
    """Threads that try at the same moment; a winner keeps the folder until all have tried."""
    results: dict[str, list] = {"won": [], "refused": []}
    begin, done = threading.Barrier(n), threading.Barrier(n)

    def attempt() -> None:
        held = OutputLock(folder)
        begin.wait()
        try:
            with held:
                results["won"].append(held)
                done.wait(timeout=200)
                held.check()
        except LockedError as error:
            results["refused"].append(error)
            done.wait(timeout=200)
        except BaseException:
            done.abort()  # the others need not wait for this one
            raise

    threads = [threading.Thread(target=attempt) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_many_takers_of_a_dead_turn_one_wins(folder):
    for _ in range(4 if folder.scheme == "s3" else 20):
        number = turns_of(folder).newest().number + 1
        open_turn(folder, replace(Holder.me(), process_start="17"), number)
        results = race(folder, 6)
        assert len(results["won"]) == 1
        assert len(results["refused"]) == 5


def test_a_pid_that_now_belongs_to_another_process_is_not_the_holder(folder):
    open_turn(folder, replace(Holder.me(), process_start="17"))
    with OutputLock(folder) as held:
        held.check()


def test_losing_the_lock_stops_the_run(folder):
    with OutputLock(folder) as held:
        held.check()
        turns_of(folder).fence_off(1)
        open_turn(folder, Holder.me(), 2)
        with pytest.raises(Stopped, match="removed or taken over") as caught:
            held.check()
        assert caught.value.exit_code == 4
        with pytest.raises(Stopped):
            (folder / "file").write_bytes(b"")
        with pytest.raises(Stopped):
            (folder / "file").delete()


def test_a_lock_that_is_removed_by_hand_stops_the_run(folder):
    with OutputLock(folder) as held:
        fence = lock_module.FENCES.pop(folder)
        turns_of(folder).tidy(2 + turns_module.KEPT)
        lock_module.FENCES[folder] = fence
        with pytest.raises(Stopped, match="removed or taken over"):
            held.check()


def test_a_late_release_leaves_the_successor_alone(folder):
    held = OutputLock(folder)
    held.__enter__()
    turns_of(folder).fence_off(1)
    open_turn(folder, Holder.me(), 2)
    fence = lock_module.FENCES.pop(folder)  # the successor is another process
    turns_of(folder).tidy(2)
    lock_module.FENCES[folder] = fence
    held.__exit__()
    newest = turns_of(folder).newest()
    assert (newest.number, newest.is_open) == (2, True)


def test_a_number_that_is_long_past_is_no_turn(folder):
    """A taker that was stopped before it began: meanwhile others came and went."""
    open_turn(folder, Holder.me(), 7)
    assert not turns_of(folder).begin(Turn(3, is_open=True, holder=elsewhere()))
    newest = turns_of(folder).newest()
    assert (newest.number, newest.is_open) == (7, True)
    assert not turns_of(folder).begin(Turn(7, is_open=True, holder=elsewhere()))
    assert turns_of(folder).newest() == newest


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, s3_endpoint):  # noqa: F811
    (tmp_path / "file").write_text("in the way")
    for address in (tmp_path / "file" / "x", "s3://no-such/x"):
        with pytest.raises(DiffStyleError, match="can't be written") as caught, OutputLock(Place.parse(address)):
            pass
        assert "\n" not in str(caught.value)


def test_an_interrupt_while_taking_lets_go(folder, monkeypatch):
    def tidy(self, number):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(turns_of(folder)), "tidy", tidy)
    with pytest.raises(KeyboardInterrupt):
        OutputLock(folder).__enter__()
    assert holder_of(folder) is None


# ---- on a disk ----


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"token": 3'])
def test_a_holder_cut_short_by_a_power_cut_is_waited_for_and_succeeded(out, impatient, content):
    open_turn(out, Holder.me())
    (Path(out.path) / ".lock/00000001/holder.json").write_bytes(content)
    with OutputLock(out):
        assert holder_of(out).pid == os.getpid()


def test_a_full_disk_leaves_nothing_in_the_way(out, monkeypatch):
    def write_bytes(path, data):
        path.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(Stopped, match="No space left") as caught:
            OutputLock(out).__enter__()
    assert caught.value.exit_code == 4
    assert lock_files(out) == []
    with OutputLock(out) as held:
        held.check()


# Every call that changes the disk is announced to an audit hook before it is made; the child dies at the n-th.
KILL_AT_EVERY_WRITE = """
    import itertools, os, shutil, signal, sys
    from pathlib import Path
    from pipeline.storage import lock
    from pipeline.storage.parts import PartStore
    from pipeline.storage.place import Place

    root = Path(sys.argv[1])
    os.fsync = lambda handle: None  # no power cut here
    WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.utime", "os.truncate", "os.link"}

    def child(work, n=None):
        # Run `work` in a process that is killed at its n-th write; returns whether it ended by itself.
        pid = os.fork()
        if pid:
            return os.waitpid(pid, 0)[1] == 0
        count = itertools.count(1)

        def hook(event, arguments):
            writes = event in WRITES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if writes and str(root) in str(arguments[0]) and next(count) == n:
                os.kill(os.getpid(), signal.SIGKILL)

        code = 1
        try:
            if n is not None:
                sys.addaudithook(hook)
            work()
            code = 0
        finally:
            os._exit(code)

    def run(out):
        with lock.OutputLock(out) as held:
            held._turns.beat(held._turn)
            store = PartStore(out)
            store.remove_uncommitted()
            if "a" not in store.parts():
                store.data("a", "bin").write_bytes(b"payload")
                (store.index_folder / "a.parquet").write_bytes(b"rows")
            (out / "old").write_bytes(b"")
            (out / "old").delete()

    def leave(out):  # a holder that is killed
        lock.OutputLock(out).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)

    def prepare(name, kills, number):
        out = Place.parse(root / f"{name}-{kills}-{number}")
        if name == "released":
            child(lambda: lock.OutputLock(out).__enter__().__exit__())
        elif name == "killed":
            child(lambda: leave(out))
        return out

    def check(out):
        path = Path(out.path)
        if lock.holder_of(out) is not None:
            return "held by a dead process"
        if not child(lambda: run(out)):
            return "the next run failed"
        if sorted(p.name for p in path.iterdir()) != [".lock", "data", "index"]:
            return sorted(p.name for p in path.iterdir())
        newest = sorted((path / ".lock").iterdir())
        if len(newest) != 1 or [p.name for p in newest[0].iterdir()] != ["holder.json"]:
            return [str(p) for p in (path / ".lock").rglob("*")]
        if os.listdir(path / "index") != ["a.parquet"] or (path / "data" / "a.bin").read_bytes() != b"payload":
            return "the part"

    def sweep(name, kills):
        number = itertools.count()
        for n in itertools.count(1):
            out = prepare(name, kills, next(number))
            ended = child(lambda: run(out), n)
            if not ended and kills == 2:  # the one that takes over is killed too
                for m in itertools.count(1 + n % 3, 3):
                    copy = Place.parse(root / "copy")
                    shutil.rmtree(copy.path, ignore_errors=True)
                    if Path(out.path).exists():
                        shutil.copytree(out.path, copy.path)
                    if child(lambda: run(copy), m):
                        break
                    wrong = check(copy)
                    assert not wrong, (name, n, m, wrong)
            wrong = check(out)
            assert not wrong, (name, n, wrong)
            if ended:
                print(name, n - 1, "writes")
                return n

    writes = {name: sweep(name, 1) for name in ("fresh", "released", "killed")}
    sweep("fresh", 2)
    assert min(writes.values()) > 15, writes
"""


@pytest.mark.slow
def test_a_kill_at_every_write_leaves_a_lock_that_the_next_run_gets(tmp_path):
    script = textwrap.dedent(KILL_AT_EVERY_WRITE)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


FIGHT = """
    import multiprocessing, os, sys, time
    from pathlib import Path
    from pipeline.storage.lock import LockedError, OutputLock
    from pipeline.storage.place import Place

    out = Place.parse(sys.argv[1])

    def attempt(begin, end, wins):
        begin.wait()
        try:
            with OutputLock(out):
                with wins.get_lock():
                    wins.value += 1
                end.wait(200)
        except LockedError:
            end.wait(200)

    context = multiprocessing.get_context("fork")
    for round in range(15):
        dead = os.fork()  # leaves a lock behind
        if not dead:
            OutputLock(out).__enter__()
            os._exit(0)
        os.waitpid(dead, 0)
        begin, end, wins = context.Barrier(5), context.Barrier(5), context.Value("i", 0)
        runs = [context.Process(target=attempt, args=(begin, end, wins)) for _ in range(5)]
        [run.start() for run in runs]
        [run.join() for run in runs]
        assert wins.value == 1, wins.value
        assert all(run.exitcode == 0 for run in runs)
    assert len(list(Path(out.path, ".lock").iterdir())) == 1
"""


def test_of_many_processes_after_a_dead_one_one_wins(out):
    subprocess.run([sys.executable, "-c", textwrap.dedent(FIGHT), str(out)], check=True, timeout=500)


# ---- on an object store ----


class Killed(BaseException):
    """What a test raises where a process would be killed."""


def test_a_kill_at_every_write_to_a_store_leaves_a_lock_that_the_next_run_gets(bucket, monkeypatch):
    writes = []
    number = 0

    def killing(function):
        def call(*arguments):
            writes.append(function.__name__)
            if len(writes) == number:
                raise Killed
            return function(*arguments)

        return call

    def run(out: Place, start: str) -> None:
        held = OutputLock(out)
        held._turn = replace(held._turn, holder=replace(held._turn.holder, process_start=start))
        held.__enter__()
        held._turns.beat(held._turn)
        held.__exit__()

    while not writes or len(writes) >= number:
        number += 1
        writes.clear()
        out = bucket / str(number)
        open_turn(out, replace(Holder.me(), process_start="17"))  # gone, so there is something to take over
        with monkeypatch.context() as patch:
            for name in ("create", "_delete"):
                patch.setattr(turns_module, name, killing(getattr(turns_module, name)))
            patch.setattr(Place, "put", killing(Place.put))
            try:
                run(out, "a dead process")
            except Killed:
                lock_module.FENCES.clear()
        with OutputLock(out) as held:
            held.check()
        numbers = list(turns_module._numbers(out))
        assert max(numbers) == turns_of(out).newest().number
        assert len(numbers) <= turns_module.KEPT + 1
    assert number >= 5


def test_a_store_that_ignores_conditions_is_refused(bucket, monkeypatch):
    def create(place, data):
        place.put(data)
        return True

    monkeypatch.setattr(turns_module, "create", create)
    with pytest.raises(DiffStyleError, match="ignores conditional writes") as caught, OutputLock(bucket):
        pass
    assert "\n" not in str(caught.value)


def test_a_turn_removed_while_it_is_read_is_no_trouble(bucket, monkeypatch):
    open_turn(bucket, elsewhere())
    read, gone = objects.get_dated, []

    def get_dated(scheme, path):
        if not gone:
            gone.append(path)
            Place(scheme, path).delete()
        return read(scheme, path)

    monkeypatch.setattr(objects, "get_dated", get_dated)
    with OutputLock(bucket) as held:
        held.check()
    assert gone


@pytest.mark.parametrize("data", [b"", b"{", b'{"open": true}'])
def test_a_turn_that_cannot_be_read_is_waited_for_and_succeeded(bucket, impatient, data):
    (bucket / ".lock" / "00000003").put(data)
    with OutputLock(bucket) as held:
        held.check()
        assert json.loads((bucket / ".lock" / "00000004").read_bytes())["seal"] == 4
