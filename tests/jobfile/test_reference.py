"""The reference of a job's fields: all are there, with their defaults, and the page shows what the schema says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pipeline.jobfile.reference import GROUPS, job_fields, table
from pipeline.jobfile.schema import Job

PAGE = Path(__file__).parents[2] / "docs/job-file.md"
LEAST = {"model": "m", "output": "o", "content": "c", "style": "s"}


def leaves(values: dict, prefix: str = "") -> dict[str, object]:
    """Dotted name -> value of all that a job writes out."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def test_all_that_a_job_writes_out_has_a_meaning_and_the_default_that_is_told() -> None:
    job = leaves(Job.model_validate(LEAST).model_dump(mode="json", by_alias=True))
    fields = {field.path: field for field in job_fields()}
    own = {path: value for path, value in job.items() if path.partition(".")[0] not in LEAST}
    assert set(own) <= set(fields)
    assert set(LEAST) <= set(fields)
    for path, value in own.items():
        assert yaml.safe_load(fields[path].default) == value, path


def test_each_field_is_told_once_in_several_words() -> None:
    paths = [field.path for field in job_fields()]
    assert len(paths) == len(set(paths)) > 60
    assert [field.path for field in job_fields() if len(field.meaning.split()) < 3] == []
    assert {"injection.mask.folder", "injection.plan.aligned.tail", "content.seed", "pairs.list"} <= set(paths)


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_the_page_shows_what_the_schema_says(group: str) -> None:
    shown = re.search(
        rf"<!-- fields of {group or 'the job'} -->\n(.*?)\n<!-- end -->", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert shown, f"{PAGE}: run `python docs/fill_tables.py`"
    assert shown[1].splitlines() == table(group), f"{PAGE}: run `python docs/fill_tables.py`"


def test_every_group_is_in_a_table() -> None:
    rows = {row for group in ("", *GROUPS) for row in table(group)}
    assert {field.path for field in job_fields()} == {m[1] for row in rows if (m := re.match(r"\| `([\w.]+)`", row))}
