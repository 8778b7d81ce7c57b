from __future__ import annotations

import gc
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from support.whole_jobs import manifest, run_job

from diffstyle.networks.unet import UNet
from pipeline.cli.main import main
from pipeline.measures import features
from pipeline.measures.denoiser import denoiser_features
from pipeline.measures.features import cosine, gram_distance, position
from pipeline.measures.pixels import clipped, contrast, dark, difference_hash
from pipeline.results.manifest import MANIFEST_SCHEMA
from pipeline.results.scores import SCORES
from pipeline.results.select.choose import Rules, choose
from pipeline.shards.store import open_shards
from pipeline.storage.identity import digest
from pipeline.storage.place import Place
from pipeline.storage.tables import write_table

STAGES = ("shard", "precompute", "inject", "score")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four pairs at two gammas, scored."""
    folder = tmp_path_factory.mktemp("score")
    run_job(folder, stages=STAGES, injection={"gamma": [0, 1]})
    return folder / "out"


def scores(out) -> pd.DataFrame:
    """The scores as anybody would read them, with the manifest's gamma and keys."""
    table = pd.read_parquet(out / "scores")
    return table.merge(manifest(out)[["pair", "gamma", "content_key", "style_key", "picture"]], on="pair")


def test_a_row_for_each_pair_and_nothing_missing(made):
    table = scores(made)
    assert sorted(table["pair"]) == sorted(manifest(made)["pair"])
    assert not table["pair"].duplicated().any()
    assert table[[name for name in SCORES if name != "style_returns"]].notna().all().all()
    assert table["error"].isna().all()
    assert (table["phash"].map(len) == 8).all()


def test_the_ends_of_the_scales(made, tmp_path):
    """A result that is the style itself, and one that is the content itself."""
    out = tmp_path / "out"
    shutil.copytree(made, out)
    shutil.rmtree(out / "scores")
    rows = manifest(out)
    stores = {side: open_shards(out / "shards" / side) for side in ("content", "style")}
    sources = {row["image"]: row for store in stores.values() for row in store.unique()}

    written = {}
    for n, side in enumerate(("style", "content")):
        pixels = stores[side].read(sources[rows[f"{side}_image"][n]])
        Image.fromarray(pixels).save(out / rows["picture"][n])
        written[rows["pair"][n]] = digest((out / rows["picture"][n]).read_bytes())
    for part in (out / "manifest").iterdir():  # as if the run had made these
        table = pq.read_table(part).to_pylist()
        for row in table:
            row["picture_hash"] = written.get(row["pair"], row["picture_hash"])
        with part.open("wb") as stream:
            write_table(stream, pa.Table.from_pylist(table, MANIFEST_SCHEMA))
    assert CliRunner().invoke(main, ["score", str(out), "--local", "--quiet"]).exit_code == 0
    style, content = (scores(out).set_index("picture").loc[rows["picture"][n]] for n in (0, 1))
    assert style[["content_kept", "style_gram", "style_colour"]].astype(float).abs().max() < 1e-4
    assert style["psnr_style"] == content["psnr_content"] == 100
    assert content[["content_kept", "content_cosine", "edges"]].astype(float).tolist() == pytest.approx(
        [1, 1, 1], abs=1e-4
    )
    assert content["psnr_style"] < 30


def test_the_same_scores_again_and_only_what_is_missing(made, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(made, out)
    before = scores(out).set_index("pair").sort_index()
    parts = sorted((out / "scores").iterdir())
    stamp = [part.stat().st_mtime_ns for part in parts]
    result = CliRunner().invoke(main, ["score", str(out), "--local", "--quiet"])
    assert result.exit_code == 0, result.output
    assert f"scored 0 pictures; {len(before)} had scores already" in result.output
    assert [part.stat().st_mtime_ns for part in sorted((out / "scores").iterdir())] == stamp
    for part in parts[1:]:
        part.unlink()
    again = CliRunner().invoke(main, ["score", str(out), "--local", "--quiet"])
    assert again.exit_code == 0, again.output
    after = scores(out).set_index("pair").sort_index()
    timing = ["seconds", "created"]
    pd.testing.assert_frame_equal(after.drop(columns=timing), before.drop(columns=timing))


def test_a_damaged_picture_costs_its_own_scores(made, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(made, out)
    shutil.rmtree(out / "scores")
    first, second = manifest(out)["picture"][:2]
    (out / first).unlink()
    (out / second).write_bytes((out / second).read_bytes()[:-1] + b"?")
    result = CliRunner().invoke(main, ["score", str(out), "--local", "--quiet"])
    assert result.exit_code == 3, result.output
    assert "2 pictures can't be scored: unreadable" in result.output
    table = scores(out).set_index("picture")
    assert table["error"].notna().sum() == 2
    assert first in table["error"][first]
    assert table["content_kept"].drop([first, second]).notna().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_null_with_its_reason_and_is_not_chosen(made, tmp_path, monkeypatch, value):
    pytest.importorskip("duckdb")
    out = tmp_path / "out"
    shutil.copytree(made, out)
    shutil.rmtree(out / "scores")
    gram_distance_of = features.distance_of_grams

    def broken(*grams: object) -> torch.Tensor:
        distances = gram_distance_of(*grams)
        distances[0] = value
        return distances

    monkeypatch.setattr(features, "distance_of_grams", broken)
    result = CliRunner().invoke(main, ["score", str(out), "--local", "--quiet"])
    assert result.exit_code == 3, result.output
    table = scores(out)
    lost = table["style_gram"].isna()
    assert 0 < lost.sum() < len(table)
    assert (table["error"].notna() == lost).all()
    assert set(table["error"].dropna()) == {"not finite (NaN or infinite): style_gram"}
    assert table["content_kept"].notna().all()  # its other scores are as ever
    for part in (out / "scores").iterdir():  # pandas takes a null for a NaN: Parquet tells them apart
        assert pq.read_table(part)["style_gram"].null_count == pd.read_parquet(part)["style_gram"].isna().sum()
    chosen = choose(Place.parse(out), Rules(where="style_gram >= 0"))
    assert set(chosen.table["pair"].to_pylist()) == set(table["pair"][~lost])
    assert "not finite (NaN or infinite): style_gram" in CliRunner().invoke(main, ["failures", str(out)]).output


def test_a_folder_without_a_run_is_one_line(tmp_path):
    result = CliRunner().invoke(main, ["score", str(tmp_path)])
    assert result.exit_code == 2
    assert "no job was run here" in result.output


def test_the_scores_of_other_settings_do_not_mix(made, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(made, out)
    monkeypatch.setattr("pipeline.stages.score.TIMESTEP", 100)
    result = CliRunner().invoke(main, ["score", str(out), "--local", "--quiet"])
    assert result.exit_code == 2
    assert "timestep is 50 there, 100 asked" in result.output


# ---- the measures ----


def test_position_and_cosine():
    start, end = torch.zeros(3, 2, 4), torch.ones(3, 2, 4)
    assert torch.allclose(position(start + 0.25, start, end), torch.tensor(0.25))
    assert torch.allclose(position(start, start, start), torch.tensor(0.0))
    assert torch.allclose(cosine(end, 3 * end), torch.tensor(1.0))
    assert torch.allclose(cosine(end, -end), torch.tensor(-1.0))


def test_features_differ_by_the_pictures_alone(unet):
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    one, same = denoiser_features(unet, x, 50, 3), denoiser_features(unet, x[:1], 50, 3)
    assert torch.allclose(one.h[:1], same.h, atol=1e-4)
    assert len(one.skips) == 3
    assert gram_distance(one.skips, one.skips).abs().max() < 1e-6
    assert (gram_distance(one.skips, [skip.flip(0) for skip in one.skips]) > 1e-3).all()


def test_sanity():
    black, white = torch.full((1, 3, 18, 18), -1.0), torch.ones(1, 3, 18, 18)
    half = torch.cat([black[..., :9], white[..., 9:]], dim=3)
    assert [contrast(x).item() for x in (black, half)] == pytest.approx([0, 0.5])
    assert [dark(x).item() for x in (black, half, white)] == pytest.approx([1, 0.5, 0])
    assert [clipped(x).item() for x in (black, half, black * 0.5)] == [1, 1, 0]


def test_near_duplicates_differ_in_few_bits():
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)

    def hashed(image: Image.Image) -> np.ndarray:
        x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        return np.unpackbits(difference_hash(x)[0].numpy())

    image = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
    other = Image.fromarray(255 - pixels).resize((64, 64), Image.Resampling.BICUBIC)
    plain = hashed(image)
    assert 8 < plain.sum() < 56
    assert (plain != hashed(image.resize((48, 48)))).sum() <= 4
    assert (plain != hashed(image.point(lambda v: v // 2 + 20))).sum() <= 4
    assert (plain != hashed(other)).sum() > 48


# ---- what it costs ----


def test_half_a_network_call_for_each_picture_and_its_sources(made, tmp_path, monkeypatch):
    """No decoding, and each picture of a unit is encoded once; features of one batch alone are held at a time."""
    out = tmp_path / "out"
    shutil.copytree(made, out)
    shutil.rmtree(out / "scores")
    monkeypatch.setattr("pipeline.runner.run.Run.share", lambda run, total, most=256: total)  # all in one unit
    encoded, shapes = [], set()

    def counted(unet, x, timestep, skips):
        tensors = (one for one in gc.get_objects() if type(one) is torch.Tensor)
        assert not [one for one in tensors if one.shape[1:] in shapes], "features of an earlier batch are still held"
        features = denoiser_features(unet, x, timestep, skips)
        encoded.append(len(x))
        shapes.update(skip.shape[1:] for skip in features.skips)
        return features

    monkeypatch.setattr("pipeline.measures.denoiser.denoiser_features", counted)
    monkeypatch.setattr(UNet, "decode", None)
    assert CliRunner().invoke(main, ["score", str(out), "--local", "--quiet"]).exit_code == 0
    assert sum(encoded) == 8 + 2 + 2
    assert scores(out)["style_gram"].notna().all()
