"""`diffstyle explain`: the words agree with the plan that a run executes, and so does the picture."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.whole_jobs import job_file, paint

from pipeline.cli.main import main
from pipeline.jobfile.load import load_job
from pipeline.results.plan_picture import KINDS, kind_of_step, place
from pipeline.runner.explain import explain_job
from pipeline.stages.recipe import injection_plan
from pipeline.stages.walk import Walk

JOBS: dict[str, dict[str, Any]] = {
    "as in the paper": {
        "injection": {"gamma": 0.3, "t_edit": 400, "t_boost": 200, "events": 50, "plan": {"grid": 1000}}
    },
    "balanced": {"injection": {"t_edit": 80, "plan": "balanced", "events": 50}, "inversion": {"steps": 50}},
    "dt_lambda": {"injection": {"dt_lambda": 0.99, "t_edit": 990, "events": 50, "plan": {"grid": 100}}},
    "nothing is injected": {"injection": {"t_edit": 999, "events": 2, "plan": {"grid": 6}}, "inversion": {"t_0": 900}},
}


@pytest.mark.parametrize("name", JOBS)
def test_words_and_picture_are_those_of_the_plan(tmp_path: Path, name: str) -> None:
    job = load_job(job_file(tmp_path, **JOBS[name]))
    plan = injection_plan(job.settings()[0], Walk.of_job(job, job.content))
    explained = explain_job(job)
    text = str(explained)
    for kind in KINDS:
        some = [step.t for step in plan.steps if kind_of_step(step) == kind]
        stated = re.search(rf"([\d,]+) steps?: {kind}, t = (.*)$", text, re.MULTILINE)
        assert (stated is None) == (not some)
        if stated:
            timesteps = re.findall(r"\d+", stated[2])
            assert (int(stated[1].replace(",", "")), int(timesteps[0])) == (len(some), some[0])
            assert int(timesteps[-1]) == some[-1]
    assert f"{plan.encodes:,} network call" in text
    assert ("settings in all" in text) != text.endswith("\n  each pair is made once")
    pixels = np.asarray(explained.picture)
    blue, orange = (KINDS[kind][0] for kind in ("injects content", "draws noise"))
    lane = pixels[20:95]
    for colour, timesteps in ((blue, plan.injections), (orange, plan.noise_timesteps)):
        columns = set(np.nonzero((lane == colour).all(2).any(0))[0])
        expected = {place(t) for t in timesteps}
        assert expected <= {column + d for column in columns for d in (-1, 0, 1)}
        assert columns <= {column + d for column in expected for d in (-1, 0, 1)}


def test_every_parameter_is_explained_with_its_value(tmp_path: Path) -> None:
    mask = paint(tmp_path / "mask.png", 1)
    values = {"gamma": [0.2, {"linear": [0.1, 0.9]}], "omega": [0, 0.5], "mask": [None, {"picture": str(mask)}]}
    file = job_file(tmp_path, injection={**values, "t_edit": 300, "events": 6, "plan": {"grid": 6}}, seed=[1, 2])
    text = str(explain_job(load_job(file)))
    for field in ("gamma", "events", "t_edit", "t_boost", "dt_lambda", "omega", "mask", "plan"):
        assert f"  injection.{field} " in text
    assert "h goes 20% of the way" in text
    assert re.search(r"h goes 10% of the way at t = 999, 90% at t = \d+", text)
    assert "content goes everywhere" in text
    assert re.search(r"content goes into \d+% of h's \d+ x \d+ cells", text)
    assert "generation 1, with omega 0" in text
    assert "generation 2, with omega 0.5" in text
    assert "no noise: every seed gives the same" in text
    assert "8 settings in all: each pair is made once for each" in text  # seeds count as one


def test_where_injection_starts_is_explained_only_where_it_is_not_at_the_top(tmp_path: Path) -> None:
    text = str(explain_job(load_job(job_file(tmp_path, injection={"t_edit": 200, "t_start": 500, "events": 50}))))
    assert re.search(r"injection\.t_edit +200 +of these, 15 from 500 down to it inject", text)
    assert re.search(r"injection\.t_start +500 +beyond the paper", text)
    assert "t_start" not in str(explain_job(load_job(job_file(tmp_path))))


def test_a_sweep_of_the_extensions_names_all_its_values_and_what_banks_keep_for_them(tmp_path: Path) -> None:
    injection = {"start_from_content": [0, 0.4], "match_colours": [None, "histogram"]}
    text = str(explain_job(load_job(job_file(tmp_path, injection=injection))))
    for line in (
        r"injection\.start_from_content +0 +off",
        r"injection\.start_from_content +0\.4 +beyond the paper",
        r"injection\.match_colours +null +off",
        r"injection\.match_colours +histogram +beyond the paper",
        r"of a content, h is kept .*\n +and its x_T, for start_from_content",
        r"of a style, x_T is kept: .*\n +and the histograms of its picture, for match_colours",
    ):
        assert re.search(line, text), line
    plain = str(explain_job(load_job(job_file(tmp_path))))
    assert "start_from_content" not in plain
    assert "match_colours" not in plain


def test_a_full_disk_leaves_the_picture_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Image.Image.save

    def cut(image: Image.Image, target: Any, *arguments: Any, **options: Any) -> None:
        if isinstance(target, str | Path):
            Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", cut)
    file = tmp_path / "earlier.png"
    file.write_bytes(b"precious")
    done = CliRunner().invoke(main, ["explain", "demo", "--out", str(file)])
    assert done.exit_code == 4
    assert "the disk is full" in done.output
    assert file.read_bytes() == b"precious"
    monkeypatch.setattr(Image.Image, "save", whole)
    assert CliRunner().invoke(main, ["explain", "demo", "--out", str(file)]).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["earlier.png"]
    assert Image.open(file).width == 1100


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (CliRunner().invoke(main, ["explain", "demo"]) for _ in range(2))
    assert first.exit_code == 0, first.output
    assert first.output.splitlines()[-1] == "wrote explain-demo.png"
    assert second.output.splitlines()[-1] == "wrote explain-demo-2.png"
    assert Image.open("explain-demo.png").width == 1100
    words = CliRunner().invoke(main, ["explain", "demo", "--no-picture", "--set", "injection.t_edit=300"])
    assert "t_edit     300" in words.output
    assert len(list(tmp_path.iterdir())) == 2
    wrong = CliRunner().invoke(main, ["explain", "demo", "--out", "x.txt"])
    assert (wrong.exit_code, wrong.output.count("\n")) == (2, 1)
