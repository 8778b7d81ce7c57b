"""Whole jobs whose pairs are rows: zipped lists and lists of pairs, with repeats and pictures that can't be read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from support.whole_jobs import SIX_PAIRS, manifest, paint, run_job

from diffstyle.errors import ConfigError
from pipeline.jobfile.load import load_job
from pipeline.runner.preview import preview_job
from pipeline.storage.identity import source_name


def made(folder: Path) -> list[tuple[str, str]]:
    """(content's file, style's file) of each picture in the manifest, sorted."""
    rows = manifest(folder / "out")
    assert (rows.status == "ok").all()
    return sorted(zip(map(source_name, rows.content_source), map(source_name, rows.style_source), strict=True))


def write_list(file: Path, *names: str) -> dict[str, str]:
    pd.DataFrame({"path": names}).to_csv(file, index=False)
    return {"list": str(file)}


def test_zip_pairs_rows_as_they_are_written(tmp_path):
    for number, name in enumerate(("a", "b", "c", "s", "t", "u")):
        paint(tmp_path / f"{name}.png", number)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    contents = write_list(tmp_path / "contents.csv", "a.png", "a.png", "b.png", "bad.png", "c.png", "a.png")
    styles = write_list(tmp_path / "styles.csv", "s.png", "t.png", "u.png", "u.png", "a.png", "s.png")
    result = run_job(tmp_path, **SIX_PAIRS | {"content": contents, "style": styles, "pairs": "zip"})
    assert made(tmp_path) == [("a.png", "s.png"), ("a.png", "t.png"), ("b.png", "u.png"), ("c.png", "a.png")]
    summary = str(result)
    assert "1 row asks for a pair that another row asks for; it is made once" in summary
    assert "1 pair can't be made" in summary
    assert "row 4: " in summary
    assert result.exit_code == 3
    assert any("6 pictures" in line for line in preview_job(load_job(tmp_path / "job.yaml")).lines())


def test_a_list_of_pairs_takes_no_other_picture(tmp_path):
    paint(tmp_path / "c" / "cats" / "001.png", 1)
    paint(tmp_path / "c" / "dogs" / "002.png", 2)
    (tmp_path / "c" / "dogs" / "001.png").write_bytes(b"no picture")
    paint(tmp_path / "c" / "a#1.png", 4)
    paint(tmp_path / "c" / "1.png", 5)
    paint(tmp_path / "s" / "s.png", 3)
    names = ["dogs/001.png", "dogs/002.png", "dogs/002.png", "a#1.png"]
    pd.DataFrame({"content": names, "style": "s.png"}).to_csv(tmp_path / "pairs.csv", index=False, sep=";")
    for name, value in (("1", 0), ("a#1", 255), ("001", 0), ("002", 0)):
        (tmp_path / "m").mkdir(exist_ok=True)
        Image.new("L", (32, 32), value).save(tmp_path / "m" / f"{name}.png")
    changes = SIX_PAIRS | {
        "content": str(tmp_path / "c"),
        "style": str(tmp_path / "s"),
        "pairs": {"list": str(tmp_path / "pairs.csv")},
        "injection": SIX_PAIRS["injection"] | {"mask": {"folder": str(tmp_path / "m")}},
    }
    result = run_job(tmp_path, **changes)
    assert made(tmp_path) == [("002.png", "s.png"), ("a#1.png", "s.png")]
    assert (len(result.counts.lost), result.counts.pairs_repeated) == (1, 1)
    (lost,) = [item for item in result.failures if item.stage == "inject"]
    assert lost.name == f"row 1 (line 2): {tmp_path}/c/dogs/001.png x {tmp_path}/s/s.png"
    assert "dogs/001.png: not an image" in lost.error
    assert result.exit_code == 3
    log = next((tmp_path / "out" / "events").iterdir()).read_text()
    assert log.count('"pair_lost"') == 1


def test_copies_of_a_picture_with_different_masks_are_refused(tmp_path):
    """A picture is made once: the mask of the second name must not be dropped without a word."""
    for name in ("a", "b"):
        paint(tmp_path / "c" / f"{name}.png", 1)
        paint(tmp_path / "m" / f"{name}.png", 2)
    masked = {"content": str(tmp_path / "c"), "injection": {"mask": {"folder": str(tmp_path / "m")}}}
    assert run_job(tmp_path, **masked).counts.pairs_made == 2, "the same mask twice is one mask"
    paint(tmp_path / "m" / "b.png", 3)
    with pytest.raises(ConfigError, match="the same picture with different masks"):
        run_job(tmp_path, **masked)
