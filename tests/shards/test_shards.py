from __future__ import annotations

import errno
import io
import itertools
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.picture_bytes import grey_profile
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures

from diffstyle.images import prepare
from pipeline.shards.decode import preparation
from pipeline.shards.rows import INDEX_SCHEMA, read_png
from pipeline.shards.store import ShardError, ShardStore, open_shards
from pipeline.shards.verify import check_shards
from pipeline.shards.write import write_block
from pipeline.sources import SourceError, open_source
from pipeline.sources.base import Block, Item, RawPicture
from pipeline.stages.shard import shard_stage
from pipeline.storage.errors import Stopped
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.stored_description import DescriptionError
from pipeline.workers.local import LocalPool

SIZE = 16
SHARED = Path(__file__).parents[3] / "shared" / "images"


def picture(seed: int, width: int = 24, height: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(seed: int) -> np.ndarray:
    return np.asarray(prepare(picture(seed), SIZE))


def save(folder: Path, **seeds: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in seeds.items():
        picture(seed).save(folder / f"{name}.png")


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    save(folder, **{f"p{n:02d}": n for n in range(10)})
    return folder


@pytest.fixture
def out(tmp_path) -> Place:
    return Place.parse(tmp_path / "shards")


def stage(photos: Path | str, out: Place, pool: LocalPool | None = None, size: int = SIZE, **options):
    return shard_stage(pool or LocalPool(), open_source(str(photos)), out, size, **{"block_size": 3, **options})


class LastFirst(LocalPool):
    """Hands over the outcomes of many units in an order of its own."""

    def run(self, units):
        yield from reversed(list(super().run(units)))


def contents(out: Place) -> dict[str, bytes]:
    """Every file of the store, byte by byte."""
    return {entry.place.relative_to(out): entry.place.read_bytes() for entry in out.list(recursive=True)}


# ---- what is written ----
def test_each_picture_becomes_a_row_and_can_be_read_back(photos, out):
    save(photos / "dogs", rex=20)
    (photos / "dogs" / "rex.json").write_text('{"breed": "pug", "caption": "a dog"}')
    summary = stage(photos, out)
    assert (summary.done, summary.rejected) == (11, 0)
    store = open_shards(out)
    rows = store.rows().to_pylist()
    assert store.rows().schema.equals(INDEX_SCHEMA)
    assert [Path(row["source"]).name for row in rows] == [*(f"p{n:02d}.png" for n in range(10)), "rex.png"]
    assert [(row["width"], row["height"]) for row in rows] == [(24, 20)] * 11
    last = rows[-1]
    assert (last["label"], last["caption"], json.loads(last["meta"])) == ("dogs", "a dog", {"breed": "pug"})
    assert last["key"] == f"rex-{last['image'][:12]}"
    np.testing.assert_array_equal(store.read(last), pixels(20))
    backwards = [rows[n] for n in (10, 0, 9, 3, 3)]
    np.testing.assert_array_equal(store.read_many(backwards), np.stack([pixels(n) for n in (20, 0, 9, 3, 3)]))
    assert store.read_many([]).shape == (0, SIZE, SIZE, 3)
    assert store.preparation == preparation(SIZE)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")
def test_real_photographs(out):
    summary = stage(SHARED, out, size=64)
    rows = open_shards(out).rows()
    assert summary.done == len(rows) == sum(path.suffix in (".png", ".jpg") for path in SHARED.rglob("*"))
    dog = next(row for row in rows.to_pylist() if "flickr_dog_000757" in row["source"])
    with Image.open(dog["source"]) as image:
        np.testing.assert_array_equal(open_shards(out).read(dog), np.asarray(prepare(image, 64)))


def test_plain_webdataset_reads_the_tars(photos, out):
    stage(photos, out)
    tars = sorted(str(path) for path in Path(out.path, "data").glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    rows = open_shards(out).rows().to_pylist()
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in rows]
    for n, (sample, row) in enumerate(zip(samples, rows, strict=True)):
        np.testing.assert_array_equal(sample["png"], pixels(n))
        assert sample["json"]["source"] == row["source"]
        assert sample["json"]["meta"] is None


def test_pandas_and_pyarrow_read_the_index_and_find_the_bytes(photos, out):
    (photos / "broken.png").write_bytes(b"junk")
    stage(photos, out)
    frame = pd.read_parquet(f"{out}/index")
    assert len(frame) == 10
    row = frame.sort_values("key").iloc[4]
    with Path(out.path, "data", f"{row['data']}.tar").open("rb") as stream:
        stream.seek(row["offset"])
        image = Image.open(io.BytesIO(stream.read(row["size"])))
        np.testing.assert_array_equal(np.asarray(image), pixels(4))
    assert pq.read_table(f"{out}/rejects").column("reason").to_pylist()[0].startswith("not an image")


def test_tars_are_the_same_bytes_anywhere_and_at_any_time(photos, tmp_path):
    one, other = Place.parse(tmp_path / "one"), Place.parse(tmp_path / "other")
    stage(photos, one)
    stage(photos, other, LastFirst())
    assert contents(one) == contents(other)
    with tarfile.open(str(one / "data" / f"{PartStore(one).parts()[0]}.tar")) as archive:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in archive} == {(0, 0, 0, "", 0o644)}


class Given:
    """A reader that has its pictures already."""

    def __init__(self, pictures):
        self.pictures = pictures

    def read(self, items):
        yield from self.pictures[: len(items)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.text(max_size=120), st.integers(0, 2), st.text(max_size=9)), min_size=1, max_size=5))
def test_any_names_and_texts_make_a_readable_tar(tmp_path_factory, given_pictures):
    root = Place.parse(tmp_path_factory.mktemp("store"))
    raw = []
    for n, (name, seed, text) in enumerate(given_pictures):
        stream = io.BytesIO()
        picture(seed).save(stream, "PNG")
        raw.append(RawPicture(f"s{n}", "1-1", name, stream.getvalue(), text, text, {"x": text}))
    block = Block(0, Given(raw), tuple(Item(r.source, r.source_version, r.name, None) for r in raw))
    rows, rejects = write_block(block, root, preparation(SIZE))
    assert (len(rows), len(rejects)) == (len(raw), 0)
    data = (root / "data" / f"{block.name}.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    assert len(members) == 2 * len(set(rows.column("key").to_pylist()))
    for row, (_, seed, text) in zip(rows.to_pylist(), given_pictures, strict=True):
        assert json.loads(members[f"{row['key']}.json"])["image"] == row["image"]
        assert data[row["offset"] :][: row["size"]] == members[f"{row['key']}.png"]
        np.testing.assert_array_equal(read_png(members[f"{row['key']}.png"], row), pixels(seed))
        assert (row["label"], json.loads(row["meta"])) == (text, {"x": text})


def test_the_same_picture_under_several_names_is_unique_once(photos, out):
    save(photos / "copies", p00=0, other=0)
    stage(photos, out)
    store = open_shards(out)
    assert len(store.rows()) == 12
    unique = store.unique()
    assert len(unique) == 10
    assert [row["image"] for row in unique] == list(dict.fromkeys(store.rows().column("image").to_pylist()))
    same = [row for row in store.rows().to_pylist() if row["image"] == unique[0]["image"]]
    assert len(same) == 3
    for row in same:
        np.testing.assert_array_equal(store.read(row), pixels(0))


def test_keys_whose_eight_digits_are_alike_stay_apart(photos, out, monkeypatch):
    from pipeline.shards import write

    monkeypatch.setattr(write, "picture_key", lambda name, image: "same-00000000")
    stage(photos, out, block_size=20)
    rows = open_shards(out).rows().to_pylist()
    assert len({row["key"] for row in rows}) == 10
    np.testing.assert_array_equal(open_shards(out).read(rows[7]), pixels(7))


# ---- rejects ----
def test_what_cannot_be_read_is_a_reject_with_its_reason(photos, out):
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.png").write_text("no picture")
    (photos / "cut.png").write_bytes((photos / "p01.png").read_bytes()[:300])
    (photos / "gone.png").symlink_to("nowhere")
    heard = []
    summary = stage(photos, out, on_done=lambda done, rejected, outcome: heard.append((done, rejected)))
    assert (summary.done, summary.rejected) == (10, 4)
    assert np.sum(heard, 0).tolist() == [10, 4]
    rejects = {Path(row["source"]).name: row["reason"] for row in open_shards(out).rejects().to_pylist()}
    assert set(rejects) == {"empty.jpg", "text.png", "cut.png", "gone.png"}
    assert "0 bytes" in rejects["empty.jpg"]
    assert "No such file" in rejects["gone.png"]


def test_retry_failed_redoes_the_rejects_and_nothing_else(photos, out):
    (photos / "p03.png").write_bytes(b"junk")
    (photos / "zz.png").write_bytes(b"junk")
    stage(photos, out)
    assert stage(photos, out).rejected == 0
    assert (stage(photos, out, retry_failed=True).done, len(open_shards(out).rejects())) == (0, 2)
    save(photos, p03=3)
    assert stage(photos, out).done == 1  # another file than the one that was rejected
    summary = stage(photos, out, retry_failed=True)
    assert (summary.done, summary.rejected) == (0, 1)
    store = open_shards(out)
    assert [Path(row["source"]).name for row in store.rejects().to_pylist()] == ["zz.png"]
    assert len(store.rows()) == 10


def test_a_reject_that_succeeds_later_is_one_no_more(photos, out):
    picture(51, 40, 40).save(photos / "large.png")
    stage(photos, out, pixel_limit=1000)
    assert len(open_shards(out).rejects()) == 1
    assert stage(photos, out).done == 0
    assert stage(photos, out, retry_failed=True).done == 1
    assert len(open_shards(out).rejects()) == 0
    assert stage(photos, out, retry_failed=True).done == 0


def test_a_reject_goes_when_the_data_set_does_not_list_it_any_more(photos, out, monkeypatch):
    """A folder that could not be read and can be now, and a picture that was deleted."""
    (photos / "inner").mkdir()
    picture(52, 40, 40).save(photos / "inner" / "x.png")
    for name in ("deleted.png", "stays.png"):
        (photos / name).write_bytes(b"junk")

    def closed(path, scandir=os.scandir):
        if str(path) == str(photos / "inner"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", closed)
        stage(photos, out)
        stage(photos, out)
    rejects = {Path(row["source"]).name for row in open_shards(out).rejects().to_pylist()}
    assert rejects == {"inner", "deleted.png", "stays.png"}
    (photos / "deleted.png").unlink()
    assert stage(photos, out).done == 1
    store = open_shards(out)
    assert [Path(row["source"]).name for row in store.rejects().to_pylist()] == ["stays.png"]
    assert len(store.rows()) == 11
    assert check_shards(Place.parse(out)).problems == []


def test_a_data_set_of_which_nothing_can_be_read_is_one_clear_line(tmp_path, out):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"junk")
    with pytest.raises(ShardError, match=r"none of the pictures could be read; the first: .*a.png: not an image.*"):
        stage(tmp_path / "photos", out)
    with pytest.raises(SourceError, match="no such file or folder"):
        stage(tmp_path / "none", out)


# ---- growing ----
def test_running_again_reads_only_what_is_new(photos, out):
    stage(photos, out)
    before = contents(out)
    assert stage(photos, out).done == 0
    assert contents(out) == before
    save(photos, p000=100, q=101)
    assert stage(photos, out).done == 2
    after = contents(out)
    assert {name: after[name] for name in before} == before
    assert len(open_shards(out).unique()) == 12


def test_a_changed_file_takes_the_place_of_its_old_version(photos, out):
    stage(photos, out)
    first = {row["source"]: row["image"] for row in open_shards(out).unique()}
    picture(200, 25, 20).save(photos / "p04.png")
    (photos / "p05.png").touch()
    assert stage(photos, out).done == 2
    store = open_shards(out)
    assert len(store.rows()) == 12
    unique = store.unique()
    assert {row["source"] for row in unique} == set(first)
    assert len(unique) == 10
    assert [Path(row["source"]).name for row in unique if row["image"] != first[row["source"]]] == ["p04.png"]
    assert stage(photos, out).done == 0


def test_another_size_is_refused_by_name(photos, out):
    stage(photos, out)
    with pytest.raises(DescriptionError, match=r"preparation.size is 16 there, 32 asked"):
        stage(photos, out, size=32)


# ---- kills and failures ----
class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", range(0, 5))
@pytest.mark.parametrize("where", ["payload", "rejects", "index"])
def test_killed_anywhere_and_resumed_it_is_the_same(photos, tmp_path, monkeypatch, after, where):
    (photos / "p01b.png").write_bytes(b"junk")
    (photos / "p08b.png").write_bytes(b"junk")
    undisturbed, out = Place.parse(tmp_path / "one"), Place.parse(tmp_path / "other")
    stage(photos, undisturbed)
    count = 0
    writer = Place.writer

    def dying(place):
        nonlocal count
        if place.parent.name == {"payload": "data"}.get(where, where):
            count += 1
            if count > after:
                raise Killed
        return writer(place)

    monkeypatch.setattr(Place, "writer", dying)
    try:
        stage(photos, out)
        died = False
    except Killed:
        died = True
    monkeypatch.setattr(Place, "writer", writer)
    assert died == (after < (2 if where == "rejects" else 4))
    stage(photos, out)
    assert contents(out) == contents(undisturbed)


def test_blocks_may_finish_in_any_order_and_die_in_between(photos, tmp_path):
    undisturbed, out = Place.parse(tmp_path / "one"), Place.parse(tmp_path / "other")
    save(photos, copy_of_first=0, a_copy=0)
    stage(photos, undisturbed)

    class LastFirstThenDeath(LastFirst):
        def run(self, units):
            yield from itertools.islice(super().run(units), 2)
            raise Killed

    with pytest.raises(Killed):
        stage(photos, out, LastFirstThenDeath())
    assert 0 < len(open_shards(out).rows()) < 12
    stage(photos, out)
    assert contents(out) == contents(undisturbed)


def test_readers_see_committed_parts_only(photos, out):
    seen = []
    stage(photos, out, on_done=lambda done, rejected, outcome: seen.append(len(open_shards(out).rows())))
    assert seen == [3, 6, 9, 10]


def test_the_picture_that_brings_workers_down_is_found_and_named(photos, out, monkeypatch):
    def deadly(block, *rest, **options):
        if any("p05" in item.source for item in block.items):
            raise MemoryError("out of memory")
        return write_block(block, *rest, **options)

    monkeypatch.setattr("pipeline.stages.shard.write_block", deadly)
    summary = stage(photos, out, block_size=10)
    assert (summary.done, summary.rejected) == (9, 1)
    (reject,) = open_shards(out).rejects().to_pylist()
    assert reject["source"].endswith("p05.png")
    assert reject["reason"] == "MemoryError: out of memory"


def test_a_full_disk_stops_with_one_clear_line_and_can_be_resumed(photos, tmp_path, out, monkeypatch):
    written = []

    def full(block, *rest, **options):
        written.append(block)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_block(block, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.shard.write_block", full)
        with pytest.raises(Stopped, match=r"No space left on device; what was committed is kept"):
            stage(photos, out)
    assert len(open_shards(out).rows()) == 6
    stage(photos, out)
    other = Place.parse(tmp_path / "other")
    stage(photos, other)
    assert contents(out) == contents(other)


# ---- reading what is wrong ----
def test_damage_is_found_and_the_mend_is_named(photos, out, tmp_path):
    stage(photos, out)
    store = open_shards(out)
    rows = store.rows().to_pylist()
    file = Path(out.path, "data", f"{rows[0]['data']}.tar")
    with pytest.raises(ShardError, match=r"is not the picture that the index says"):
        store.read({**rows[0], "offset": rows[1]["offset"], "size": rows[1]["size"]})
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(ShardError, match=rf"{rows[0]['data']}.tar: a picture can't be read.*delete"):
        store.read(rows[0])
    for part in ("index", "rejects", "data"):
        for path in Path(out.path, part).glob(f"{rows[0]['data']}.*"):
            path.unlink()
    assert stage(photos, out).done == 3
    np.testing.assert_array_equal(store.read(rows[0]), pixels(0))


def test_what_is_no_shard_store_is_one_clear_line(tmp_path):
    with pytest.raises(DescriptionError, match="is this the right folder"):
        open_shards(str(tmp_path))
    PartStore(Place.parse(tmp_path)).describe({"kind": "bank"}, {})
    with pytest.raises(ShardError, match="no folder of shards"):
        open_shards(str(tmp_path))


# ---- S3 ----
def test_from_s3_to_s3(s3_bucket, photos):  # noqa: F811
    source = Place.parse(s3_bucket) / "photos"
    for path in sorted(photos.iterdir()):
        (source / path.name).write_bytes(path.read_bytes())
    (source / "junk.png").write_bytes(b"junk")
    out = Place.parse(s3_bucket) / "out"
    (out / "data" / "999999-left.tar").write_bytes(b"of a killed run")
    summary = stage(str(source), out)
    assert (summary.done, summary.rejected) == (10, 1)
    store = ShardStore(str(out))
    assert not (out / "data" / "999999-left.tar").exists()
    np.testing.assert_array_equal(store.read_many(store.unique()), np.stack([pixels(n) for n in range(10)]))
    assert stage(str(source), out).done == 0
    (source / "junk.png").write_bytes((photos / "p00.png").read_bytes())
    assert stage(str(source), out, retry_failed=True).done == 1
    assert len(store.rejects()) == 0
    assert len(store.unique()) == 10


def test_what_was_ignored_in_a_file_is_noted_in_the_index(photos, out):
    icc_of_grey = grey_profile(1.0)
    picture(50).save(photos / "p05.png", icc_profile=icc_of_grey)
    stage(photos, out)
    notes = {row["source"]: row["notes"] for row in ShardStore(out).rows().to_pylist()}
    noted = {Path(source).name: note for source, note in notes.items() if note}
    assert list(noted) == ["p05.png"]
    assert "is for GRAY and not for RGB" in noted["p05.png"]
