"""A run that is stopped and taken over can write nothing when it wakes: real processes, on a disk and on S3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures

from pipeline.cli.main import main
from pipeline.results.manifest import Manifest, manifest_rows
from pipeline.shards.rows import INDEX_SCHEMA, REJECTS_SCHEMA
from pipeline.shards.store import ShardStore
from pipeline.storage import lock as lock_module
from pipeline.storage import place as place_module
from pipeline.storage.errors import Stopped
from pipeline.storage.lock import OutputLock, holder_of
from pipeline.storage.parts import PartStore
from pipeline.storage.place import FENCES, Place
from pipeline.storage.tables import DamagedError

# A driver on another machine. It stops itself in the last moment before a write: on a disk between drafting and
# renaming, on a store between asking whether it still holds the output and sending.
SLEEPER = """
    import os, signal, sys
    import pyarrow as pa
    from pipeline.results.manifest import Manifest, manifest_rows
    from pipeline.storage import holder, lock, place, turns
    from pipeline.storage.errors import Stopped
    from pipeline.storage.place import Place

    holder._machine = lambda: "another boot"
    out = Place.parse(sys.argv[1])
    rows = lambda pair: manifest_rows([{"pair": pair, "status": "ok"}])
    ready = False

    def sleep(before):
        def call(*arguments):
            global ready
            result = before(*arguments)
            if ready:
                ready = False
                os.kill(os.getpid(), signal.SIGSTOP)
            return result
        return call

    if out.is_local:
        place.os.fsync = sleep(os.fsync)
    else:
        turns._StoreFence.LOOK_EVERY = -1.0
        turns._StoreFence.check = sleep(turns._StoreFence.check)
    try:
        with lock.OutputLock(out):
            manifest = Manifest(out)
            manifest.open()
            manifest.commit("early", rows("1"))
            print("ready", flush=True)
            ready = True
            manifest.commit("late", rows("2"))
            print("sent", flush=True)
            manifest.commit("later", rows("3"))
    except Stopped as error:
        print(error, flush=True)
        sys.exit(error.exit_code)
"""


@pytest.fixture(params=["disk", "s3"])
def folder(request, tmp_path) -> Place:
    if request.param == "disk":
        return Place.parse(tmp_path / "out")
    return Place.parse(f"{request.getfixturevalue('s3_bucket')}/out")


@pytest.fixture
def sleeper(folder, monkeypatch):
    """Start a driver that stops itself in the middle of a write."""
    monkeypatch.setattr(lock_module, "DEAD_AFTER", 1.0)
    monkeypatch.setattr(lock_module, "LOOK_EVERY", 0.05)
    started = []

    def start() -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SLEEPER), str(folder)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def wake(process: subprocess.Popen) -> tuple[int, str]:
    process.send_signal(signal.SIGCONT)
    text = process.stdout.read()
    return process.wait(timeout=300), text


def rows(*pairs: str) -> pa.Table:
    return manifest_rows([{"pair": pair, "status": "ok"} for pair in pairs])


def test_a_sleeper_that_was_taken_over_commits_nothing(folder, sleeper):
    process = sleeper()
    with OutputLock(folder):
        manifest = Manifest(folder)
        manifest.open()
        manifest.store.remove_uncommitted()
        assert manifest.store.parts() == ["early"]
        manifest.commit("mine", rows("2", "3"))  # what the sleeper was at, in another part

        code, text = wake(process)
        assert code == 4
        assert "taken over" in text
        # On a store the write that was under way goes through; it is there, and nobody counts it.
        assert text.startswith("sent") == (not folder.is_local)
        files = {entry.place.name for entry in (folder / "manifest").list()}
        assert files == ({"early.parquet", "mine.parquet"} if folder.is_local else files)
        assert ("late.00000001.parquet" in files) == (not folder.is_local)
        for reader in (manifest, Manifest(folder)):
            assert reader.store.parts() == ["early", "mine"]
            assert sorted(reader.table(["pair"])["pair"].to_pylist()) == ["1", "2", "3"]
        assert holder_of(folder).pid == os.getpid()  # its release has not released the successor

    with OutputLock(folder):  # the next run removes it
        Manifest(folder).store.remove_uncommitted()
        assert len((folder / "manifest").list()) == 2
    assert sorted(Manifest(folder).table(["pair"])["pair"].to_pylist()) == ["1", "2", "3"]


def test_a_holder_that_is_fenced_off_deletes_and_writes_nothing_even_if_it_asked_before(tmp_path, monkeypatch):
    folder = Place.parse(tmp_path / "out")
    with OutputLock(folder):
        (folder / "keep").write_bytes(b"mine")
        fence = FENCES[folder]
        monkeypatch.setattr(type(fence), "check", lambda self: None)  # it asked just before it was stopped
        lock_module.DiskTurns(folder).fence_off(1)
        (folder / "keep").delete()
        with pytest.raises(FileNotFoundError):
            (folder / "new").write_bytes(b"late")
    assert (Path(folder.path) / "keep").read_bytes() == b"mine"
    assert not (Path(folder.path) / "new").exists()


def test_drafts_of_a_killed_worker_go_with_the_turn(tmp_path):
    folder = Place.parse(tmp_path / "out")
    with OutputLock(folder):
        with (folder / "a" / "file").writer() as stream:
            stream.write(b"x")
            drafts = list((tmp_path / "out" / ".lock" / "00000001" / "drafts").iterdir())
            assert len(drafts) == 1
        drafts[0].write_bytes(b"left by a killed worker")
    assert not drafts[0].parent.exists()
    assert [entry.place.name for entry in folder.list(recursive=True)] == ["file"]


def test_what_lies_on_another_file_system_is_still_written(tmp_path, monkeypatch, caplog):
    """A bank's folder may be a link to a larger disk, where nothing can be renamed to."""
    folder = Place.parse(tmp_path / "out")
    rename = Path.replace

    def replace(path, target):
        if "drafts" in str(path):
            raise OSError(18, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(Path, "rename", replace)
    place_module._warn_of_two_file_systems.cache_clear()
    with OutputLock(folder):
        for _ in range(2):
            (folder / "file").write_bytes(b"x")
        assert (folder / "file").read_bytes() == b"x"
        (folder / "file").delete()
    assert not folder.list()
    assert caplog.text.count("another file system") == 1


def test_a_fence_is_for_what_is_below_its_output_alone(tmp_path):
    outer, inner, beside = (Place.parse(tmp_path / name) for name in ("out", "out/bank", "outside"))
    with OutputLock(outer), OutputLock(inner):
        assert (inner / "x").fence is FENCES[inner]
        assert (outer / "x").fence is FENCES[outer]
        assert beside.fence is None
    assert (outer / "x").fence is None


# ---- turns in the names of index files ----


@pytest.fixture
def bucket(s3_bucket) -> Place:  # noqa: F811
    return Place.parse(f"{s3_bucket}/out")


def test_a_part_that_is_committed_again_has_the_later_rows(bucket):
    store = PartStore(bucket)
    schema = pa.schema([("n", pa.int64())])
    for n in range(3):
        with OutputLock(bucket):
            PartStore(bucket).commit("a", pa.table({"n": [n]}, schema))
    assert store.parts() == ["a"]
    assert store.rows(schema)["n"].to_pylist() == [2]
    assert store.part_rows("a", schema)["n"].to_pylist() == [2]
    with OutputLock(bucket):
        assert sorted(PartStore(bucket).remove_uncommitted()) == ["a.00000001.parquet", "a.00000002.parquet"]
        assert PartStore(bucket).parts() == ["a"]
        store.drop("a")
    assert PartStore(bucket).parts() == []


def test_files_without_a_turn_count_always(bucket):
    """A bank that was made on a disk and copied to a store."""
    store = PartStore(bucket)
    store.commit("a", pa.table({"n": [0]}))
    lock_module.StoreTurns(bucket).begin(lock_module.Turn(4, is_open=True, holder=lock_module.Holder()))
    lock_module.DEAD_AFTER, before = 0.0, lock_module.DEAD_AFTER
    try:
        with OutputLock(bucket):
            assert PartStore(bucket).parts() == ["a"]
            assert [entry.place.name for entry in store.index_folder.list(hidden=True)] == [".seal-00000005.json"]
            store.commit("b", pa.table({"n": [0]}))
        store.commit("c", pa.table({"n": [0]}))
        assert store.parts() == ["a", "b", "c"]
    finally:
        lock_module.DEAD_AFTER = before


def test_a_store_that_was_not_opened_after_a_takeover_is_sealed_when_it_is(bucket):
    """The run that took over did something else; the one after it seals."""
    turns = lock_module.StoreTurns(bucket)
    turns.begin(lock_module.Turn(1, is_open=True, holder=lock_module.Holder(machine=lock_module.Holder.me().machine)))
    with OutputLock(bucket):
        pass
    with OutputLock(bucket):
        store = PartStore(bucket)
        assert store.parts() == []
        (store.index_folder / "late.00000001.parquet").put(b"of the holder that slept")
        assert store.parts() == []
    assert PartStore(bucket).parts() == []


def test_rejects_are_kept_out_too(bucket):
    empty = pa.Table.from_pylist([], INDEX_SCHEMA)
    rejects = pa.Table.from_pylist([{"source": "a", "source_version": "1-1", "reason": "x"}], REJECTS_SCHEMA)
    with OutputLock(bucket):
        ShardStore(bucket).commit("a", empty, rejects)
    with OutputLock(bucket):
        store = ShardStore(bucket)
        assert store.rejects()["reason"].to_pylist() == ["x"]
        store.commit("a", empty, rejects.slice(0, 0))
        assert store.rejects()["reason"].to_pylist() == []


def test_threads_that_seal_at_once_agree(bucket):
    turns = lock_module.StoreTurns(bucket)
    turns.begin(lock_module.Turn(1, is_open=True, holder=lock_module.Holder(machine=lock_module.Holder.me().machine)))
    (PartStore(bucket).index_folder / "a.00000001.parquet").put(b"")
    parts = []
    with OutputLock(bucket):
        threads = [threading.Thread(target=lambda: parts.append(PartStore(bucket).parts())) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert parts == [["a"]] * 6


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"a": 1}', b'["a.0000', b"\xff"])
def test_a_damaged_seal_is_one_line_and_verify_drops_it(bucket, damage):
    with OutputLock(bucket):
        manifest = Manifest(bucket)
        manifest.open()
        manifest.store.commit("a", manifest_rows([{"pair": "one", "status": "failed"}]))
    seal = manifest.store.index_folder / ".seal-00000002.json"
    seal.put(damage)
    with pytest.raises(DamagedError) as caught:
        manifest.store.parts()
    assert str(caught.value).startswith(f"{seal}: not as it was written (")
    assert str(caught.value).endswith(f"; run `diffstyle verify {bucket} --repair`, which drops it, then the job again")
    looked = CliRunner().invoke(main, ["verify", str(bucket)])
    assert (looked.exit_code, looked.output.count(str(seal))) == (3, 1), looked.output
    repaired = CliRunner().invoke(main, ["verify", str(bucket), "--repair"])
    assert repaired.exit_code == 0, repaired.output
    assert not seal.exists()
    assert manifest.store.parts() == ["a"]
    assert CliRunner().invoke(main, ["verify", str(bucket)]).exit_code == 0


def test_a_worker_of_a_run_that_was_taken_over_is_fenced_off_too(folder):
    import pickle

    with OutputLock(folder):
        fences = pickle.loads(pickle.dumps(dict(FENCES)))  # what the driver gives its workers
    FENCES.update(fences)
    try:
        with OutputLock(folder) as successor:
            FENCES.update(fences)
            with pytest.raises(Stopped, match="taken over"):
                (folder / "data" / "a.tar").write_bytes(b"late")
            assert not (folder / "data" / "a.tar").exists()
            successor.check()
    finally:
        FENCES.clear()
