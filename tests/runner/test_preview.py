"""``--dry-run``: its numbers are those of the run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.whole_jobs import CONTENTS, STYLES, job_file, paint, run_job

from diffstyle.networks.ddpm import DDPMUNet
from pipeline.jobfile.load import load_job
from pipeline.runner.api import preview
from pipeline.stages.pairs import PairsError

UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}


def planned(folder: Path, *overrides: str, **changes) -> dict[str, float]:
    """The figures of a job's preview."""
    text = str(preview(load_job(job_file(folder, **changes), overrides)))
    banks, pictures = re.search(r"banks ([\d.]+ \w+); .* about ([\d.]+ \w+) as", text).groups()
    pairs, settings = re.search(r"pairs +(\d+) \(.*\) x (\d+) settings", text).groups()
    return {
        "calls": int(re.search(r"calls +([\d,]+) network", text)[1].replace(",", "")),
        "pairs": int(pairs) * int(settings),
        "banks": in_bytes(banks),
        "pictures": in_bytes(pictures),
    }


def in_bytes(text: str) -> float:
    number, unit = text.split()
    return float(number) * UNITS[unit]


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (["injection.gamma=[0.2, 0.6]", "injection.omega=0.3"], {"content": {"sample": 2}}),
        (["pictures.to=webdataset", "pictures.format=jpeg", "pairs={random: 1}"], {}),
        (["injection.plan={aligned: {between: 1, tail: 3}}", "inversion.plan=second-order", "bank.keep=all"], {}),
    ],
)
def test_its_numbers_are_those_of_the_run(overrides, changes, tmp_path, monkeypatch):
    said = planned(tmp_path, "compute.batch=1", *overrides, **changes)
    assert not (tmp_path / "out").exists()
    calls = []
    encode = DDPMUNet.encode

    def counting(self, x, *rest, **more):
        calls.append(len(x))
        return encode(self, x, *rest, **more)

    monkeypatch.setattr(DDPMUNet, "encode", counting)
    run = run_job(tmp_path, "compute.batch=1", *overrides, **changes)
    assert (said["calls"], said["pairs"]) == (sum(calls), run.counts.pairs_made)
    out = tmp_path / "out"
    made = sum(size(folder) for folder in (out / "banks").glob("*/data"))
    assert said["banks"] == pytest.approx(made, rel=0.05)
    # The results of a job are not known beforehand, and those of so few steps are flat or noisy: near enough to see
    # whether a disk will do.
    assert size(out / "pictures") / 3 < said["pictures"] < size(out / "pictures") * 3


def test_the_lines_a_person_reads(tmp_path):
    lines = preview(load_job(job_file(tmp_path, pairs={"random": 1}))).lines()
    assert lines[0] == "model      tiny: ddpm, 32 px, h 64x8x8"
    assert lines[1] == f"content    2 pictures in {CONTENTS}"
    assert lines[2].startswith("  bank     2 x 5 network calls, h at 3 timesteps; ")
    assert lines[3] == f"style      2 pictures in {STYLES}"
    assert lines[5] == "pairs      2 (1 random styles for each content) x 1 settings"
    assert lines[6] == "  gamma 0.6: 6 steps, 6 network calls, 10 decodes, 4 injections a pair"
    assert lines[-1] == f"output     {tmp_path}/out"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["injection.dt_lambda=0.9985", "injection.plan=balanced"], True),
        (["injection.dt_lambda=0.9985", "injection.plan=reference"], False),
        (["injection.plan=balanced"], False),
    ],
)
def test_a_dt_lambda_that_a_short_plan_cannot_follow_is_told(tmp_path, overrides, told):
    text = str(preview(load_job(job_file(tmp_path), overrides)))
    assert ("injection.dt_lambda is 0.9985 and injection.plan is shorter" in text) == told


def test_a_list_counts_its_distinct_pairs(tmp_path):
    (tmp_path / "pairs.csv").write_text("content,style,note\na,b,1\na,b,2\na,c,3\n")
    assert planned(tmp_path, pairs={"list": "pairs.csv"})["pairs"] == 2
    (tmp_path / "pairs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(PairsError, match="has no column 'content'"):
        planned(tmp_path, pairs={"list": "pairs.csv"})


@pytest.mark.parametrize(("k", "n"), [(1, 2), (2, 4), (3, 4), (100, 4)])
def test_no_more_random_styles_than_there_are(tmp_path, k, n):
    """Two contents and two styles."""
    assert planned(tmp_path, pairs={"random": k})["pairs"] == n


def test_zip_with_unequal_sides_is_told_beforehand(tmp_path):
    with pytest.raises(PairsError, match="there are 2 contents and 3 styles"):
        planned(tmp_path, pairs="zip", style={"folder": str(STYLES), "limit": 3})


def test_sources_that_are_no_pictures(tmp_path):
    paint(tmp_path / "photos" / "a.png", 1)
    (tmp_path / "photos" / "b.png").write_bytes(b"no picture")
    assert planned(tmp_path, content="./photos")["pairs"] == 4


def test_banks_and_samples_have_no_pictures_to_judge_by(tmp_path):
    text = str(preview(load_job(job_file(tmp_path, content={"sample": 3}, style={"sample": 2}))))
    assert "content    3 samples of the model" in text
    assert "6 pictures, about 8.9 kB as png (as photographs usually take)" in text
