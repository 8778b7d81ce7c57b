"""A store that is slow, throttles, drops connections and lists late: files, parts and the lock on it."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.s3 import s3_bucket, s3_endpoint, s3_store  # noqa: F401 - fixtures
from support.s3_faults import Faults
from support.waiting import NEVER

from pipeline.banks.payload import OpenFiles
from pipeline.sources.addresses import read_file
from pipeline.storage import lock as lock_module
from pipeline.storage import objects
from pipeline.storage import turns as turns_module
from pipeline.storage.conditional import create
from pipeline.storage.errors import Stopped, StoreError, fatal
from pipeline.storage.holder import Holder
from pipeline.storage.lock import LockedError, OutputLock
from pipeline.storage.parts import PartStore
from pipeline.storage.place import FENCES, Place
from pipeline.storage.turns import StoreTurns, Turn

ROUGH = Faults(latency=0.02, slow_down=0.15, torn=0.15, lost=0.15, seed=3)
SCHEMA = pa.schema([("n", pa.int64())])


@pytest.fixture
def bucket(s3_bucket) -> Place:  # noqa: F811
    return Place.parse(f"{s3_bucket}/out")


def table(*numbers: int) -> pa.Table:
    return pa.table({"n": list(numbers)}, SCHEMA)


def test_files_are_whole_and_read_back_whatever_the_store_does(bucket, s3_store):  # noqa: F811
    s3_store.set(ROUGH)
    for n in range(12):
        (bucket / f"{n}.bin").write_bytes(bytes([n]) * 5000)
    for n in range(12):
        assert (bucket / f"{n}.bin").read_bytes() == bytes([n]) * 5000
        assert (bucket / f"{n}.bin").read_range(10, 3) == bytes([n]) * 3
        assert (bucket / f"{n}.bin").size() == 5000
    for n in range(6):
        (bucket / f"{n}.bin").delete()
        assert not (bucket / f"{n}.bin").is_file()
    assert len(bucket.list()) == 6
    assert {"slow_down", "torn", "lost"} <= set(s3_store.caused)


def test_a_large_file_whose_pieces_are_cut_is_whole(bucket, s3_store, s3_endpoint, monkeypatch):  # noqa: F811
    monkeypatch.setattr(objects, "ONE_REQUEST", 1 << 20)
    data = bytes(range(256)) * (36 << 12)  # 36 MiB: three pieces
    s3_store.set(Faults(torn=0.3, seed=5))
    (bucket / "large").write_bytes(data)
    s3_store.set(Faults())
    assert s3_store.caused["torn"]
    assert (bucket / "large").read_bytes() == data
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    assert not client.list_multipart_uploads(Bucket=bucket.path.partition("/")[0]).get("Uploads")


def test_a_small_file_is_one_request_and_leaves_no_upload_behind(bucket, s3_store, s3_endpoint):  # noqa: F811
    with s3_store.counting() as counts:
        (bucket / "small").write_bytes(b"x" * 100_000)
        (bucket / "small").read_bytes()
        assert (bucket / "small").is_file()
        assert not (bucket / "other").is_file()
        (bucket / "small").delete()
    assert counts == {"PUT": 1, "GET": 1, "HEAD": 2, "DELETE": 1}
    s3_store.set(Faults(torn=1.0))
    with pytest.raises(StoreError):
        (bucket / "torn").write_bytes(b"x" * 100_000)
    s3_store.set(Faults())
    assert not (bucket / "torn").is_file()
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    assert not client.list_multipart_uploads(Bucket=bucket.path.partition("/")[0]).get("Uploads")


def test_of_two_that_create_one_does_though_answers_are_lost(bucket, s3_store):  # noqa: F811
    """An object whose creation was not answered belongs to who wrote its bytes."""
    s3_store.set(Faults(lost=0.5, slow_down=0.2, seed=1))
    for n in range(4):
        place = bucket / str(n)
        created = [create(place, name.encode()) for name in ("one", "two", "three")]
        assert created.count(True) == 1
        assert place.read_bytes() == (b"one" if created[0] else b"two")
    assert s3_store.caused["lost"]


def test_a_store_that_never_answers_stops_the_run_and_fails_nothing(bucket, s3_store, monkeypatch):  # noqa: F811
    (bucket / "file").write_bytes(b"x")
    monkeypatch.setattr(objects, "_RETRY", {"max_retries": 1})
    objects._opened.cache_clear()
    s3_store.set(Faults(slow_down=1.0))
    try:
        for what in ((bucket / "file").read_bytes, (bucket / "file").is_file, lambda: (bucket / "file").put(b"y")):
            with pytest.raises(StoreError) as caught:
                what()
            stop = fatal(caught.value)
            assert isinstance(stop, Stopped)
            assert str(stop).startswith(f"{bucket}/file: ")
            assert "503" in str(stop)
            assert str(stop).endswith("what was committed is kept, run the job again once the store answers")
            assert "\n" not in str(stop)
    finally:
        objects._opened.cache_clear()


def test_what_a_store_refuses_is_not_asked_again(bucket, s3_store):  # noqa: F811
    s3_store.set(Faults(refused=1.0))
    with s3_store.counting() as counts:
        for write in (lambda place: place.put(b"x"), lambda place: create(place, b"x")):
            with pytest.raises(PermissionError) as caught:
                write(bucket / "file")
            assert isinstance(fatal(caught.value), Stopped)
            assert "400" in str(fatal(caught.value))
    assert counts["PUT"] == 2


# ---- the lock ----


def test_of_two_drivers_one_holds_and_the_other_is_refused(bucket, s3_store):  # noqa: F811
    s3_store.set(ROUGH)
    for _ in range(3):
        with OutputLock(bucket) as held:
            with pytest.raises(LockedError, match="is in use by"), OutputLock(bucket):
                pass
            held.check()
    s3_store.set(Faults())
    assert StoreTurns(bucket).newest().number == 3


def test_many_at_once_on_a_rough_store_hold_it_one_after_the_other(bucket, s3_store, monkeypatch):  # noqa: F811
    s3_store.set(Faults(latency=0.03, slow_down=0.1, lost=0.1, stale=1.0, seed=7))
    monkeypatch.setattr(turns_module._StoreFence, "LOOK_EVERY", -1.0)
    inside, most, errors = [0], [0], []

    def hold() -> None:
        give_up = time.monotonic() + 240
        while time.monotonic() < give_up:
            try:
                with OutputLock(bucket):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0.05)
                    inside[0] -= 1
                    return
            except LockedError:
                time.sleep(0.1)
        errors.append("never")

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert most == [1]


@pytest.mark.parametrize("fault", [Faults(latency=0.05, slow_down=0.2, seed=2), Faults(stale=600.0, seed=2)])
def test_a_second_committer_is_fenced_off(bucket, s3_store, monkeypatch, fault):  # noqa: F811
    """The first is asleep while another takes over, and wakes between asking and sending."""
    monkeypatch.setattr(lock_module, "DEAD_AFTER", 1.0)
    monkeypatch.setattr(lock_module, "LOOK_EVERY", 0.05)
    s3_store.set(fault)
    turns = StoreTurns(bucket)
    asleep = Turn(1, is_open=True, holder=Holder(machine="another boot"), seal=1)
    assert turns.begin(asleep)
    fence = turns.fence(asleep)
    FENCES[bucket] = fence
    PartStore(bucket).commit("early", table(1))
    del FENCES[bucket]
    with OutputLock(bucket):
        store = PartStore(bucket)
        before = store.parts()
        assert before in (["early"], [])  # where the listing lags behind, it is made again
        store.commit("mine", table(2))
        mine = FENCES[bucket]
        FENCES[bucket] = fence
        monkeypatch.setattr(type(fence), "check", lambda self: None)  # it has asked before it slept
        PartStore(bucket).commit("late", table(3))
        monkeypatch.undo()
        with pytest.raises(Stopped, match="taken over"):
            fence.check_now()
        FENCES[bucket] = mine
        assert PartStore(bucket).parts() == sorted([*before, "mine"])
    s3_store.set(Faults())
    s3_store._stale.clear()
    assert PartStore(bucket).parts() == sorted([*before, "mine"])
    with OutputLock(bucket):
        PartStore(bucket).remove_uncommitted()
        assert PartStore(bucket).rows(SCHEMA)["n"].to_pylist() == [*([1] if before else []), 2]


# ---- listings that lag behind ----


def test_a_turn_that_no_listing_shows_yet_is_found(bucket, s3_store):  # noqa: F811
    with OutputLock(bucket):
        pass
    s3_store.set(Faults(stale=600.0))
    for number in range(2, 14):
        with OutputLock(bucket) as held:
            assert held._turn.number == number
            held.check()


def test_what_a_run_wrote_it_sees_at_once(bucket, s3_store):  # noqa: F811
    s3_store.set(Faults(stale=600.0))
    with OutputLock(bucket):
        store = PartStore(bucket)
        assert store.parts() == []
        for n in range(3):
            store.commit(str(n), table(n))
            assert PartStore(bucket).parts() == [str(m) for m in range(n + 1)]
        store.drop("1")
        assert PartStore(bucket).rows(SCHEMA)["n"].to_pylist() == [0, 2]
        assert PartStore(bucket).remove_uncommitted() == []
        assert PartStore(bucket).rows(SCHEMA)["n"].to_pylist() == [0, 2]


def test_a_part_that_is_gone_and_still_listed_is_passed_over(bucket, s3_store):  # noqa: F811
    with OutputLock(bucket):
        for n in range(3):
            PartStore(bucket).commit(str(n), table(n))
    s3_store.set(Faults(stale=600.0))
    with OutputLock(bucket):
        PartStore(bucket).drop("1")
    with OutputLock(bucket):
        assert PartStore(bucket).rows(SCHEMA)["n"].to_pylist() == [0, 2]
    assert PartStore(bucket).rows(SCHEMA)["n"].to_pylist() == [0, 2]


def test_a_payload_whose_part_no_listing_shows_yet_is_kept(bucket, s3_store):  # noqa: F811
    s3_store.set(Faults(stale=600.0))
    with OutputLock(bucket):
        store = PartStore(bucket)
        store.data("a", "tar").write_bytes(b"a")
        store.commit("a", table(1))
        store.data("b", "tar").write_bytes(b"b")
    s3_store._stale = {path: listed for path, listed in s3_store._stale.items() if path.endswith(".parquet")}
    with OutputLock(bucket):
        store = PartStore(bucket)
        assert store.remove_uncommitted() == ["b.tar"]
        assert store.parts() == ["a"]
        assert store.rows(SCHEMA)["n"].to_pylist() == [1]
    assert store.data("a", "tar").read_bytes() == b"a"


# ---- files that are read here and there ----


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(-1, 200), st.booleans()), max_size=8))
def test_an_object_is_read_as_a_file(bucket, monkeypatch, reads):
    monkeypatch.setattr(objects.ObjectFile, "AHEAD", 64)
    data = bytes(range(250)) + b"0123456789" * 5
    place = bucket / "file"
    if not place.is_file():
        place.write_bytes(data)
    plain = io.BytesIO(data)
    with place.open() as stream:
        assert stream.size() == len(data)
        for offset, length, goes_on in reads:
            if not goes_on:
                plain.seek(offset)
                stream.seek(offset)
            expected = plain.read(length)
            assert (stream.read() if length < 0 else stream.read(length)) == expected
            assert stream.tell() == plain.tell()
        assert stream.read_at(5, 3) == data[3:8]


def test_few_bytes_are_read_though_the_store_throttles(bucket, s3_store):  # noqa: F811
    (bucket / "file").write_bytes(b"0123456789" * 100)
    s3_store.set(Faults(slow_down=0.5, seed=4))
    with (bucket / "file").open() as stream:
        for n in range(5):
            assert stream.read_at(3, 10 * n) == b"012"
    s3_store.set(Faults())
    with s3_store.counting() as counts, (bucket / "file").open() as stream:
        while stream.read(7):
            pass
    assert counts == {"HEAD": 1, "GET": 1}


def test_threads_read_a_file_of_a_bank_at_once(bucket, s3_store, monkeypatch):  # noqa: F811
    place, size = bucket / "part.tar", 3 << 20
    place.write_bytes(bytes(size))
    files = OpenFiles()
    files.read(place, 0, 10, size)
    answer, lock, asked, met = s3_store._app, threading.Lock(), [0], threading.Event()

    def once_four_are_there(environ, start_response):
        with lock:
            asked[0] += 1
            if asked[0] == 4:
                met.set()
        met.wait(NEVER)
        return answer(environ, start_response)

    monkeypatch.setattr(s3_store, "_app", once_four_are_there)
    with ThreadPoolExecutor(8) as pool:
        for read in pool.map(lambda n: files.read(place, n * (300 << 10), 5, size), range(8)):
            assert met.is_set()
            assert bytes(read) == bytes(5)


def test_a_picture_that_is_not_answered_is_no_reject(bucket, s3_store, monkeypatch):  # noqa: F811
    """Shards and data sets: what can't be reached is not what can't be read."""
    (bucket / "a.png").write_bytes(b"x")
    monkeypatch.setattr(objects, "_RETRY", {"max_retries": 0})
    objects._opened.cache_clear()
    s3_store.set(Faults(slow_down=1.0))
    try:
        with pytest.raises(Stopped, match="run the job again once the store answers"):
            read_file(bucket / "a.png")
    finally:
        objects._opened.cache_clear()
