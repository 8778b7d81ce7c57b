"""`diffstyle select` as a user types it; the page's commands, too, on the tiny job's run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.synthetic_runs import pair_row, synthetic_run
from support.whole_jobs import CONTENTS, STYLES, run_job

from pipeline.cli.main import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "select.md"


def diffstyle(*words: Any) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """The run of the tiny job's pictures, in fewer steps."""
    folder = tmp_path_factory.mktemp("tiny")
    injection = {"gamma": 0.6, "t_edit": 400, "events": 2, "plan": {"grid": 4}}
    stages = ("shard", "precompute", "inject", "score")
    run_job(
        folder, stages=stages, content=str(CONTENTS), style=str(STYLES), inversion={"steps": 4}, injection=injection
    )
    return folder


def test_the_pages_commands(tiny, tmp_path, monkeypatch):
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("diffstyle select ")]
    assert len(commands) >= 5
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "tiny").symlink_to(tiny / "out")
    monkeypatch.chdir(tmp_path)
    for command in commands:
        code, said, err = diffstyle(*shlex.split(command)[1:])
        assert (code, err) == (0, ""), command
        assert "pairs chosen" in said
        assert ("--out" in command) == ("wrote " in said)
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["best", "tiny", "triplets", "web"]
    card = (tmp_path / "results" / "best" / "README.md").read_text()
    assert "diffstyle select results/tiny --out=results/best --best=edges --limit=20" in card
    (loop,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(loop, names)
    assert names["picture"].size == (32, 32)


def test_the_job_file_names_the_run(tiny):
    assert diffstyle("select", tiny / "job.yaml") == (
        0,
        "24 of 24 pairs chosen\nnothing is written; --out DATASET writes them\n",
        "",
    )


def test_what_is_said(tmp_path):
    rows = [
        pair_row(c, s, content_kept=i / 4) for i, (c, s) in enumerate([("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")])
    ]
    run = synthetic_run(tmp_path / "run", rows)
    code, said, err = diffstyle(
        "select", run, "--where", "content_kept > 0", "--per-content", 1, "--best", "-content_kept", "--drop-duplicates"
    )
    assert (code, err) == (0, "")
    assert said.splitlines() == [
        "1 left out by --where",
        "1 left out by --per-content",
        "note: 3 pairs have no scores and so no others to be compared with",
        "2 of 4 pairs chosen",
        "nothing is written; --out DATASET writes them",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "content_kep > 1"], "unknown column 'content_kep'; did you mean 'content_kept'?"),
        (["--licence", " , "], "--licence: names no licence"),
        (["--splits", "train=1,test=1"], "--splits: the shares make up 2"),
        (["--overwrite"], "--overwrite: there is no --out"),
        (["--out", "gs://bucket/set"], "object store yet"),
        (["--where", "false", "--out", "set"], "no pair is left: 1 left out by --where"),
        (["--keep", "none.csv"], "--keep none.csv: no such file"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    run = synthetic_run(tmp_path / "run", [pair_row("a", "x", content_kept=1)])
    code, _, err = diffstyle("select", run, *options)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
