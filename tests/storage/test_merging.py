"""Small parts become one: readers see the same rows all along, whatever is killed, on a disk and on S3."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures

from diffstyle.errors import DiffStyleError
from pipeline.results.manifest import Manifest, manifest_rows
from pipeline.storage import lock, merging
from pipeline.storage.lock import OutputLock
from pipeline.storage.merging import Merge, small_parts
from pipeline.storage.place import Entry, Place

N = 6
PAIRS = [f"{n:032x}" for n in range(2 * N)]


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(merging, "MANY", 3)


@pytest.fixture(params=["disk", "s3"])
def out(request, tmp_path) -> Place:
    return Place.parse(tmp_path if request.param == "disk" else request.getfixturevalue("s3_bucket")) / "out"


def tile(n: int) -> pa.Table:
    pairs = PAIRS[2 * n : 2 * n + 2]
    tar = f"pictures/tile-{n}.tar"
    return manifest_rows([{"pair": pair, "status": "ok", "picture": f"{tar}#{pair}.png"} for pair in pairs])


def write(out: Place) -> Manifest:
    """An output of six tiles, their tars, and two failures; and a tar that was never committed."""
    manifest = Manifest(out)
    manifest.open()
    for n in range(N):
        manifest.store.data(f"tile-{n}", "tar").write_bytes(b"tar")
        manifest.commit(f"tile-{n}", tile(n))
    for n in range(2):
        manifest.commit_failures([{"pair": f"{99 + n:032x}", "status": "failed", "error": "dark"}])
    manifest.store.data("tile-9", "tar").write_bytes(b"half")
    return manifest


def assert_whole(out: Place) -> None:
    manifest = Manifest(out)
    known = manifest.known()
    assert sorted(known.done) == PAIRS
    assert (len(known.failed), known.repeated) == (2, 0)
    assert sorted(manifest.table(["pair", "status"])["pair"].to_pylist()) == [*PAIRS, f"{99:032x}", f"{100:032x}"]


def tars(out: Place) -> list[str]:
    return [entry.place.name for entry in (out / "pictures").list(".tar")]


COMMITTED = [f"tile-{n}.tar" for n in range(N)]


def test_small_parts_become_one_and_their_payloads_stay(out):
    with OutputLock(out):
        manifest = write(out)
        manifest.merge_small()
        assert [part[:7] for part in manifest.store.parts()] == ["failed-", "failed-", "merged-"]
        assert len((out / "manifest").list(".parquet")) == 3
        assert (out / "manifest").list(hidden=True) == [] or not out.is_local
        assert_whole(out)
        assert manifest.store.remove_uncommitted() == ["tile-9.tar"]
        assert tars(out) == COMMITTED
    with OutputLock(out):
        manifest = Manifest(out)
        assert manifest.store.remove_uncommitted() == []
        for n in range(4, 8):
            manifest.commit_failures([{"pair": f"{99 + n:032x}", "status": "failed"}])
        manifest.merge_small()
        assert [part[:13] for part in manifest.store.parts()] == ["failed-merged", manifest.store.parts()[1][:13]]
        assert len(manifest.known().failed) == 6
        assert tars(out) == COMMITTED


def test_pandas_reads_a_merged_manifest(tmp_path):
    out = Place.parse(tmp_path)
    write(out).merge_small()
    assert sorted(pd.read_parquet(f"{out}/manifest").pair) == [*PAIRS, f"{99:032x}", f"{100:032x}"]


def test_few_small_parts_stay_as_they_are(out, monkeypatch):
    monkeypatch.setattr(merging, "MANY", N)
    with OutputLock(out):
        manifest = write(out)
        parts = manifest.store.parts()
        manifest.merge_small()
        assert manifest.store.parts() == parts


class KilledError(BaseException):
    pass


@contextlib.contextmanager
def killed_at(monkeypatch, step: int, after: bool):
    """A kill before or after the write or deletion of that number."""
    n = [0]
    with monkeypatch.context() as patch:

        def counted(real: Callable) -> Callable:
            def one(self, *words):
                n[0] += 1
                if n[0] == step and not after:
                    raise KilledError
                result = real(self, *words)
                if n[0] >= step:
                    raise KilledError
                return result

            return one

        patch.setattr(Place, "delete", counted(Place.delete))
        real_writer = Place.writer

        @contextlib.contextmanager
        def writer(self):
            n[0] += 1
            mine = n[0]
            if mine == step and not after:
                raise KilledError
            with real_writer(self) as stream:
                yield stream
            if mine >= step:
                raise KilledError

        patch.setattr(Place, "writer", writer)
        with contextlib.suppress(KilledError):
            yield
    assert n[0] >= step


# The note, the merged part, six parts that it replaces, the note again.
KILLS = [("disk", step, after) for step in range(1, N + 4) for after in (False, True)]
KILLS += [("s3", step, True) for step in (1, 2, 5, N + 3)]


@pytest.mark.parametrize(("out", "step", "after"), KILLS, indirect=["out"])
def test_a_kill_at_any_write_loses_and_doubles_nothing(out, monkeypatch, step, after):
    with OutputLock(out):
        manifest = write(out)
        with killed_at(monkeypatch, step, after):
            manifest.merge_small()
        assert_whole(out)  # a reader, before anybody goes on
    assert_whole(out)
    with OutputLock(out):
        manifest = Manifest(out)
        manifest.store.remove_uncommitted()
        assert_whole(out)
        assert tars(out) == COMMITTED
        assert not [entry for entry in (out / "manifest").list(hidden=True) if "merging" in entry.place.name]
        manifest.merge_small()
        assert len(manifest.store.parts()) == 3
        assert len((out / "manifest").list(".parquet")) == 3
        assert_whole(out)


@pytest.mark.parametrize(("out", "step"), [("disk", 3), ("disk", 5), ("s3", 4)], indirect=["out"])
def test_what_was_replaced_does_not_come_back_when_the_merged_part_goes(out, monkeypatch, step):
    """A prune after a kill drops the merged part, and the parts that were left beside it go too."""
    with OutputLock(out):
        manifest = write(out)
        with killed_at(monkeypatch, step, False):
            manifest.merge_small()
    with OutputLock(out):
        manifest = Manifest(out)
        (merged,) = [part for part in manifest.store.parts() if part.startswith("merged-")]
        manifest.store.drop(merged)
        assert len(manifest.known().done) == 0
    assert len(Manifest(out).known().done) == 0


def test_a_reader_lists_again_when_parts_are_merged_while_it_reads(out):
    with OutputLock(out):
        manifest = write(out)
        reader = Manifest(out)
        names = reader.store.parts()
        real, merged = reader.store.part_rows, []

        def part_rows(part, *words):
            if part == "tile-2" and not merged:
                merged.append(part)
                manifest.merge_small()
            return real(part, *words)

        reader.store.part_rows = part_rows
        assert sorted(reader.known().done) == PAIRS
        assert reader.store.parts() != names


def test_a_pair_that_is_dropped_and_made_again_counts(out):
    """Its tile has the name of a part that was merged long ago."""
    with OutputLock(out):
        manifest = write(out)
        manifest.merge_small()
        (merged,) = [part for part in manifest.store.parts() if part.startswith("merged-")]
        rows = manifest.store.part_rows(merged, manifest.table().schema)
        manifest.replace(merged, rows, rows.slice(2))
        assert manifest.store.remove_uncommitted() == ["tile-0.tar", "tile-9.tar"]
        manifest.store.data("tile-0", "tar").write_bytes(b"tar")
        manifest.commit("tile-0", tile(0))
    with OutputLock(out):
        assert Manifest(out).store.remove_uncommitted() == []
        assert_whole(out)
        assert tars(out) == COMMITTED


# A driver on another machine. It stops itself in the middle of a merge: after it asked whether it holds the output and
# before it sends the merged part, or after that is sent. Its clock stands still, as that of a paused machine may.
SLEEPER = """
    import os, signal, sys
    from pipeline.results.manifest import Manifest
    from pipeline.storage import holder, merging, turns
    from pipeline.storage.errors import Stopped
    from pipeline.storage.lock import OutputLock
    from pipeline.storage.parts import PartStore
    from pipeline.storage.place import Place

    holder._machine = lambda: "another boot"
    turns._StoreFence.LOOK_EVERY = 1e9
    merging.MANY = 3
    check, commit = turns._StoreFence.check, PartStore.commit
    merging_now = False

    def stop():
        os.kill(os.getpid(), signal.SIGSTOP)

    def check_and_sleep(self):
        global merging_now
        check(self)
        if merging_now:
            merging_now = False
            stop()

    def commit_and_sleep(self, part, *words):
        global merging_now
        merging_now = sys.argv[2] == "before"
        commit(self, part, *words)
        if sys.argv[2] == "after":
            stop()

    turns._StoreFence.check = check_and_sleep
    PartStore.commit = commit_and_sleep
    try:
        with OutputLock(Place.parse(sys.argv[1])):
            print("ready", flush=True)
            Manifest(sys.argv[1]).merge_small()
    except Stopped as error:
        sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("sleeps", ["before", "after"])
def test_the_merge_of_a_holder_that_was_taken_over(s3_bucket, monkeypatch, sleeps):  # noqa: F811
    """On a store its merged part may still come; it counts only if its successor saw it, and it deletes nothing."""
    monkeypatch.setattr(lock, "DEAD_AFTER", 1.0)
    monkeypatch.setattr(lock, "LOOK_EVERY", 0.05)
    out = Place.parse(s3_bucket) / "out"
    with OutputLock(out):
        write(out)
    code = textwrap.dedent(SLEEPER)
    process = subprocess.Popen([sys.executable, "-c", code, str(out), sleeps], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        with OutputLock(out):
            successor = Manifest(out)
            merged = [part for part in successor.store.parts() if part.startswith("merged-")]
            assert len(merged) == (sleeps == "after")
            assert_whole(out)
            process.send_signal(signal.SIGCONT)
            assert process.wait(timeout=300) == 4
            files = {entry.place.name for entry in (out / "manifest").list(".parquet")}
            assert len(files) == N + 3
            assert any(name.startswith("merged-") for name in files)
            assert_whole(out)  # for a reader, as for the successor
            assert [part for part in successor.store.parts() if part.startswith("merged-")] == merged
            successor.store.remove_uncommitted()
            assert_whole(out)
            assert tars(out) == COMMITTED
            assert len((out / "manifest").list(".parquet")) == (3 if merged else N + 2)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_note_that_is_not_whole_is_one_line(out):
    write(out)
    (out / "manifest" / ".merging-00000001.json").write_bytes(b'{"into"')
    with pytest.raises(DiffStyleError, match=r"\.merging-00000001\.json: not as it was written .*; delete it"):
        Manifest(out).known()


def test_what_is_written_down_is_which_parts_become_which(tmp_path):
    index = Place.parse(tmp_path)
    place = Merge("merged-1", ("a", "b")).note(index, 7)
    assert place.name == ".merging-00000007.json"
    assert json.loads(place.read_bytes()) == {"into": "merged-1", "parts": ["a", "b"]}
    assert merging.notes(index.list(hidden=True)) == {place: Merge("merged-1", ("a", "b"))}


@given(st.lists(st.integers(0, 3 << 20)), st.sampled_from(["", "failed-"]))
def test_only_small_parts_are_merged_each_once_into_parts_of_bounded_size(sizes, prefix):
    place = Place.parse("/nowhere")
    entries = {f"part-{n:03}": Entry(place, size, 0) for n, size in enumerate(sizes)}
    merges = small_parts(entries, prefix)
    replaced = [part for merge in merges for part in merge.parts]
    small = [part for part, entry in entries.items() if entry.size < merging.SMALL]
    assert len(replaced) == len(set(replaced))
    assert set(replaced) <= set(small)
    assert len(small) - len(replaced) <= 1 if len(small) > 3 else not merges  # at most one is left over
    for merge in merges:
        assert len(merge.parts) > 1
        assert merge.into.startswith(f"{prefix}merged-")
        assert sum(entries[part].size for part in merge.parts) < merging.LARGE + merging.SMALL
    assert len({merge.into for merge in merges}) == len(merges)
