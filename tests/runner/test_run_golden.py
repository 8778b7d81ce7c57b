"""The reference's results through the whole pipeline, within one grey level."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from support.whole_jobs import pictures, run_job

SCENARIOS = [
    ("ddpm_a", "base"),
    ("ddpm_a", "masked"),
    ("ddpm_a", "calibrated"),
    ("adm_a", "base"),
    ("adm_a", "masked_calibrated"),
]


@pytest.fixture(scope="module")
def banks(golden, shared, tmp_path_factory):
    """model -> (job fields, with the banks of the golden pictures as sources)."""
    made: dict[str, dict] = {}

    def of(name: str) -> dict:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            facts = json.loads((golden / name / "golden.json").read_text())
            architecture = {key: numbers(value) for key, value in facts["arch"].items()}
            architecture.pop("class_cond", None)
            weights = {"path": str(golden / name / "checkpoint.pt")}
            model = folder / "model.yaml"
            model.write_text(yaml.safe_dump({"name": name, "architecture": architecture, "weights": weights}))
            sources = {}
            for side in ("content", "style"):
                lines = [str(shared / "images" / path) for path in facts[f"{side}s"]]
                (folder / f"{side}.csv").write_text("\n".join(["path", *lines]) + "\n")
                sources[side] = {"list": str(folder / f"{side}.csv"), "allow_outside": True}
            fields = {"model": str(model), "inversion": {"steps": 50}, "compute": {"batch": 4}}
            run_job(folder, stages=("shard", "precompute"), bank={"h": "float32", "keep": "all"}, **sources, **fields)
            banks = {side: {"bank": str(folder / "out" / "banks" / side)} for side in sources}
            made[name] = {**fields, **banks}
        return made[name]

    return of


def numbers(value):
    """``1,2,2`` as the original code bases write lists."""
    return [int(piece) for piece in value.split(",")] if isinstance(value, str) and value[0].isdigit() else value


@pytest.mark.parametrize(("name", "scenario"), SCENARIOS)
def test_pictures_are_within_one_grey_level_of_the_reference(name, scenario, banks, golden, tmp_path):
    p = json.loads((golden / name / "golden.json").read_text())["scenarios"][scenario]
    injection = {
        "gamma": p["hs_coeff"],
        "t_edit": p["t_edit"],
        "t_boost": p["t_noise"],
        "events": p["content_replace_step"],
        "dt_lambda": p["dt_lambda"],
        "dt_end": p["dt_end"],
        "omega": p["omega"],
        "mask": "reference" if p["use_mask"] else None,
        "plan": {"grid": p["n_gen_step"]},
    }
    run_job(tmp_path, injection=injection, **banks(name))
    made = pictures(tmp_path / "out")
    with np.load(golden / name / f"{scenario}.npz") as wanted:
        results = {key.removeprefix("result/content_"): wanted[key] for key in wanted if key.startswith("result/")}
    assert {f"{content}_style_{style}" for content, style in made} == set(results)
    for (content, style), pixels in made.items():
        result = results[f"{content}_style_{style}"].transpose(1, 2, 0)
        grey = (result.astype(np.float64).clip(-1, 1) + 1) * 127.5
        assert np.abs(pixels - grey).max() <= 1
