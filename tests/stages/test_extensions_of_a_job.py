"""``injection.start_from_content`` and ``match_colours`` in whole jobs: what they make, keep and say."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.whole_jobs import CONTENTS, MODEL, STYLES, job_file, manifest, run_job

from diffstyle.errors import ConfigError
from diffstyle.images import to_uint8
from diffstyle.sampling import inject
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import BankError
from pipeline.jobfile.load import load_job
from pipeline.models.config import load_model_config
from pipeline.models.load import load_model
from pipeline.models.session import model_facts
from pipeline.results.manifest import Manifest
from pipeline.results.words import setting_words
from pipeline.runner import api
from pipeline.runner.again import again
from pipeline.shards.store import open_shards
from pipeline.stages.inject import recipes
from pipeline.stages.pairs import entries
from pipeline.stages.recipe import injection_plan
from pipeline.stages.walk import Walk
from pipeline.storage.place import Place

SOURCES = {"content": {"folder": str(CONTENTS), "limit": 2}, "style": {"folder": str(STYLES), "limit": 2}}
STEPS = {
    "inversion": {"steps": 4},
    "injection": {"gamma": 0.6, "t_edit": 400, "events": 2, "plan": {"grid": 4}},
    "compute": {"batch": 3},
}
LEFT_HALF = {"rectangle": [0, 0, 1, 0.5]}
SWEPT = {"start_from_content": [0, 0.3], "match_colours": [None, "histogram"], "mask": [None, LEFT_HALF]}


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """Two contents, two styles, and every combination of the extensions and a mask."""
    folder = tmp_path_factory.mktemp("job")
    run_job(folder, **{**SOURCES, **STEPS, "injection": {**STEPS["injection"], **SWEPT}})
    return folder / "out"


def rows_of(out: Path) -> list[SimpleNamespace]:
    """The manifest's rows by pair, what is null as None."""
    rows = Manifest(out).table().sort_by("pair").to_pylist()
    return [SimpleNamespace(**row) for row in rows]


def picture(out: Path, row: SimpleNamespace) -> np.ndarray:
    return np.asarray(Image.open(out / row.picture))


def by_rank(pixels: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Channel by channel, pixel by pixel: the value that has the middle rank of all pixels that tie with this one."""
    result = np.empty_like(pixels)
    for channel in range(3):
        own, wanted = pixels[..., channel], np.sort(other[..., channel], axis=None)
        for value in np.unique(own):
            below, tied = int((own < value).sum()), int((own == value).sum())
            result[..., channel][own == value] = wanted[below + (tied - 1) // 2]
    return result


def test_each_picture_is_what_its_row_says(out):
    contents, styles = (LatentBank.open(out / "banks" / side) for side in ("content", "style"))
    shards = open_shards(Place.parse(out / "shards/style"))
    prepared = {row["image"]: shards.read(row) for row in shards.rows().to_pylist()}
    unet = load_model(load_model_config(str(MODEL)))
    plan = injection_plan(load_job(job_file(out.parent / "plan", **SOURCES, **STEPS)).settings()[0], Walk(4))
    rows = rows_of(out)
    assert len(rows) == 2 * 2 * 8
    made = set()
    for row in rows:
        content, style = contents[row.content_image], styles[row.style_image]
        x_T = torch.from_numpy(style.x_t).double()
        mask = None
        if row.start_from_content is not None:
            other = torch.from_numpy(content.x_t).double()
            angle = torch.acos((x_T * other).sum() / x_T.norm() / other.norm())
            share = torch.full((1, 32, 32), row.start_from_content, dtype=torch.float64)
            if row.mask is not None:
                share[..., 16:] = 0
            x_T = (torch.sin((1 - share) * angle) * x_T + torch.sin(share * angle) * other) / torch.sin(angle)
        if row.mask is not None:
            mask = torch.zeros(1, 1, *content.h.shape[-2:])
            mask[..., : content.h.shape[-1] // 2] = 1
        h = torch.from_numpy(content.h)[None]
        result = inject(unet, x_T.float()[None], h, content.h_timesteps, plan, 0.6, mask=mask)
        pixels = to_uint8(result[0])
        if row.match_colours is not None:
            # A last bit that rounds to another grey level moves ranks: what is measured against is the result itself.
            pixels = by_rank(pixels, prepared[row.style_image])
        assert np.abs(pixels.astype(int) - picture(out, row).astype(int)).mean() < 0.05
        made.add(picture(out, row).tobytes())
    assert len(made) == len(rows)


def test_a_matched_picture_has_the_colours_of_its_style(out):
    shards = open_shards(Place.parse(out / "shards/style"))
    prepared = {row["image"]: shards.read(row) for row in shards.rows().to_pylist()}
    matched = [row for row in rows_of(out) if row.match_colours == "histogram"]
    assert len(matched) == 16
    for row in matched:
        pixels, style = picture(out, row), prepared[row.style_image]
        for channel in range(3):
            assert set(pixels[..., channel].flat) <= set(style[..., channel].flat)
            counts, wanted = (np.bincount(z[..., channel].flat, minlength=256) for z in (pixels, style))
            assert np.abs(counts.cumsum() - wanted.cumsum()).max() <= counts.max()  # up to ties


def test_off_is_as_ever(out, tmp_path):
    """The same pairs, bytes and names as of a job that does not know the fields; and so are the banks."""
    run_job(tmp_path, **{**SOURCES, **STEPS, "injection": {**STEPS["injection"], "mask": [None, LEFT_HALF]}})
    plain, swept = manifest(tmp_path / "out"), manifest(out).set_index("pair")
    assert len(plain) == 8
    for row in plain.itertuples():
        same = swept.loc[row.pair]
        assert (same.picture, same.picture_hash, same.recipe) == (row.picture, row.picture_hash, row.recipe)
    assert plain.start_from_content.isna().all()
    assert plain.match_colours.isna().all()
    assert "start_from_content" not in plain.recipe[0]
    banks = [LatentBank.open(tmp_path / "out/banks" / side).description.names for side in ("content", "style")]
    assert banks == [("h",), ("x_t",)]


def test_banks_keep_what_is_read(out):
    contents, styles = (LatentBank.open(out / "banks" / side) for side in ("content", "style"))
    assert contents.description.names == ("h", "x_t")
    assert styles.description.names == ("colours", "x_t")
    shards = open_shards(Place.parse(out / "shards/style"))
    for row in shards.rows().to_pylist():
        counted = [np.bincount(channel.flat, minlength=256) for channel in shards.read(row).transpose(2, 0, 1)]
        np.testing.assert_array_equal(styles[row["image"]].tensors["colours"], counted)


def test_a_job_from_banks_gives_the_same_and_one_whose_banks_lack_them_is_refused(out, tmp_path):
    banks = {side: {"bank": str(out / "banks" / side)} for side in ("content", "style")}
    run_job(tmp_path, stages=("inject",), **{**banks, **STEPS, "injection": {**STEPS["injection"], **SWEPT}})
    assert manifest(tmp_path / "out").picture_hash.tolist() == manifest(out).picture_hash.tolist()
    run_job(tmp_path / "plain", stages=("shard", "precompute"), **SOURCES, **STEPS)
    banks = {side: {"bank": str(tmp_path / "plain/out/banks" / side)} for side in ("content", "style")}
    for field, lacking in (
        ({"start_from_content": 0.2}, r"keeps h and no x_t, which injection\.start_from_content reads"),
        ({"match_colours": "histogram"}, r"keeps x_t and no colours, which injection\.match_colours reads"),
    ):
        changed = {**STEPS, "injection": {**STEPS["injection"], **field}}
        with pytest.raises(BankError, match=lacking) as refused:
            run_job(tmp_path / "refused", **{**banks, **changed})
        assert not (tmp_path / "refused/out/manifest").exists()
        (side,) = [side for side in banks if f"in place of the bank ({side}: FOLDER), and" in str(refused.value)]
        # As it advises, in the output of the bank that lacks them.
        instead = {**banks, side: SOURCES[side], "output": str(tmp_path / "plain/out")}
        run_job(tmp_path / side, stages=("shard", "precompute"), **{**instead, **changed})
        (fits,) = (tmp_path / "plain/out/banks").glob(f"{side}-*")
        run_job(tmp_path / side, stages=("inject",), **{**banks, side: {"bank": str(fits)}, **changed})


def test_a_plain_run_goes_on_with_further_banks(tmp_path):
    run_job(tmp_path, **SOURCES, **STEPS)
    before = manifest(tmp_path / "out")
    injection = {**STEPS["injection"], "start_from_content": 0.2, "match_colours": "histogram"}
    run_job(tmp_path, **{**SOURCES, **STEPS, "injection": injection})
    after = manifest(tmp_path / "out")
    assert len(after) == 2 * len(before)
    assert set(before.picture_hash) < set(after.picture_hash)
    names = sorted(place.name for place in (tmp_path / "out/banks").iterdir())
    assert [name.partition("-")[0] for name in names] == ["content", "content", "style", "style"]


@pytest.mark.parametrize("changes", [{}, {"style": {"sample": 2, "seed": 5}}], ids=["pictures", "samples"])
def test_again_gives_the_same_bytes(tmp_path, changes):
    injection = {**STEPS["injection"], "start_from_content": 0.3, "match_colours": "histogram", "mask": LEFT_HALF}
    run_job(tmp_path, **{**SOURCES, **STEPS, "bank": {"h": "float16"}, "injection": injection, **changes})
    out = tmp_path / "out"
    pair = manifest(out).pair[1]
    made = again(out, pair)
    assert made.same, str(made)
    assert made.content.origin.startswith("h and x_t from the bank")
    assert "start_from_content 0.3, match_colours histogram" in str(made)
    shutil.rmtree(out / "banks")
    made = again(out, pair)
    assert made.same, str(made)


def test_one_source_for_both_sides(tmp_path):
    both = {"content": SOURCES["content"], "style": SOURCES["content"]}
    injection = {**STEPS["injection"], "start_from_content": 0.3, "match_colours": "histogram"}
    run_job(tmp_path, **{**both, **STEPS, "injection": injection})
    assert LatentBank.open(tmp_path / "out/banks/both").description.names == ("colours", "h", "x_t")
    assert len(manifest(tmp_path / "out")) == 4


def test_what_tells_results_apart(out):
    """Two fractions, and the type of the x_T that is moved to: other recipes."""
    job = load_job(job_file(out.parent / "apart", **SOURCES, **STEPS), ["injection.start_from_content=[0.2, 0.3]"])
    facts = model_facts(job.model, job.weights)
    bank = LatentBank.open(out / "banks/content").description
    halves = tuple(
        type(one)(one.name, "float16", one.shape, one.timesteps) if one.name == "x_t" else one for one in bank.tensors
    )
    none = entries(LatentBank.open(out / "banks/content").index, None, ())
    style = LatentBank.open(out / "banks/style").description
    digests = [
        [one.digest for one in recipes(job, facts, description, style, none)]
        for description in (bank, dataclasses.replace(bank, tensors=halves))
    ]
    assert len({digest for some in digests for digest in some}) == 4
    plain = load_job(job_file(out.parent / "apart", **SOURCES, **STEPS))
    (first,), (second,) = (
        recipes(plain, facts, description, style, none)
        for description in (bank, dataclasses.replace(bank, tensors=halves))
    )
    assert first.digest == second.digest


def test_words_names_and_what_a_job_may_say(out, tmp_path):
    rows = list({row.settings: row for row in rows_of(out)}.values())
    words = setting_words([vars(row) for row in rows])
    assert any("start_from_content 0.3, match_colours histogram" in one for one in words)
    slugs = {Path(name).parent.name.rpartition("-")[0] for name in (row.picture for row in rows)}
    assert "gamma-0.6-start-0.3-colours-matched" in slugs
    assert "gamma-0.6" in slugs
    file = job_file(tmp_path, **SOURCES, **STEPS)
    loaded = load_job(file, ["injection.match_colours=[null, histogram]", "injection.start_from_content=[0, 0.2]"])
    points = [(one.start_from_content, one.match_colours) for one in loaded.settings()]
    assert points == [(0, None), (0, "histogram"), (0.2, None), (0.2, "histogram")]
    assert set(loaded.settings()[0].to_dict()) == set(load_job(file).settings()[0].to_dict())
    (tmp_path / "again.yaml").write_text(loaded.to_yaml())
    assert load_job(tmp_path / "again.yaml") == loaded
    assert yaml.safe_load(loaded.to_yaml())["injection"]["match_colours"] == [None, "histogram"]
    text = str(api.preview(loaded))
    assert "start_from_content 0.2, match_colours histogram: " in text
    for override, said in (
        ("injection.start_from_content=1.5", "must be at most 1, not 1.5"),
        ("injection.match_colours=mean", "must be null or histogram, not 'mean'"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_job(file, [override])


def test_the_identity_of_a_recipe_has_them_only_where_they_are_on(out):
    for row in rows_of(out):
        injection = json.loads(row.recipe)["injection"]
        assert injection.get("start_from_content") == row.start_from_content
        assert injection.get("match_colours") == row.match_colours
