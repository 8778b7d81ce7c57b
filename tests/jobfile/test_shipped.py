"""What travels with the code: ready jobs, by name and by path, and ``shipped:`` addresses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from support.places import ROOT

from pipeline.cli.main import main
from pipeline.jobfile.load import load_job
from pipeline.jobfile.schema import Job
from pipeline.results.words import setting_words
from pipeline.sources import open_source
from pipeline.stages.recipe import as_json
from pipeline.storage import shipped
from pipeline.storage.shipped import shipped_files
from pipeline.storage.yamlfile import MistakesError

READY = sorted(shipped_files("jobs"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> Path:
    """The working directory is neither the tree's nor that of the file."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_demo_labels_the_styles_that_its_model_never_saw():
    blocks = open_source(load_job("demo").style).blocks({})
    labels = [picture.label for block in blocks for picture in block.pictures()]
    assert sorted(labels) == ["styles"] * 6 + ["unseen-styles"] * 2


def test_the_demo_says_of_its_two_sheets_which_is_the_masked_one():
    settings = [one.to_dict() for one in load_job("demo").settings()]
    rows = [
        {"gamma": 1.0, **{n: one[n] for n in ("t_edit", "omega")}, "mask": as_json(one["mask"])} for one in settings
    ]
    rows = [{**row, "mask": None if row["mask"] == "null" else row["mask"]} for row in rows]
    plain, masked = setting_words(rows, all_of_one=True)
    assert plain == "gamma 1, t_edit 160, no mask"
    said = "mask rectangle 0.5, 0, 1, 1"
    assert said in masked
    assert said in shipped_files("jobs")["demo"].read_text()


@pytest.mark.parametrize("name", READY)
def test_a_ready_jobs_paths_start_at_the_working_directory(name, elsewhere, tmp_path):
    file = shipped_files("jobs")[name]
    by_name = load_job(name)
    assert load_job(file) == by_name
    (tmp_path / "link.yaml").symlink_to(file)
    assert load_job("../link.yaml") == by_name
    copy = shutil.copy(file, tmp_path / "copy.yaml")
    if "://" in by_name.output:  # the same wherever it is called
        assert load_job(copy) == by_name
        return
    assert Path(by_name.output).is_relative_to(elsewhere)
    assert Path(load_job(copy).output).relative_to(tmp_path) == Path(by_name.output).relative_to(elsewhere)


def test_the_demo_writes_where_the_readme_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert load_job("jobs/demo.yaml").output == load_job("demo").output == str(ROOT / "results" / "demo")


@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_these_bring_all_that_they_read(name, elsewhere):
    Path(name).mkdir()  # a folder of that name is no job
    done = CliRunner().invoke(main, ["run", name, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert str(elsewhere / "results" / name) in done.output


def test_a_file_of_that_name_is_taken_before_the_ready_job(elsewhere):
    Path("tiny").write_text("model: shipped:demo/tiny/tiny-model.yaml\noutput: mine\ncontent: c\nstyle: s\n")
    assert load_job("tiny").output == str(elsewhere / "mine")


def own(**changes: str) -> dict[str, str]:
    tiny = "shipped:demo/tiny"
    values = {"model": f"{tiny}/tiny-model.yaml", "content": f"{tiny}/pictures/contents", "style": "s", "output": "o"}
    return values | changes


def test_they_may_be_named_in_any_job(elsewhere, monkeypatch):
    tiny = ROOT / "demo" / "tiny"
    job = Job.model_validate(own(weights="shipped:demo/tiny/tiny-ddpm.safetensors", style="shipped:demo/{styles,tiny}"))
    assert (job.model, job.weights) == (str(tiny / "tiny-model.yaml"), str(tiny / "tiny-ddpm.safetensors"))
    assert (job.content.any, job.style.any) == (str(tiny / "pictures" / "contents"), f"{ROOT}/demo/{{styles,tiny}}")
    given = load_job("tiny", ["content=shipped:demo/contents", "style.folder=['shipped:demo/styles']"])
    assert (given.content.any, given.style.folder) == (f"{ROOT}/demo/contents", [f"{ROOT}/demo/styles"])
    # What begins so and lies in the job's folder.
    assert Job.model_validate(own(content="./shipped:demo")).content.any == str(elsewhere / "shipped:demo")


def test_variables_in_them_are_written_again_as_they_were(elsewhere, monkeypatch):
    monkeypatch.setenv("SIDE", "contents")
    Path("job.yaml").write_text(yaml.safe_dump(own(content="shipped:demo/${SIDE}")))
    job = load_job("job.yaml")
    assert job.content.any == str(ROOT / "demo" / "contents")
    assert job.model_dump(context={"as_written": True})["content"]["any"] == "shipped:demo/${SIDE}"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"content": "shipped:dmo/contents"},
            "content: shipped:dmo/contents: no folder that comes with DiffStyle; after shipped: write configs/..., "
            "demo/... or jobs/...",
        ),
        ({"content": "shipped:"}, "content: shipped:: no folder that comes with DiffStyle"),
        ({"style": "shipped:demo/../../secrets"}, "style: shipped:demo/../../secrets: no folder that comes with"),
        ({"style": "shipped:demo/none"}, f"style: {ROOT}/demo/none: no such file or folder"),
        ({"output": "shipped:demo"}, "output: shipped:demo: what comes with DiffStyle is only read; give a folder of"),
    ],
    ids=["unknown", "empty", "up", "absent", "written"],
)
def test_a_wrong_one_is_one_line(changes, line):
    Path("s").mkdir()
    Path("job.yaml").write_text(yaml.safe_dump(own(**changes)))
    done = CliRunner().invoke(main, ["run", "job.yaml", "--dry-run"])
    assert done.exit_code == 2
    (said,) = done.stderr.splitlines()
    assert line in said


def test_a_build_without_the_demo_says_so(tmp_path, monkeypatch):
    """As an older wheel: its package lies beside others, one of which may be called ``demo``."""
    package = tmp_path / "site-packages" / "pipeline"
    shutil.copytree(ROOT / "jobs", package / "_shipped" / "jobs")
    (package.parent / "demo" / "contents").mkdir(parents=True)
    monkeypatch.setattr(shipped, "_PACKAGE", package)
    with pytest.raises(MistakesError) as caught:
        load_job("demo")
    assert len(caught.value.mistakes) == 4
    for mistake in caught.value.mistakes:
        assert "this build of DiffStyle carries no folder 'demo'; install it from its source tree" in mistake


def test_a_ready_job_that_needs_pictures_says_how_to_name_them():
    """Its own default, a folder here, is no mistake of the user's file."""
    with pytest.raises(MistakesError) as caught:
        load_job("harmonization", check_inputs=True)
    assert len(caught.value.mistakes) == 2
    for side, line in zip(("content", "style"), caught.value.mistakes, strict=True):
        assert line.endswith(f": no such file or folder; name yours by --set {side}=FOLDER")
