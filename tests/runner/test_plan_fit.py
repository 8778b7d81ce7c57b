"""The shortest plan that is near enough, found on a job's own pairs."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from support.whole_jobs import CONTENTS, STYLES, job_file, manifest, run_job

from diffstyle.errors import ConfigError
from pipeline import fit_plan, load_job
from pipeline.cli.main import main
from pipeline.jobfile.injection import PlanSpec
from pipeline.runner import first_pictures, plan_fit

#: Two injections, and a reference of so many steps that a test takes seconds.
SHORT = {
    "inversion": {"steps": 4, "t_0": 60},
    "injection": {"gamma": [0.3, 0.6], "t_edit": 20, "events": 4, "plan": {"aligned": {"between": 12, "tail": 20}}},
    "content": {"folder": str(CONTENTS), "limit": 3},
    "style": {"folder": str(STYLES), "limit": 2},
}
STEPS = PlanSpec(grid=61)


def fitted(folder, wanted, *, pairs=2, **changes):
    lines = []
    job = load_job(job_file(folder, **{**SHORT, **changes}))
    return fit_plan(job, wanted, pairs=pairs, reference=STEPS, tell=lines.append, quiet=True), lines


def picture_psnr(*files):
    one, other = (np.asarray(Image.open(file), float) for file in files)
    return 10 * np.log10(255**2 / np.square(one - other).mean())


def in_grey_levels(dB):
    """The PSNR of two pictures after rounding, which adds a twelfth of a squared grey level to each."""
    return -10 * np.log10(10 ** (-dB / 10) + 2 / 12 / 255**2)


def test_the_first_plan_that_is_near_enough_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_fit, "_ALIGNED", ((2, 10, None, 0), (3, 30, None, 0), (1, 6, 6, 0), (1, 20, None, 0)))
    fit, lines = fitted(tmp_path, 66)
    assert fit.pairs == fit.settings == 2
    assert [row.network_calls for row in fit.tried] == [11, 16]
    assert fit.chosen.lowest >= 66 > max(row.lowest for row in fit.tried[:-1])
    assert fit.chosen.network_calls < fit.own.network_calls < fit.reference_calls == 61
    assert all(row.lowest <= row.mean for row in fit.tried)
    assert len([line for line in lines if line.endswith("}")]) == len(fit.tried) + 1  # and the job's own
    assert repr(fit) == f"<PlanFit {fit.chosen.words}: 16 network calls, {fit.chosen.lowest:.1f} dB>"
    # What it says is a part of a job file.
    words = str(fit)
    spec = yaml.safe_load(words[words.index("injection:") :])["injection"]["plan"]
    assert PlanSpec.model_validate(spec) == fit.chosen.plan
    assert not (tmp_path / "out").exists()


def test_it_has_the_threads_of_a_worker_of_the_job(tmp_path, monkeypatch):
    before = torch.get_num_threads()
    seen = []

    def trial(*_):
        seen.append(torch.get_num_threads())
        raise ConfigError("enough")

    monkeypatch.setattr(plan_fit, "_Trial", trial)
    with pytest.raises(ConfigError, match="enough"):
        fitted(tmp_path, 40, compute={"threads": before + 2})
    assert seen == [before + 2]
    assert torch.get_num_threads() == before


def test_what_it_says_holds_for_the_pictures_of_the_job(tmp_path, monkeypatch):
    """The dB of a fit are those between the pictures that a job makes with the two plans."""
    monkeypatch.setattr(plan_fit, "_ALIGNED", ((1, 1, None, 0),))
    monkeypatch.setattr(plan_fit, "_GRIDS", ())
    calibrated = {**SHORT["injection"], "gamma": 0.9, "omega": 0.3, "mask": {"rectangle": [0, 0, 1, 0.5]}}
    fit, _ = fitted(tmp_path / "fit", 5, injection=calibrated)
    pictures = {}
    for name, plan in (("short", fit.chosen.plan), ("reference", STEPS)):
        injection = {**calibrated, "plan": plan.model_dump(mode="json", exclude_none=True)}
        run_job(tmp_path / name, **{**SHORT, "injection": injection, "pairs": "all"})
        rows = manifest(tmp_path / name / "out")
        pictures[name] = {
            (row.content_key, row.style_key): tmp_path / name / "out" / row.picture for row in rows.itertuples()
        }
    contents, styles = (sorted({pair[side] for pair in pictures["short"]}) for side in (0, 1))
    found = [picture_psnr(*(pictures[name][pair] for name in pictures)) for pair in zip(contents, styles, strict=False)]
    assert fit.chosen.lowest < 52
    assert min(found) == pytest.approx(in_grey_levels(fit.chosen.lowest), abs=0.3)
    assert np.mean(found) == pytest.approx(in_grey_levels(fit.chosen.mean), abs=0.3)


def test_too_much_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_fit, "_ALIGNED", ((1, 6, 6, 0),))
    monkeypatch.setattr(plan_fit, "_GRIDS", ())
    with pytest.raises(
        ConfigError, match=r"^--fit: no plan of fewer calls than reference's 61 reaches 100 dB; the nea"
    ):
        fitted(tmp_path, 100, injection={**SHORT["injection"], "gamma": 0.3})
    with pytest.raises(ConfigError, match="events: every leaves no steps out"):
        fitted(tmp_path, 40, injection={**SHORT["injection"], "events": "every", "plan": {"grid": 61}})


@pytest.mark.parametrize("wanted", ["nan", "inf", "100.5", "1e9"])
def test_what_no_plan_can_reach_is_refused_before_anything_is_made(tmp_path, monkeypatch, wanted):
    monkeypatch.setattr(plan_fit, "_Trial", None)  # nothing may be tried
    done = CliRunner().invoke(main, ["plan", str(job_file(tmp_path, **SHORT)), "--fit", wanted])
    assert done.exit_code == 2, done.output
    assert "--fit: must be more than 0 dB and at most 100 (equal pictures), such as 45, not" in done.output


def test_a_job_of_the_reference_makes_its_pairs_once(tmp_path, monkeypatch):
    """What is furthest from short is not run a second time, only to compare it with itself."""
    monkeypatch.setattr(plan_fit, "_ALIGNED", ((2, 10, None, 0),))
    made, results = [], plan_fit._Trial.results
    monkeypatch.setattr(
        plan_fit._Trial, "results", lambda self, plan, *a, **k: made.append(plan) or results(self, plan, *a, **k)
    )
    injection = {**SHORT["injection"], "gamma": 0.3, "plan": STEPS.model_dump(mode="json", exclude_none=True)}
    fit, _ = fitted(tmp_path, 20, injection=injection)
    assert made.count(STEPS) == 1
    assert (fit.own.network_calls, fit.own.lowest) == (fit.reference_calls, 100)
    assert "the job's own plan takes 61 (100.0 dB), reference 61" in str(fit)


def one_plan(monkeypatch):
    """A single plan to try, which is near enough to 10 dB."""
    monkeypatch.setattr(plan_fit, "_ALIGNED", ((2, 10, None, 0),))
    monkeypatch.setattr(plan_fit, "_GRIDS", ())


def contents_after_broken_ones(folder, n_broken, n=3):
    """A data set whose first files are no pictures."""
    folder.mkdir()
    for k in range(n_broken):
        (folder / f"0-{k:02d}.png").write_bytes(b"no picture")
    for k, file in enumerate(sorted(CONTENTS.iterdir())[:n]):
        shutil.copy(file, folder / f"1-{k}.png")
    return folder


@pytest.mark.parametrize("n_broken", [1, 9])
def test_pictures_that_cannot_be_read_are_passed_over_and_named(tmp_path, monkeypatch, caplog, n_broken):
    one_plan(monkeypatch)
    sound = contents_after_broken_ones(tmp_path / "sound", 0)
    expected, _ = fitted(tmp_path / "a", 10, content=str(sound))
    caplog.clear()
    broken = contents_after_broken_ones(tmp_path / "broken", n_broken)
    fit, _ = fitted(tmp_path / "b", 10, content={"folder": [str(broken)]})
    assert fit.pairs == 2
    assert fit.chosen.lowest == pytest.approx(expected.chosen.lowest, abs=0.01)
    (line,) = [record.getMessage() for record in caplog.records if "0-00.png" in record.getMessage()]
    assert line.startswith(f"content: {broken}/0-00.png: ")
    more = {1: "", 9: ", as are 8 more"}[n_broken]
    assert line.endswith(f"it is passed over{more}, and the next pictures are taken")


def test_only_as_many_pictures_as_pairs_are_inverted(tmp_path, monkeypatch):
    """Looking further for pictures that can be read must not make the trial longer."""
    one_plan(monkeypatch)
    inverted, invert = [], first_pictures.precompute
    monkeypatch.setattr(first_pictures, "precompute", lambda run: invert(run) or inverted.append(run.counts.inverted))
    fit, _ = fitted(tmp_path, 10, pairs=1, content=str(contents_after_broken_ones(tmp_path / "in", 2, n=8)))
    assert fit.pairs == 1
    assert inverted == [2]  # a content and a style


@pytest.mark.parametrize("side", ["content", "style"])
def test_a_side_of_which_nothing_can_be_read_is_one_line_with_the_file_and_the_cure(tmp_path, side):
    pictures = contents_after_broken_ones(tmp_path / "in", 3, n=0)
    with pytest.raises(ConfigError) as refused:
        fitted(tmp_path, 10, **{side: str(pictures)})
    line = str(refused.value)
    assert line.startswith(f"{side}: 3 pictures looked at, and none can be read; the first: {pictures}/0-00.png: ")
    assert line.endswith(f"repair or remove it, or give other pictures as `{side}`")
    assert "diffstyle-fit" not in line  # the scratch folder, which is gone


def test_it_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    one_plan(monkeypatch)
    fit_plan(load_job(job_file(tmp_path, **SHORT)), 10, pairs=1, reference=STEPS)
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert any(line.startswith("reference, 61 calls a pair, 1 pair: 0/122 steps") for line in lines)
    assert any(line.startswith("reference, 61 calls a pair, 1 pair: done, 122 steps") for line in lines)
    assert not any("16 calls" in line for line in lines)  # one so short is told of by its row
    assert not shown.out  # which has the table, where the command shows it


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_fit, "_REFERENCE", STEPS)
    file = job_file(tmp_path, **SHORT)
    done = CliRunner().invoke(main, ["plan", str(file), "--fit", "40", "--pairs", "1"])
    assert done.exit_code == 0, done.output
    assert "of 1 pair x 2 settings" in done.output
    assert "lowest dB" in done.output
    refused = CliRunner().invoke(main, ["plan", str(file), "--pairs", "1"])
    assert refused.exit_code == 2
    assert "--pairs goes with --fit" in refused.output
