"""Mistakes of who calls from Python: one line of ours each, never the words of a library underneath."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.whole_jobs import CONTENTS, MODEL, QUICK, SIX_PAIRS, job_file, run_job

import pipeline
from diffstyle.errors import ConfigError, DiffStyleError


def line_of(call) -> str:
    with pytest.raises(DiffStyleError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert "pydantic" not in text
    return text


def test_a_job_says_its_mistakes_as_a_job_file_does():
    job = {"model": str(MODEL), "output": "out", "content": str(CONTENTS), "style": str(CONTENTS)}
    assert pipeline.Job(**job).injection.gamma == (0.3,)
    said = line_of(lambda: pipeline.Job(**job, injection={"gama": 1}))
    assert said == "Job: injection.gama: unknown field 'gama'; did you mean 'gamma'?"
    assert "injection.gamma: must be at most 1, not 7" in line_of(lambda: pipeline.Job(**job, injection={"gamma": 7}))
    assert "is required (and 3 more mistakes)" in line_of(lambda: pipeline.Job())
    assert "content: must be" in line_of(lambda: pipeline.Job(**{**job, "content": 3}))


@pytest.mark.parametrize("kind", [str, Path, lambda path: [path], lambda path: {"folder": str(path)}])
def test_a_data_set_is_opened_by_whatever_names_it(kind):
    assert pipeline.open_source(kind(CONTENTS)).count() == pipeline.open_source(str(CONTENTS)).count() > 2


def test_what_names_no_data_set():
    assert "must be text, not 3" in line_of(lambda: pipeline.open_source(3))
    assert "unknown field 'folders'; did you mean 'folder'?" in line_of(lambda: pipeline.open_source({"folders": "x"}))
    assert "no such file or folder" in line_of(lambda: pipeline.open_source(Path("nowhere")))


def test_what_is_no_bank_and_no_output(tmp_path):
    file = job_file(tmp_path)
    assert line_of(lambda: pipeline.LatentBank.open(file)) == (
        f"{file}: this is a file; give the folder that holds description.json"
    )
    for call in (pipeline.LatentBank.open, pipeline.Manifest, pipeline.status, pipeline.preview, pipeline.run):
        assert "3: give a" in line_of(lambda call=call: call(3))


def test_a_column_that_the_manifest_does_not_have(tmp_path):
    run_job(tmp_path, stages=("shard",))
    for manifest in (pipeline.Manifest(tmp_path / "out"), pipeline.Manifest(tmp_path / "new")):
        said = line_of(lambda manifest=manifest: manifest.table(["pair", "gama"]))
        assert "unknown column 'gama'; did you mean 'gamma'?" in said


@pytest.mark.parametrize("limit", [-1, 1.5, "3", True])
def test_a_limit_of_failures_that_is_none(tmp_path, limit):
    file = job_file(tmp_path)
    said = line_of(lambda: pipeline.run(file, local=True, max_failures=limit))
    assert said == f"max_failures: must be a whole number from 0, or None, not {limit!r}"
    assert not (tmp_path / "out").exists()


ONE_PAIR = {
    **SIX_PAIRS,
    "content": {**SIX_PAIRS["content"], "limit": 1},
    "style": {**SIX_PAIRS["style"], "limit": 1},
    "score": True,
}


def test_what_a_notebook_shows_is_short_and_in_words(tmp_path):
    """Of a result, what it holds, a preview, a status and a job: no classes of the inside, and of one no plural."""
    job = pipeline.load_job(job_file(tmp_path, **ONE_PAIR))
    first = pipeline.preview(job)
    result = pipeline.run(job, local=True, quiet=True)
    names = [name for name in vars(type(result)) if isinstance(getattr(type(result), name), property)]
    parts = {name: getattr(result, name) for name in [*names, *vars(result)]}
    assert {"counts", "contact_sheets", "scores", "banks", "bank_places", "failures"} < set(parts)
    shown = {**parts, "result": result, "first": first, "last": pipeline.preview(job), "job": job}
    shown |= {"status": pipeline.status(result.output), "source": pipeline.open_source(str(CONTENTS))}
    for name, value in shown.items():
        assert " object at 0x" not in f"{value}{value!r}", name
        assert "scheme=" not in f"{value}{value!r}", name
        assert len(repr(value)) < 400, (name, repr(value))
        things = "pictures|pairs|calls|timesteps|decodes|injections|steps"
        assert re.search(rf"(?<![\d.])1 [a-z ]*?({things})\b", str(value)) is None, name
    assert repr(result.contact_sheets[0]) == f"Place('{result.contact_sheets[0]}')"
    assert repr(result.counts) == "<RunCounts: made 1 pair, 0 there already, 0 failures>"
    assert "pairs_made       1" in str(result.counts).splitlines()
    assert f"content    1 picture in {CONTENTS}" in str(first).splitlines()


def test_stages_are_a_list(tmp_path):
    with pytest.raises(ConfigError, match=r'stages: give a list, \["shard"\], not \'shard\''):
        pipeline.run(job_file(tmp_path), local=True, stages="shard")
    assert QUICK["output"] == "out"
