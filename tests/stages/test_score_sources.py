"""Scores that need what is not in the run's own output: the sources of a job from banks, and a style's own return."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from support.whole_jobs import job_file, manifest, run_job

from pipeline.cli import options
from pipeline.cli.main import main
from pipeline.results.scores import SCORES

OF_SOURCES = [name for name in SCORES if name != "style_returns"]


@pytest.fixture(scope="module")
def banks(tmp_path_factory) -> Path:
    """The output of a run that stopped at its banks."""
    folder = tmp_path_factory.mktemp("banks")
    run_job(folder, stages=("shard", "precompute"))
    return folder / "out"


def said(*words: str) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def scored(out: Path, *more: str) -> str:
    return said("score", str(out), "--local", "--quiet", *more)


def scores(out: Path) -> pd.DataFrame:
    table = pd.read_parquet(out / "scores").sort_values("pair", ignore_index=True)
    assert table["pair"].is_unique
    return table


def from_banks(folder: Path, banks: Path) -> Path:
    """The output of a job whose contents and styles are banks, four pairs."""
    sides = {side: {"bank": str(banks / "banks" / side)} for side in ("content", "style")}
    run_job(folder, **sides)
    return folder / "out"


def test_a_job_from_banks_is_scored_by_the_pictures_beside_them(banks, tmp_path):
    out = from_banks(tmp_path, banks)
    text = scored(out)
    assert "scored 4 pictures" in text
    assert "stay empty" not in text
    run_job(tmp_path / "whole", stages=("shard", "precompute", "inject", "score"))
    pd.testing.assert_frame_equal(scores(out)[OF_SOURCES], scores(tmp_path / "whole" / "out")[OF_SOURCES])


def test_banks_that_stand_alone_are_told_by_all(banks, tmp_path):
    """No command is named that does not help; once the pictures are back, the next `score` fills the scores in."""
    alone = shutil.copytree(banks, tmp_path / "alone")
    shutil.move(alone / "shards", tmp_path / "shards")
    out = from_banks(tmp_path, alone)
    for before in (0, 4):
        text = scored(out)
        assert f"{before} had scores already" in text
        assert "2 prepared contents are not here" in text
        assert "these scores of 4 pictures stay empty: edges, content_cosine" in text
        assert "2 prepared styles are not here" in text
    assert scores(out)[list(SCORES)].isna().all().all()
    assert scores(out)["phash"].notna().all()

    text = said("report", str(out), "--quiet")
    assert "4 pairs were scored, but have empty scores only: the prepared pictures" in text
    assert "diffstyle score" not in text
    assert '"unsourced":4' in (out / "report" / "data" / "facts.js").read_text()
    text = said("select", str(out), "--best", "edges", "--limit", "2", "--out", str(tmp_path / "best"))
    assert "2 of the chosen pairs have no edges; they came last: the prepared pictures" in text

    shutil.move(tmp_path / "shards", alone / "shards")
    text = scored(out)
    assert "scored 4 pictures; 0 had scores already" in text
    assert "stay empty" not in text
    assert scores(out)[OF_SOURCES].notna().all().all()
    assert "scored 0 pictures; 4 had scores already" in scored(out)


def test_on_a_terminal_the_next_command_is_named(tmp_path, monkeypatch):
    job, out = job_file(tmp_path), tmp_path / "out"
    monkeypatch.setattr(options, "on_a_terminal", lambda: True)
    words = "run", str(job), "--local"
    assert said(*words).endswith(f"next: diffstyle score {out}")
    assert "next:" not in said(*words)  # nothing was made
    run_again = "--set", "injection.gamma=0.9", "--set", "score=true"
    assert said(*words, *run_again).endswith(f"next: diffstyle report {out}")
    assert said("score", str(out), "--local").endswith(f"next: diffstyle report {out}")
    monkeypatch.undo()
    assert "next:" not in said("score", str(out), "--local")


def test_a_later_score_fills_in_how_styles_return(tmp_path, caplog):
    run_job(tmp_path, stages=("shard", "precompute", "inject"))
    out = tmp_path / "out"
    scored(out)
    calls = manifest(out)["network_calls"].sum()
    assert f"more than 4.5% of the {calls:,} that the pictures took; `diffstyle reconstruct " in caplog.text
    before = scores(out)
    assert before["style_returns"].isna().all()
    said("reconstruct", str(out / "banks" / "style"), "--local", "--quiet")
    assert "scored 0 pictures; 4 had scores already style_returns filled in for 4 pictures scored before" in scored(out)
    after = scores(out)
    assert after["style_returns"].notna().all()
    assert after["style_returns"].nunique() == 2
    pd.testing.assert_frame_equal(after.drop(columns="style_returns"), before.drop(columns="style_returns"))
    assert "filled in" not in scored(out)


def test_styles_of_a_bank_that_is_given_are_filled_in_too(banks, tmp_path):
    mine = shutil.copytree(banks, tmp_path / "mine")
    out = from_banks(tmp_path, mine)
    scored(out)
    assert scores(out)["style_returns"].isna().all()
    assert not (mine / "banks" / "style" / "columns").exists()  # another run's, perhaps in use
    said("reconstruct", str(mine / "banks" / "style"), "--job", str(tmp_path / "job.yaml"), "--local", "--quiet")
    scored(out)
    assert scores(out)["style_returns"].notna().all()
