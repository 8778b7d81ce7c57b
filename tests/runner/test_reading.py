"""What a data set is read by is part of what its shards are: other columns of the same rows are other pictures."""

from __future__ import annotations

import pandas as pd
import pytest
from support.whole_jobs import CONTENTS, manifest, run_job

from pipeline.storage.stored_description import DescriptionError


@pytest.fixture
def table(tmp_path):
    """Two pictures in a row, as columns ``photo`` and ``painting``, and two captions."""
    first, second = (file.read_bytes() for file in sorted(CONTENTS.glob("*.png"))[:2])
    file = tmp_path / "data" / "table.parquet"
    file.parent.mkdir()
    pd.DataFrame({"photo": [first], "painting": [second], "one": ["a"], "two": ["b"]}).to_parquet(file)
    return file


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        ({"image_column": "photo"}, {"image_column": "painting"}, "image_column"),
        (
            {"image_column": "photo", "caption_column": "one"},
            {"image_column": "photo", "caption_column": "two"},
            "caption_column",
        ),
    ],
)
def test_other_columns_are_refused_and_nothing_is_taken_for_them(tmp_path, table, before, after, name):
    run_job(tmp_path, content={"parquet": str(table), **before})
    made = manifest(tmp_path / "out")
    with pytest.raises(DescriptionError, match=f"reading.{name} is"):
        run_job(tmp_path, content={"parquet": str(table), **after})
    assert len(manifest(tmp_path / "out")) == len(made)
    run_job(tmp_path, content={"parquet": str(table), **before})  # the same columns go on


def test_a_link_that_changes_between_two_runs_is_asked_again(tmp_path):
    data, outside = tmp_path / "data", tmp_path / "outside"
    for folder, picture in ((data / "sub", 0), (outside, 1)):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(sorted(CONTENTS.glob("*.png"))[picture].read_bytes())
    (data / "link").symlink_to("sub")
    (data / "list.csv").write_text("path\nlink/a.png\n")
    assert run_job(tmp_path / "one", content={"list": str(data / "list.csv")}).counts.prepared
    (data / "link").unlink()
    (data / "link").symlink_to(outside)
    with pytest.raises(Exception, match="lies outside"):
        run_job(tmp_path / "two", content={"list": str(data / "list.csv")})
