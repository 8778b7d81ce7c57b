"""`diffstyle failures`: every rejected source and failed pair, with its reason."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from support.whole_jobs import SIX_PAIRS, run_job

import pipeline
from pipeline.cli.main import main
from pipeline.monitoring.status import NoRunError


def failures(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["failures", *map(str, words)])
    return result.exit_code, result.output


@pytest.fixture
def data(tmp_path: Path) -> dict:
    """Two contents, one of them no picture, and a style; a list of pairs that asks for both contents."""
    for side, names in (("c", ("good", "broken")), ("s", ("s",))):
        for name in names:
            file = tmp_path / side / f"{name}.png"
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), (len(name), 90, 20)).save(file)
    (tmp_path / "c" / "broken.png").write_bytes(b"no picture")
    pd.DataFrame({"content": ["good.png", "broken.png"], "style": "s.png"}).to_csv(tmp_path / "p.csv", index=False)
    return SIX_PAIRS | {
        "content": str(tmp_path / "c"),
        "style": str(tmp_path / "s"),
        "pairs": {"list": str(tmp_path / "p.csv")},
    }


def test_all_kinds_with_their_reasons(data, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.isfinite", lambda x: (x != x) if x.ndim == 4 else x == x)
    result = run_job(tmp_path, **data)
    assert result.exit_code == 3
    out = tmp_path / "out"
    code, text = failures(out)
    assert code == 0
    source, lost, pair, total = text.splitlines()
    assert source.startswith(f"rejected     {tmp_path / 'c' / 'broken.png'}: ")
    assert lost.startswith("failed       row 2 (line 3): ")
    assert "broken.png: not an image of a known format" in lost
    assert "the result is not finite" in pair
    assert pair.startswith("failed       good-")
    assert "(gamma-0.6-" in pair
    assert total == "1 rejected, 2 failed"
    assert failures(tmp_path / "job.yaml")[1] == text
    assert f"why, for each: `diffstyle failures {out}`" in str(result)
    items = pipeline.failures(out)
    assert [(item.stage, item.kind) for item in items] == [
        ("shard", "rejected"),
        ("inject", "failed"),
        ("inject", "failed"),
    ]
    assert items == result.failures
    assert len(items) == result.counts.failed


def test_as_a_table(data, tmp_path):
    run_job(tmp_path, **data)
    file = tmp_path / "failures.csv"
    code, text = failures(tmp_path / "out", "--csv", file)
    assert (code, text) == (0, f"1 rejected, 1 failed: {file}\n")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["kind"] for row in rows] == ["rejected", "failed"]
    assert rows[0]["name"] == str(tmp_path / "c" / "broken.png")
    assert rows[0]["reason"] in str(pipeline.failures(tmp_path / "out")[0])


def test_none(tmp_path):
    run_job(tmp_path, **SIX_PAIRS)
    assert failures(tmp_path / "out") == (0, "no failures\n")


def test_no_run(tmp_path):
    code, text = failures(tmp_path)
    assert code == 2
    assert text == f"error: {tmp_path}: no job was run here (there is no job.yaml); give a job's output folder\n"
    with pytest.raises(NoRunError):
        pipeline.failures(tmp_path)
