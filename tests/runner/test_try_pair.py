"""`diffstyle try` and `pipeline.try_pair`: one pair at once, the same pictures as those of a job."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.places import ROOT
from support.whole_jobs import CONTENTS, MODEL, STYLES, manifest, paint

import pipeline
from diffstyle.errors import DiffStyleError
from pipeline.cli.main import main
from pipeline.jobfile.load import load_job
from pipeline.jobfile.starting import starting_gammas
from pipeline.results.strip import strip

#: Few steps, so that a pair takes a second.
FEW = ["inversion.steps=6", "injection.events=6", "injection.plan={grid: 6}", "injection.t_edit=200"]
CONTENT, STYLE = sorted(CONTENTS.iterdir())[0], sorted(STYLES.iterdir())[0]


def tried(*args: object, few: bool = True) -> Result:
    sets = [word for one in FEW if few for word in ("--set", one)]
    return CliRunner().invoke(main, ["try", *map(str, args), "--model", str(MODEL), *sets])


def test_the_pictures_are_those_of_a_job(tmp_path: Path) -> None:
    mask = paint(tmp_path / "mask.png", 3)
    trial = pipeline.try_pair(CONTENT, STYLE, gamma=[0.9, 0.2], mask=mask, model=MODEL, overrides=FEW)
    assert [words for words, _ in trial.results] == ["gamma 0.9", "gamma 0.2"]  # in the order in which they were given
    file = tmp_path / "job.yaml"
    file.write_text(
        f"model: {MODEL}\noutput: out\ncontent: {CONTENT}\nstyle: {STYLE}\ncompute: {{batch: 1}}\n"
        f"inversion: {{steps: 6}}\n{str(trial).partition('in a job file: ')[2]}\n"
    )
    result = pipeline.run(load_job(file, check_inputs=True), local=True, quiet=True)
    assert result.counts.pairs_made == 2
    by_gamma = {row.gamma: tmp_path / "out" / row.picture for row in manifest(tmp_path / "out").itertuples()}
    for gamma, (_, pixels) in zip((0.9, 0.2), trial.results, strict=True):
        assert np.array_equal(pixels, np.asarray(Image.open(by_gamma[gamma])))
    assert not np.array_equal(trial.results[0][1], trial.results[1][1])


def test_the_strip_shows_content_results_and_style(tmp_path: Path) -> None:
    out = tmp_path / "strip.png"
    done = tried(CONTENT, STYLE, "--gamma", "0.2,0.6", "--out", out)
    assert done.exit_code == 0, done.output
    assert f"wrote {out}" in done.output.splitlines()
    drawn = np.asarray(Image.open(out))
    trial = pipeline.try_pair(CONTENT, STYLE, gamma="0.2,0.6", model=MODEL, overrides=FEW)
    assert np.array_equal(drawn, np.asarray(trial.strip))
    top, left = drawn.shape[0] - 14 - 160, 0
    for pixels in (trial.content, *(pixels for _, pixels in trial.results), trial.style):
        larger = pixels.repeat(5, 0).repeat(5, 1)  # 32 px as 160
        places = range(left, drawn.shape[1] - 159)
        (x,) = [x for x in places if np.array_equal(drawn[top : top + 160, x : x + 160], larger)]
        label = drawn[top - 22 : top, x : x + 160]
        assert (label < 200).any()
        left = x + 160


def test_long_labels_and_titles_stay_inside() -> None:
    cell = np.zeros((40, 40, 3), np.uint8)
    drawn = np.asarray(
        strip([[("gamma 0.2, edit a very long name of a direction", cell)], [("b", cell)]], "word " * 60)
    )
    assert (drawn[:, -3:] == 255).all()
    assert drawn.shape[1] == 14 + 160 + 14 + 160 + 14


def test_a_mask_is_shown_and_keeps_content_out() -> None:
    whole = pipeline.try_pair(CONTENT, STYLE, gamma=0.8, model=MODEL, overrides=FEW)
    half = pipeline.try_pair(CONTENT, STYLE, gamma=0.8, mask="0,0,0.5,1", model=MODEL, overrides=FEW)
    none = pipeline.try_pair(CONTENT, STYLE, gamma=0.0, model=MODEL, overrides=FEW)
    error = [np.abs(one.results[0][1].astype(float) - none.results[0][1]) for one in (half, whole)]
    assert error[0][24:].mean() < 0.5 * error[1][24:].mean()
    assert half.strip.width == whole.strip.width + 164


def test_the_results_of_the_demos_model_can_be_told_apart() -> None:
    """Each gamma from the one before it, the first from none; in fewer steps than usual, which takes less time."""
    few = ["inversion.steps=20", "injection.plan={grid: 20}", "injection.events=20"]
    pair = (ROOT / "demo/contents/lorelei-00150.png", ROOT / "demo/styles/croodles-00175-style10.png")
    trial = pipeline.try_pair(*pair, gamma=[0.0, *starting_gammas(64)], overrides=few, quiet=True)
    assert str(trial).endswith(
        "demo-64 knows cartoon faces alone; for other pictures --model names a model of their kind"
    )
    shown = [picture.astype(float) for _, picture in trial.results]
    apart = [20 * np.log10(255) - 10 * np.log10(np.mean((a - b) ** 2)) for a, b in itertools.pairwise(shown)]
    assert max(apart) < 40, apart  # above that two pictures are hard to tell apart


def test_a_name_that_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, style = paint(tmp_path / "me.png", 1), paint(tmp_path / "art.png", 2)
    first, second = (tried(content, style, "--gamma", "0.5", "-q") for _ in range(2))
    assert (first.output, second.output) == ("wrote try-me-art.png\n", "wrote try-me-art-2.png\n")
    assert {file.name for file in tmp_path.iterdir()} == {"me.png", "art.png", "try-me-art.png", "try-me-art-2.png"}


def test_it_says_that_it_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair takes half a minute on a busy machine: long, for a command that says nothing."""
    monkeypatch.chdir(tmp_path)
    lines = tried(CONTENT, STYLE, "--gamma", "0.5,1").output.splitlines()
    assert lines[0] == "making 2 results at 32 px: some seconds each on a CPU"


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    words = tmp_path / "words.png"
    words.write_text("words")
    for args, message in {
        (tmp_path / "none.png", STYLE): f"content: {tmp_path / 'none.png'}: no such file or folder",
        (
            CONTENTS,
            STYLE,
        ): f"content: {CONTENTS}: give one picture file; for whole folders `diffstyle new` writes a job file",
        (CONTENT, words): f"{words}: not readable as a picture",
        (CONTENT, STYLE, "--gamma", "0.2;0.4"): "gamma: '0.2;0.4' is not a number; write it as 0.2,0.4,0.6",
        (CONTENT, STYLE, "--gamma", "2"): "gamma: injection.gamma[0]: must be at most 1, not 2",
        (CONTENT, STYLE, "--mask", "1,0,0,1"): "mask: injection.mask.rectangle: must be [top, left, bottom, right]",
        (CONTENT, STYLE, "--mask", "none.png"): "none.png: no such file or folder",
        (CONTENT, STYLE, "--gamma", ",".join(["0.1", "0.2"] * 7 + [f"0.{n}" for n in range(10, 30)])): "at most 12",
        (CONTENT, STYLE, "--out", tmp_path / "a.txt"): "must end in one of .png",
        (CONTENT, STYLE, "--out", tmp_path / "no" / "a.png"): "there is no folder",
        (words, STYLE, "--out", words): "is one of the two pictures",
        (CONTENT, STYLE, "--set", "injection.gama=1"): "did you mean 'gamma'?",
    }.items():
        done = tried(*args)
        assert done.exit_code == 2, args
        (line,) = done.output.splitlines()
        assert line.startswith("error: ")
        assert message in line
    both = tried(tmp_path / "none.png", tmp_path / "nor.png").output.splitlines()
    named = zip(("content", "style"), ("none.png", "nor.png"), strict=True)
    assert both == [f"error: {side}: {tmp_path / name}: no such file or folder" for side, name in named]
    with pytest.raises(DiffStyleError, match="unknown model 'celebhq'; did you mean 'celebahq'"):
        pipeline.try_pair(CONTENT, STYLE, model="celebhq")


COUNTED = """
import sys
from diffstyle.networks.ddpm import DDPMUNet
from pipeline.cli.main import main

counts = {"encode": 0, "decode": 0}

def counted(name):
    plain = getattr(DDPMUNet, name)

    def one(self, x, *rest, **more):
        counts[name] += len(x)
        return plain(self, x, *rest, **more)

    return one

for name in counts:
    setattr(DDPMUNet, name, counted(name))
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0
print("ray" in sys.modules, *counts.values())
"""


def test_the_demos_model_without_ray_in_few_calls(tmp_path: Path) -> None:
    """Two pictures walked up in 50 steps and three results by `fast`: what seconds it takes depends on the machine."""
    args = ["try", "shipped:demo/contents/micah-00150.png", "shipped:demo/styles/croodles-00175-style10.png"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", COUNTED, *args], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "making 3 results at 64 px: some seconds each on a CPU\n"
    ray, encodes, decodes = done.stdout.split()[-3:]
    assert ray == "False"
    assert 0 < int(encodes) <= 2 * 50 + 3 * 60
    assert 0 < int(decodes) <= 400
    assert Image.open(tmp_path / "try-micah-00150-croodles-00175-style10.png").height > 160
