"""Every kind of source as contents or styles of a job, and what it says of its pictures, up to the manifest."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.whole_jobs import STYLES, bank_index, manifest, paint, pictures, run_job, stem

from diffstyle.errors import ConfigError


@pytest.fixture
def photos(tmp_path) -> dict[str, bytes]:
    """Three pictures by name."""
    return {f"p{n}": paint(tmp_path / "photos" / f"p{n}.png", n).read_bytes() for n in range(3)}


def contents_of(folder: Path, source) -> pd.DataFrame:
    """Run a job with this content source and one style; the manifest's rows by the contents' names."""
    run_job(folder, content=source, style={"folder": str(STYLES), "limit": 1})
    rows = manifest(folder / "out")
    assert set(rows["status"]) == {"ok"}
    rows = rows.astype(object).where(rows.notna(), None)
    index = bank_index(folder / "out" / "banks" / "content").set_index("image")
    index = index.astype(object).where(index.notna(), None)
    for row in rows.itertuples():  # what the bank says of a picture is what the manifest says of it
        for name in ("key", "source", "source_hash", "label", "caption", "meta"):
            assert getattr(row, f"content_{name}") == index.loc[row.content_image, name], name
    return rows.assign(name=rows["content_key"].map(stem)).set_index("name").sort_index()


def test_a_folder_with_classes_and_side_cars(tmp_path, photos):
    for n, (name, data) in enumerate(photos.items()):
        file = tmp_path / "set" / ("dogs" if n else "cats") / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (tmp_path / "set" / "cats" / "p0.txt").write_text("a cat on a mat")
    (tmp_path / "set" / "dogs" / "p1.json").write_text('{"caption": "a dog", "breed": "pug", "age": 3}')
    rows = contents_of(tmp_path, str(tmp_path / "set"))
    assert rows["content_label"].to_dict() == {"p0": "cats", "p1": "dogs", "p2": "dogs"}
    assert rows["content_caption"].fillna("").to_dict() == {"p0": "a cat on a mat", "p1": "a dog", "p2": ""}
    assert json.loads(rows.loc["p1", "content_meta"]) == {"age": 3, "breed": "pug"}
    assert rows.loc["p0", "content_source"] == str(tmp_path / "set" / "cats" / "p0.png")


def test_webdataset_tars(tmp_path, photos):
    for number, names in enumerate((["p0", "p1"], ["p2"])):
        with tarfile.open(tmp_path / f"set-{number:03}.tar", "w") as tar:
            for name in names:
                for suffix, data in (("png", photos[name]), ("txt", f"this is {name}".encode()), ("cls", b"7")):
                    info = tarfile.TarInfo(f"{name}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    rows = contents_of(tmp_path, {"webdataset": str(tmp_path / "set-{000..001}.tar")})
    assert rows["content_caption"].to_dict() == {name: f"this is {name}" for name in photos}
    assert rows.loc["p2", "content_source"] == f"{tmp_path}/set-001.tar#p2.png"


def test_parquet_as_hugging_face_writes_it(tmp_path, photos):
    frame = pd.DataFrame(
        {
            "image": [{"bytes": data, "path": f"{name}.png"} for name, data in photos.items()],
            "label": ["x", "y", "z"],
            "text": ["one", None, "three"],
            "score": [0.5, 1.5, float("nan")],
        }
    )
    frame.to_parquet(tmp_path / "set.parquet")
    rows = contents_of(tmp_path, str(tmp_path / "set.parquet"))
    assert rows["content_label"].to_dict() == {"p0": "x", "p1": "y", "p2": "z"}
    assert rows.loc["p0", "content_caption"] == "one"
    assert json.loads(rows.loc["p1", "content_meta"])["score"] == 1.5


def test_a_list_of_paths(tmp_path, photos):
    (tmp_path / "list.csv").write_text("path,kind,title\nphotos/p2.png,k2,t2\nphotos/p0.png,k0,t0\n")
    source = {"list": str(tmp_path / "list.csv"), "label_column": "kind", "caption_column": "title"}
    rows = contents_of(tmp_path, source)
    assert rows["content_label"].to_dict() == {"p0": "k0", "p2": "k2"}
    assert rows["content_caption"].to_dict() == {"p0": "t0", "p2": "t2"}


def test_an_lmdb(tmp_path, photos):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "set"), map_size=1 << 20) as database, database.begin(write=True) as transaction:
        for name, data in photos.items():
            transaction.put(name.encode(), data)
    rows = contents_of(tmp_path, {"lmdb": str(tmp_path / "set")})
    assert len(rows) == 3
    assert sorted(source.rpartition("#")[2] for source in rows["content_source"]) == ["p0", "p1", "p2"]


def test_the_limit_takes_the_first(tmp_path, photos):
    rows = contents_of(tmp_path, {"folder": str(tmp_path / "photos"), "limit": 2})
    assert list(rows.index) == ["p0", "p1"]


def test_samples_as_contents_and_as_styles(tmp_path):
    """The model's own pictures: x_T is known, h is collected on the way down, and more can be drawn later."""
    run_job(tmp_path, content={"sample": 2}, style={"sample": 2, "seed": 5})
    rows = manifest(tmp_path / "out")
    assert set(rows["content_source"]) == {"sample:0#000000", "sample:0#000001"}
    assert set(rows["style_source"]) == {"sample:5#000000", "sample:5#000001"}
    assert not (tmp_path / "out" / "shards").exists()
    before = bank_index(tmp_path / "out" / "banks" / "content")
    run = run_job(tmp_path, content={"sample": 3}, style={"sample": 2, "seed": 5})
    assert (run.counts.inverted, run.counts.pairs_made, run.counts.pairs_there) == (1, 2, 4)
    after = bank_index(tmp_path / "out" / "banks" / "content")
    pd.testing.assert_frame_equal(after[after["key"].isin(before["key"])].reset_index(drop=True), before)


def test_a_sample_injected_into_itself_keeps_it(tmp_path):
    """Content and style the same sample: with gamma 0 the walk is the sampling that made it."""
    run_job(tmp_path, "injection.gamma=0", "injection.plan.grid=6", content={"sample": 2}, style={"sample": 2})
    rows = manifest(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "banks").iterdir()) == ["both"]
    for row in rows.itertuples():
        # A sample's image is the hash of its pixels.
        from PIL import Image

        from pipeline.storage.identity import image_hash

        with Image.open(tmp_path / "out" / row.picture) as image:
            assert image_hash(np.asarray(image)) == row.style_image


def test_banks_as_contents_and_styles(tmp_path):
    run_job(tmp_path / "made")
    made = pictures(tmp_path / "made" / "out")
    banks = {side: {"bank": str(tmp_path / "made" / "out" / "banks" / side)} for side in ("content", "style")}
    run = run_job(tmp_path / "used", **banks)
    assert run.counts.inverted == run.counts.prepared == 0
    used = pictures(tmp_path / "used" / "out")
    assert used.keys() == made.keys()
    for name, pixels in made.items():
        np.testing.assert_array_equal(used[name], pixels)
    columns = ["pair", "picture_hash"]
    pd.testing.assert_frame_equal(
        manifest(tmp_path / "used" / "out")[columns], manifest(tmp_path / "made" / "out")[columns]
    )


def test_the_same_source_on_both_sides_is_prepared_and_inverted_once(tmp_path, photos):
    source = str(tmp_path / "photos")
    run = run_job(tmp_path, content=source, style=source)
    assert (run.counts.prepared, run.counts.inverted, run.counts.pairs_made) == (3, 3, 9)
    assert [path.name for path in (tmp_path / "out" / "banks").iterdir()] == ["both"]
    description = json.loads((tmp_path / "out" / "banks" / "both" / "description.json").read_text())
    assert description["identity"]["tensors"].keys() == {"h", "x_t"}


def test_roles_keep_no_more_than_they_need(tmp_path):
    run_job(tmp_path, stages=("shard", "precompute"))
    for side, kept, left_out in (("content", "h", "x_t"), ("style", "x_t", "h")):
        payload = pd.read_parquet(tmp_path / "out" / "banks" / side / "data")
        assert kept in payload.columns
        assert left_out not in payload.columns or payload[left_out].isna().all()


def test_copies_are_inverted_once_and_paired_once(tmp_path, photos):
    shutil.copy(tmp_path / "photos" / "p1.png", tmp_path / "photos" / "copy.png")
    (tmp_path / "photos" / "copy.txt").write_text("the copy's caption")
    run = run_job(tmp_path, content=str(tmp_path / "photos"), style={"folder": str(STYLES), "limit": 2})
    assert (run.counts.prepared, run.counts.inverted, run.counts.pairs_made) == (4 + 2, 3 + 2, 6)
    line = "1 picture has the same pixels as another of its data set; such pictures count once"
    assert line in str(run).splitlines()
    index = bank_index(tmp_path / "out" / "banks" / "content")
    assert [stem(key) for key in index["key"]] == ["copy", "p0", "p1", "p2"]
    assert index["image"].nunique() == 3
    assert manifest(tmp_path / "out")["pair"].nunique() == 6


def test_zip_follows_the_data_sets_and_skips_what_cannot_be_read(tmp_path, photos):
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    styles = [paint(tmp_path / "styles" / f"s{n}.png", 10 + n) for n in range(4)]
    order = ["p2", "broken", "p0", "p1"]
    (tmp_path / "contents.csv").write_text("path\n" + "".join(f"photos/{name}.png\n" for name in order))
    (tmp_path / "styles.csv").write_text("path\n" + "".join(f"{style}\n" for style in reversed(styles)))
    run = run_job(tmp_path, "pairs=zip", content=str(tmp_path / "contents.csv"), style=str(tmp_path / "styles.csv"))
    assert (run.counts.rejected, len(run.counts.lost), run.counts.failed) == (1, 1, 2)  # a picture, and its pair
    assert set(pictures(tmp_path / "out")) == {("p2", "s3"), ("p0", "s1"), ("p1", "s0")}


@pytest.mark.parametrize("damage", ["cut", "junk"])
def test_zip_refuses_a_tar_of_which_nobody_knows_how_many_pictures_it_holds(tmp_path, photos, damage):
    """With a limit on both sides the counts agree, and every pair behind the break would be a wrong one."""
    for n, number in enumerate((1, 2)):
        with tarfile.open(tmp_path / f"set-{number}.tar", "w") as tar:
            tar.add(tmp_path / "photos" / f"p{n}.png", "p.png")
    whole = (tmp_path / "set-1.tar").read_bytes()
    (tmp_path / "set-1.tar").write_bytes(whole[:1024] if damage == "cut" else b"junk" * 300)
    source = {"webdataset": str(tmp_path / "set-{1..2}.tar"), "limit": 2}
    with pytest.raises(ConfigError, match=r"content: .*set-1.tar can't be read to its end.*pairs: zip"):
        run_job(tmp_path, "pairs=zip", content=source, style={"folder": str(STYLES), "limit": 2})


def test_pictures_that_come_and_go(tmp_path, photos):
    """A new picture costs its own work; one that left its folder stays in the bank and is paired no more."""
    source = str(tmp_path / "photos")
    run_job(tmp_path, content=source)
    paint(tmp_path / "photos" / "p9.png", 9)
    (tmp_path / "photos" / "p0.png").unlink()
    run = run_job(tmp_path, "injection.gamma=0.3", content=source)
    assert (run.counts.prepared, run.counts.inverted) == (1, 1)
    rows = manifest(tmp_path / "out")
    assert {stem(key) for key in rows[rows["gamma"] == 0.3]["content_key"]} == {"p1", "p2", "p9"}
    assert {stem(key) for key in rows[rows["gamma"] == 0.6]["content_key"]} == {"p0", "p1", "p2"}
