"""`diffstyle new` and `diffstyle jobs`: a job file that is valid whatever it was made of."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from support.places import ROOT
from support.whole_jobs import CONTENTS, MODEL, STYLES

from diffstyle.errors import ConfigError
from pipeline.cli import new as command
from pipeline.cli.main import main
from pipeline.jobfile.load import load_job
from pipeline.jobfile.new import new_job
from pipeline.models.config import load_model_config
from pipeline.models.weights import cache_place

MODELS = (
    "shipped:demo/model/demo-64.yaml",
    "celebahq",
    str(MODEL),
    str(ROOT / "demo" / "tiny" / "tiny-ddpm.safetensors"),
)
FRACTIONS = st.floats(0, 1, allow_nan=False)
PATHS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=40)
MASKS = st.one_of(
    st.none(),
    st.just("reference"),
    st.tuples(FRACTIONS, FRACTIONS).filter(lambda two: two[0] < two[1]).map(lambda two: [two[0], 0, two[1], 1]),
    PATHS.filter(lambda text: text.count(",") != 3),
)
SETS = st.lists(
    st.sampled_from(
        [
            *("pairs=zip", "pairs={random: 3}", "pairs={list: 'my pairs #1.csv'}", "seed=[1, 2]", "score=true"),
            *("injection.t_boost=200", "injection.plan=fast", "injection.plan={grid: 100}", "injection.omega=[0, 0.5]"),
            *("injection.gamma={linear: [0.1, 0.9]}", "inversion.steps=30", "bank.keep=all", "pictures.format=webp"),
            *("compute.device=cpu", "compute.precision=bfloat16", "content.limit=5", "content={sample: 4}"),
            *("style={bank: old/banks/style}", "style.label_column=kind", "weights=random:3", "content=a $${B} c"),
        ]
    ),
    max_size=4,
)


@settings(deadline=None, max_examples=150)
@given(
    model=st.sampled_from(MODELS),
    content=PATHS,
    style=PATHS,
    output=PATHS,
    gamma=st.none() | FRACTIONS | st.lists(FRACTIONS, min_size=1, max_size=4),
    mask=MASKS,
    overrides=SETS,
    name=st.sampled_from(["job.yaml", "my job #2.yaml", "deep/er/a.yml"]),
)
def test_whatever_is_asked_for_is_a_job_file_that_says_it(
    tmp_path_factory: pytest.TempPathFactory, name: str, **asked: Any
) -> None:
    file = tmp_path_factory.mktemp("new") / name
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        text, job = new_job(file, **asked)
    except ConfigError:
        return  # a name that no path can have, or two fields that don't go together
    file.write_text(text, encoding="utf-8")
    loaded = load_job(file)
    assert loaded.model_dump(mode="json") == job.model_dump(mode="json")
    assert loaded == job
    # Every field has its comment, and none is lost.
    assert all(
        line.startswith(("#", "  ", "\n")) or ": " in line or line.endswith(":") or not line
        for line in text.split("\n")
    )


def test_most_of_what_is_asked_for_is_a_job() -> None:
    """Else the test above would look at nothing."""
    for model in MODELS:
        _, job = new_job(Path("job.yaml"), model=model, content="my photos #1", gamma="0.2, 0.4", mask="0.5,0,1,1")
        assert job.content.addresses == (os.path.abspath("my photos #1"),)  # noqa: PTH100
        assert job.injection.gamma == (0.2, 0.4)
        assert job.injection.t_edit == {"celebahq": 400, MODELS[0]: 160}.get(model, 80)  # what suits its size


def invoke(*args: object, input: str | None = None) -> Any:
    return CliRunner().invoke(main, ["new", *map(str, args)], input=input)


def test_the_command_writes_a_folder_that_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("mine", "--gamma", "0.5")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [
        "wrote mine/job.yaml",
        f"content: {tmp_path}/mine/contents is not there yet; put the pictures there",
        f"style: {tmp_path}/mine/styles is not there yet; put the pictures there",
        "next: diffstyle run mine/job.yaml --dry-run",
    ]
    text = (tmp_path / "mine" / "job.yaml").read_text()
    assert str(tmp_path) not in text
    assert invoke("other", "--content", "mine/pictures").exit_code == 0
    other = (tmp_path / "other" / "job.yaml").read_text()
    assert f"\ncontent: {tmp_path}/mine/pictures\n" in other
    assert "of what lies outside of it, `diffstyle new` writes the whole path" in other
    assert "\nmodel: shipped:demo/model/demo-64.yaml\n" in text
    (tmp_path / "mine").rename(tmp_path / "elsewhere")
    assert load_job("elsewhere/job.yaml").content.addresses == (f"{tmp_path}/elsewhere/contents",)
    again = invoke("elsewhere")
    assert (again.exit_code, again.output.count("\n")) == (2, 1)
    assert "is there already" in again.output
    assert (tmp_path / "elsewhere" / "job.yaml").read_text() == text


def test_mistakes_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    for args, message in {
        ("--gamma", "2"): "must be at most 1, not 2",
        ("--gamma", "much"): "gamma: 'much' is not a number",
        ("--model", "celebhq"): "did you mean 'celebahq'?",
        ("--set", "gamma=0.3"): "did you mean 'injection.gamma'?",
    }.items():
        done = invoke(tmp_path / "mine", *args)
        assert done.exit_code == 2
        assert message in done.output
        assert done.output.count("\n") == 1
        assert not (tmp_path / "mine").exists()


def test_on_a_terminal_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_on_a_terminal", lambda: True)
    done = invoke(tmp_path, "--style", tmp_path / "art", input="celebhq\nceleba\ncelebahq\n./photos\n\n0.2,0.4\n")
    assert done.exit_code == 0, done.output
    assert "did you mean 'celebahq'?" in done.output
    job = load_job(tmp_path / "job.yaml")
    assert (job.model, job.injection.gamma, job.injection.t_edit) == ("celebahq", (0.2, 0.4), 400)
    assert job.style.addresses == (f"{tmp_path}/art",)
    assert job.output == f"{tmp_path}/results"


def test_the_folder_of_a_new_job_stands_for_it(tmp_path: Path) -> None:
    """`diffstyle new mine` is followed by `diffstyle run mine`, and its results are looked at by the same name."""
    folder = tmp_path / "mine"
    done = invoke(folder, "--content", CONTENTS, "--style", STYLES, "--model", MODEL)
    assert done.exit_code == 0, done.output
    assert load_job(folder) == load_job(folder / "job.yaml")
    # Nothing was run yet, so none of them says that all is well.
    for name in ("status", "failures", "verify", "report", "select", "score"):
        done = CliRunner().invoke(main, [name, str(folder)])
        assert (done.exit_code, done.output.count("\n")) == (2, 1), done.output
        assert f"{folder}/results: " in done.output
    small = ["content.limit=1", "style.limit=1", "injection.events=2", "injection.plan={grid: 2}", "inversion.steps=3"]
    sets = [word for one in small for word in ("--set", one)]
    done = CliRunner().invoke(main, ["run", str(folder), "--local", "--quiet", *sets])
    assert done.exit_code == 0, done.output
    assert "1 pair (" in CliRunner().invoke(main, ["verify", str(folder)]).output
    assert "1 wanted: 1 done (100 %)" in CliRunner().invoke(main, ["status", str(folder)]).output
    done = CliRunner().invoke(main, ["run", str(folder / "results"), "--dry-run"])
    assert done.exit_code == 2
    assert f"give {folder}/results/job.yaml for the job as it was last run" in done.output


def test_a_new_job_whose_output_has_a_run_already_says_so(tmp_path: Path) -> None:
    """Two job files of one folder begin with the same output."""
    first = invoke(tmp_path / "first.yaml")
    assert "output:" not in first.output
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "job.yaml").write_text("# as a run leaves it")
    said = f"output: {tmp_path / 'results'} has the pictures of a run already, and takes this job's too; see --output\n"
    assert said in invoke(tmp_path / "second.yaml").output
    assert "pictures of a run" not in invoke(tmp_path / "third.yaml", "--output", tmp_path / "other").output


def test_a_run_never_writes_over_the_job_file_of_a_user(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert invoke(folder, "--content", CONTENTS, "--style", STYLES, "--output", folder).exit_code == 0
    text = (folder / "job.yaml").read_text()
    for options in (["--dry-run"], ["--local"]):
        done = CliRunner().invoke(main, ["run", str(folder), *options])
        assert done.exit_code == 2
        assert f"output: {folder}/job.yaml is a job file of yours" in done.output
    assert (folder / "job.yaml").read_text() == text
    assert [one.name for one in folder.iterdir()] == ["job.yaml"]


def test_a_job_may_call_the_demos_model_by_its_name(tmp_path: Path) -> None:
    assert invoke(tmp_path, "--model", "demo-64").exit_code == 0
    assert load_job(tmp_path / "job.yaml").model == "demo-64"


def test_ready_jobs_are_listed_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path))
    done = CliRunner().invoke(main, ["jobs"])
    header, *rows = done.output.splitlines()
    assert header.split("  ")[0] == "job"
    assert {row.split()[0] for row in rows} == {file.stem for file in (ROOT / "jobs").glob("*.yaml")}
    assert all(row.endswith(".") and len(row.split()) > 8 for row in rows)
    listed = {one["job"]: one for one in json.loads(CliRunner().invoke(main, ["jobs", "--json"]).output)}
    assert listed["demo"]["needs"] == "nothing"
    assert listed["tiny"]["needs"] == "nothing"
    assert listed["harmonization"]["needs"] == "pictures, weights of celebahq (not here yet)"
    assert listed["nightly"]["needs"] == "pictures, weights of afhq-dog (not here yet)"
    place = cache_place(load_model_config("celebahq"))
    place.parent.mkdir(parents=True)
    place.write_bytes(b"weights")
    listed = {one["job"]: one for one in json.loads(CliRunner().invoke(main, ["jobs", "--json"]).output)}
    assert listed["harmonization"]["needs"] == "pictures, weights of celebahq (here)"


def test_a_job_begins_with_what_suits_its_model(tmp_path: Path) -> None:
    """What the model's own file says of jobs, and all else by the size of its pictures."""
    model = tmp_path / "mine.yaml"
    about = {"name": "mine", "architecture": {"family": "adm", "image_size": 128}, "weights": {"path": "mine.pt"}}
    model.write_text(json.dumps({**about, "injection": {"gamma": 0.8, "t_start": 600, "omega": [0, 0.5]}}))
    assert invoke(tmp_path / "a", "--model", model).exit_code == 0
    begun = load_job(tmp_path / "a" / "job.yaml").injection
    assert (begun.gamma, begun.t_edit, begun.t_start, begun.omega, begun.plan) == ((0.8,), 260, 600, (0, 0.5), "fast")
    assert invoke(tmp_path / "b", "--model", model, "--gamma", "0.2", "--set", "injection.t_start=700").exit_code == 0
    begun = load_job(tmp_path / "b" / "job.yaml").injection
    assert (begun.gamma, begun.t_start) == ((0.2,), 700)
    model.write_text(json.dumps({**about, "injection": {"gama": 0.8}}))
    refused = invoke(tmp_path / "c", "--model", model)
    assert refused.output == f"error: {model}:1: injection.gama: unknown field 'gama'; did you mean 'gamma'?\n"
    assert refused.exit_code == 2
    shown = CliRunner().invoke(main, ["models", "show", str(model)])
    assert refused.output in shown.output
    assert shown.exit_code == 2


def test_a_dry_run_names_what_suits_another_model_and_the_job_does_not_say(tmp_path: Path) -> None:
    """A job of a model of 256 px whose model alone is changed; what it says itself is its own choice."""
    job = tmp_path / "job.yaml"
    job.write_text(f"{{model: afhq-dog, output: out, content: {CONTENTS}, style: {STYLES}, injection: {{gamma: 0.3}}}}")

    def notes(*overrides: str) -> list[str]:
        words = ["run", str(job), "--dry-run", *(word for one in overrides for word in ("--set", one))]
        lines = CliRunner().invoke(main, words).output.splitlines()
        return [line.strip() for line in lines if line.startswith("  note")]

    assert notes() == []
    suited = {name: value for name, value in load_model_config(MODELS[0]).injection.items() if name != "gamma"}
    options = [f"injection.{name}={value}" for name, value in suited.items()]
    assert [one.partition("=")[0] for one in options] == ["injection.t_edit", "injection.t_start"]
    values = ", ".join(f"{name} {value}" for name, value in suited.items())
    demo = f"model={MODELS[0]}"
    assert notes(demo) == [
        f"note: {values} would suit demo-64, and the job leaves the defaults; try "
        + " ".join(f"--set {one}" for one in options)
    ]
    assert notes(demo, *options) == []
    assert notes(demo, "injection.t_edit=400", options[1]) == []
    file = tmp_path / "mine.yaml"
    about = {"name": "mine", "architecture": load_model_config("afhq-dog").architecture, "weights": {"path": "mine.pt"}}
    file.write_text(json.dumps({**about, "injection": {"gama": 1}}))
    assert notes(f"model={file}") == [f"note: {file}:1: injection.gama: unknown field 'gama'; did you mean 'gamma'?"]


def test_what_suits_a_model_may_name_files_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask and directions of the model's file are taken, and relative paths in it start at its folder."""
    monkeypatch.setenv("MASKS", "masks")
    folder = tmp_path / "models"
    folder.mkdir()
    model = folder / "mine.yaml"
    model.write_text(
        "name: mine\narchitecture: {family: adm, image_size: 128}\nweights: {path: mine.pt}\n"
        "injection:\n  mask: {picture: '${MASKS}/eyes.png'}\n  edit: {directions: d.npz, component: 0, strength: 2}\n"
    )
    assert invoke(tmp_path / "a", "--model", model).exit_code == 0
    begun = load_job(tmp_path / "a" / "job.yaml").injection
    assert [mask and mask.picture for mask in begun.mask] == [str(folder / "masks" / "eyes.png")]
    assert [edit and edit.directions for edit in begun.edit] == [str(folder / "d.npz")]
    assert invoke(tmp_path / "b", "--model", model, "--mask", "reference").exit_code == 0
    assert load_job(tmp_path / "b" / "job.yaml").injection.mask == ("reference",)


def test_fast_alone_is_called_one_for_looking(tmp_path: Path) -> None:
    def plan_line(*overrides: str) -> str:
        text, _ = new_job(tmp_path / "job.yaml", overrides=overrides)
        return next(line for line in text.splitlines() if line.startswith("  plan:"))

    assert "fast is for looking" in plan_line("injection.plan=fast")
    assert "looking" not in plan_line("injection.plan=reference")
    assert "docs/speed.md" in plan_line("injection.plan=reference")
