"""A job from its folders to its results, on real workers; and what it writes, read without this project."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image
from support.whole_jobs import CONTENTS, STYLES, manifest, run_job

from pipeline.workers.ray_workers import RayWorkers

KINDS = [
    {"bank": {"format": "parquet"}, "pictures": {"to": "folder", "format": "png"}},
    {"bank": {"format": "webdataset"}, "pictures": {"to": "webdataset", "format": "jpeg"}},
]


@pytest.fixture(scope="module", params=KINDS, ids=["parquet-folder-png", "tars-tars-jpeg"])
def out(request, ray_session, tmp_path_factory) -> Path:
    """The output of a job of two contents and two styles."""
    folder = tmp_path_factory.mktemp("run")
    run = run_job(folder, workers=RayWorkers(), **request.param)
    assert (run.counts.prepared, run.counts.inverted, run.counts.pairs_made, run.counts.failed) == (4, 4, 4, 0)
    return folder / "out"


@pytest.fixture(scope="module")
def description(out) -> dict:
    return json.loads((out / "banks" / "content" / "description.json").read_text())


def test_the_layout(out):
    assert sorted(path.name for path in out.iterdir() if path.name not in ("events", "plan.json")) == [
        ".lock",
        "banks",
        "contact-sheets",
        "job.yaml",
        "manifest",
        "output.json",
        "pictures",
        "shards",
    ]


def test_the_manifest_has_a_row_for_each_pair(out):
    frame = pd.read_parquet(out / "manifest")
    table = pq.read_table(out / "manifest")
    assert table.num_rows == len(frame) == ds.dataset(out / "manifest").count_rows() == 4
    assert frame["pair"].nunique() == 4
    assert set(frame["status"]) == {"ok"}
    assert frame["error"].isna().all()
    for name in ("model_fingerprint", "settings", "gamma", "t_edit", "t_boost", "events", "dt_lambda", "dt_end"):
        assert frame[name].nunique() == 1, name
    for name in ("omega", "plan", "inversion", "precision", "model", "algorithm", "network_calls"):
        assert frame[name].nunique() == 1, name
    assert (frame["seconds"] > 0).all()
    assert (frame[["width", "height"]] == 32).all(axis=None)
    assert set(frame["content_source"]) == {str(path) for path in sorted(CONTENTS.iterdir())[:2]}
    assert set(frame["style_source"]) == {str(path) for path in sorted(STYLES.iterdir())[:2]}


def test_pictures_are_where_the_manifest_says(out):
    tars = {path: dict(members(path)) for path in (out / "pictures").glob("*.tar")}
    for row in pd.read_parquet(out / "manifest").itertuples():
        path, _, member = row.picture.partition("#")
        data = tars[out / path][member] if member else (out / path).read_bytes()
        assert len(data) == row.picture_bytes
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format.lower(), image.size) == (row.format, (32, 32))


def members(path: Path):
    """(name, bytes) of the pictures in a tar, by webdataset."""
    for sample in wds.WebDataset(str(path), shardshuffle=False):
        for suffix in ("png", "jpg", "webp"):
            if suffix in sample:
                yield f"{sample['__key__']}.{suffix}", sample[suffix]
                assert json.loads(sample["json"])["status"] == "ok"


def test_the_banks_tensors(out, description):
    what = description["identity"]
    spec = what["tensors"]["h"]
    index = pd.read_parquet(out / "banks" / "content" / "index")
    assert set(index["status"].dropna()) <= {"ok"}
    assert spec["timesteps"] == sorted(spec["timesteps"])
    found = {}
    if what["format"] == "parquet":
        for row in pd.read_parquet(out / "banks" / "content" / "data").itertuples():
            found[row.image] = np.frombuffer(row.h, row.h_dtype).reshape(row.h_shape)
            assert list(row.h_timesteps) == spec["timesteps"]
    else:
        for tar in (out / "banks" / "content" / "data").glob("*.tar"):
            for sample in wds.WebDataset(str(tar), shardshuffle=False):
                found[sample["__key__"]] = np.load(io.BytesIO(sample["h.npy"]))
    assert set(found) == set(index["image"])
    for h in found.values():
        assert h.shape == (len(spec["timesteps"]), *spec["shape"])
        assert h.dtype == np.float32
        assert np.isfinite(h).all()


def test_what_the_bank_says_of_itself(description):
    what = description["identity"]
    assert len(what["model_fingerprint"]) == 32
    assert list(what["tensors"]) == ["h"]
    assert (what["image_size"], what["tensors"]["h"]["dtype"], what["inversion"]["steps"]) == (32, "float32", 6)
    assert what["preprocessing"]["crop"] == "centre"
    assert {"torch", "numpy", "diffstyle"} <= set(description["about"])


def test_shards_are_webdatasets(out):
    index = pd.read_parquet(out / "shards" / "content" / "index")
    tars = sorted(str(path) for path in (out / "shards" / "content" / "data").glob("*.tar"))
    samples = list(wds.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    assert {sample["__key__"] for sample in samples} == set(index["key"])
    for sample in samples:
        assert sample["png"].shape == (32, 32, 3)


def test_stages_one_by_one_in_this_process_equal_the_run_on_ray_and_running_again_makes_nothing(out, tmp_path):
    if "#" in manifest(out)["picture"][0]:
        pytest.skip("once is enough")
    run_job(tmp_path, stages=("shard",))
    assert not (tmp_path / "out" / "banks").exists()
    run_job(tmp_path, stages=("precompute",))
    assert not (tmp_path / "out" / "manifest").exists()
    run_job(tmp_path, stages=("inject",))
    first = manifest(tmp_path / "out")
    columns = ["pair", "picture", "picture_hash"]
    pd.testing.assert_frame_equal(first[columns], manifest(out)[columns])
    again = run_job(tmp_path)
    assert (again.counts.prepared, again.counts.inverted, again.counts.pairs_made, again.counts.pairs_there) == (
        0,
        0,
        0,
        4,
    )
    pd.testing.assert_frame_equal(manifest(tmp_path / "out"), first)
