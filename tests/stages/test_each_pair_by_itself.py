"""Every picture of a job is what the method makes of its two bank entries alone, by the words of its manifest row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.whole_jobs import CONTENTS, MODEL, STYLES, manifest, run_job

from diffstyle.images import to_uint8
from diffstyle.injection import Injection, event_timesteps, grid_plan
from diffstyle.noise import seeded_noise
from diffstyle.sampling import inject
from pipeline.banks.reader import LatentBank
from pipeline.models.config import load_model_config
from pipeline.models.load import load_model
from pipeline.storage.identity import pair_seed

SEED = 3


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """Two contents with masks of their own, two styles, two omegas; noise, and a gamma for each injection."""
    folder = tmp_path_factory.mktemp("job")
    for n, name in enumerate(sorted(path.name for path in CONTENTS.iterdir())[:2]):
        mask = Image.new("L", (32, 32))
        mask.paste(255, (0, 0, 32, 12 * (n + 1)))  # from the top, lower with each
        (folder / "masks").mkdir(exist_ok=True)
        mask.save(folder / "masks" / name)
    run_job(
        folder,
        "injection.omega=[0, 0.5]",
        content={"folder": str(CONTENTS), "limit": 2},
        style={"folder": str(STYLES), "limit": 2},
        seed=SEED,
        inversion={"steps": 4},
        bank={"h": "float32", "keep": "all"},
        injection={
            "gamma": {"values": [0.9, 0.2, 0.6]},
            "t_edit": 300,
            "t_boost": 500,
            "events": 4,
            "plan": {"grid": 4},
            "mask": {"folder": str(folder / "masks")},
        },
        compute={"batch": 3},
        stages=("shard", "precompute", "inject"),
    )
    return folder / "out"


def test_each_picture_is_what_the_method_makes_of_its_pair(out):
    contents, styles = (LatentBank.open(str(out / "banks" / side)) for side in ("content", "style"))
    rows = manifest(out)
    assert len(rows) == 2 * 2 * 2
    unet = load_model(load_model_config(str(MODEL)))
    by_name = sorted(set(rows["content_key"]))
    for row in rows.itertuples():
        content, style = contents[row.content_image], styles[row.style_image]
        assert (content.key, style.key) == (row.content_key, row.style_key)
        kept = content.h_timesteps
        plan = grid_plan(Injection(event_timesteps(4), 300, 500, calibrate=row.omega > 0), kept, 4)
        assert plan.injections == (999, 666, 333)
        mask = torch.zeros(1, 1, 8, 8)
        mask[:, :, : 3 * (by_name.index(row.content_key) + 1)] = 1
        seed = pair_seed(SEED, row.content_image, row.style_image)
        result = inject(
            unet,
            torch.from_numpy(style.x_t)[None],
            torch.from_numpy(content.h)[None],
            kept,
            plan,
            torch.tensor([[0.9, 0.2, 0.6]]),
            omega=row.omega,
            mask=mask,
            noise=lambda t, seed=seed: seeded_noise([seed], t, (3, 32, 32)),
        )
        with Image.open(out / row.picture) as image:
            found = np.asarray(image).astype(int)
        assert np.abs(found - to_uint8(result[0])).max() <= 1, row.picture
        assert (row.seed, row.network_calls) == (SEED, plan.encodes)


def test_pairs_differ_from_one_another(out):
    """So that the test above could tell them apart."""
    pictures = []
    for name in manifest(out)["picture"]:
        with Image.open(out / name) as image:
            pictures.append(np.asarray(image).astype(int))
    for n, one in enumerate(pictures):
        for other in pictures[:n]:
            assert np.abs(one - other).max() > 3


def test_what_a_row_says_is_what_the_job_said(out):
    rows = manifest(out)
    assert sorted(set(rows["omega"])) == [0.0, 0.5]
    (row,) = rows.drop_duplicates(["t_edit", "t_boost", "events", "dt_lambda", "dt_end", "plan"]).itertuples()
    assert (row.t_edit, row.t_boost, row.events, row.dt_lambda, row.dt_end) == (300, 500, "4", 1.0, 950)
    assert json.loads(row.plan) == {"grid": 4}
    assert json.loads(row.gamma_schedule) == {"values": [0.9, 0.2, 0.6]}
    assert np.isnan(row.gamma)
    assert (row.model, row.precision, row.status) == ("tiny", "float32", "ok")
    assert set(rows["format"]) == {"png"}
    assert set(rows["width"]) == set(rows["height"]) == {32}
