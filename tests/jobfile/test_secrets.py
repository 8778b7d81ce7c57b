"""Secrets in a job: written as ``${NAME}``, masked in all that is said, and the job reads back as itself."""

from __future__ import annotations

import posixpath
import shutil
import tarfile
import traceback
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from support.whole_jobs import CONTENTS, MODEL, STYLES, job_file, paint

from pipeline.cli.main import main
from pipeline.jobfile.load import load_job
from pipeline.monitoring.events import EventLog, read_events
from pipeline.runner.api import run
from pipeline.storage import masking
from pipeline.storage.identity import source_text
from pipeline.storage.masking import masked, remember
from pipeline.storage.place import Place

SECRET = "hunter2/hunter2"


@pytest.fixture
def vault(tmp_path, monkeypatch) -> Path:
    """A folder whose path is the secret, with all that a job can name."""
    monkeypatch.setenv("STORE_SECRET", SECRET)
    folder = tmp_path / SECRET
    shutil.copytree(CONTENTS, folder / "c")
    shutil.copytree(STYLES, folder / "s")
    (folder / "c" / "broken.png").write_bytes(b"no picture")
    (folder / "c" / "notes.xyz").write_text("passed over")
    config = yaml.safe_load(MODEL.read_text())
    shutil.copy(MODEL.parent / config["weights"]["path"], folder / "w.safetensors")
    config["weights"]["path"] = "w.safetensors"
    (folder / "m.yaml").write_text(yaml.safe_dump(config))
    paint(folder / "mask.png", 3)
    contents, styles = (sorted((folder / side).rglob("*.png")) for side in ("c", "s"))
    rows = "".join(f"{content.name},{styles[0].name}\n" for content in contents[:2])  # by their paths from the folders
    (folder / "pairs.csv").write_text("content,style\n" + rows)
    return folder


def secret_job(folder: Path, **changes) -> Path:
    job = {
        "model": "${STORE_SECRET}/m.yaml",
        "weights": "${STORE_SECRET}/w.safetensors",
        "output": "${STORE_SECRET}/out",
        "content": {"folder": "${STORE_SECRET}/c", "label_column": "a${STORE_SECRET}"},
        "style": {"any": [f"{folder}/${{STORE_SECRET}}/s"]},
        "pairs": {"list": "${STORE_SECRET}/pairs.csv"},
        "injection": {"mask": {"picture": "${STORE_SECRET}/mask.png"}},
    }
    return job_file(folder, **{**job, **changes})


def leaks(output: Path) -> list[str]:
    """The files below that hold the secret, in their bytes or in a table's cells."""
    leaking = []
    for file in sorted(output.rglob("*")):
        if file.is_file():
            cells = str(pd.read_parquet(file).to_dict()) if file.suffix == ".parquet" else ""
            if SECRET.encode() in file.read_bytes() or SECRET in cells:
                leaking.append(str(file.relative_to(output)))
    return leaking


def test_a_run_writes_and_says_no_secret(vault, tmp_path, caplog):
    file = secret_job(tmp_path)
    result = CliRunner().invoke(main, ["run", "--local", str(file)])
    assert result.exit_code == 3  # the broken picture
    assert "made 2 pairs" in result.output
    assert SECRET not in result.output
    assert SECRET not in caplog.text
    assert leaks(vault / "out") == []
    assert "${STORE_SECRET}" in (vault / "out/job.yaml").read_text()
    assert "${STORE_SECRET}" in next((vault / "out/events").iterdir()).read_text()
    # All of it is known again: masking a source's name must not make its pictures new ones.
    again = CliRunner().invoke(main, ["run", "--local", "-q", str(file)])
    assert "prepared 0 pictures" in again.output
    assert "made 0 pairs" in again.output
    assert load_job(vault / "out/job.yaml") == load_job(file)


def test_the_name_of_a_tar_is_no_leak(vault, tmp_path):
    with tarfile.open(vault / "t.tar", "w") as tar:
        for file in [*sorted((vault / "c").rglob("*.png"))[:2], vault / "c/notes.xyz"]:
            tar.add(file, file.name)
    paths = {"content": {"webdataset": "${STORE_SECRET}/{s,t}.tar"}, "style": "${STORE_SECRET}/t.tar", "pairs": "all"}
    shutil.copy(vault / "t.tar", vault / "s.tar")
    file = secret_job(tmp_path, **paths)
    for _ in range(2):
        result = CliRunner().invoke(main, ["shard", "--local", str(file)])
        assert result.exit_code == 0
        assert SECRET not in result.output
        assert leaks(vault / "out") == []
    assert "prepared 0 pictures" in result.output


@pytest.mark.parametrize("options", [[], ["-v"]])
@pytest.mark.parametrize(
    "changes",
    [
        {"content": "${STORE_SECRET}/none"},
        {"model": "${STORE_SECRET}"},
        {"injection": {"gamma": "${STORE_SECRET}"}},
        {"injection": {"plan": "${STORE_SECRET}"}},
        {"pictures": {"format": "${STORE_SECRET}"}},
        {"output": "s3://login:${STORE_SECRET}@bucket/out"},
        {"pairs": {"random": "${STORE_SECRET}"}},
        {"content": {"list": "${STORE_SECRET}/pairs.csv"}},
        {"content": "${STORE_SECRET}/{a,b}.tar"},
    ],
)
def test_an_error_says_no_secret(vault, tmp_path, changes, options):
    result = CliRunner().invoke(main, [*options, "run", "-q", str(secret_job(tmp_path, **changes))])
    assert result.exit_code == 2
    assert result.output.count("error: ") >= 1
    assert "hunter2" not in result.output


@pytest.mark.parametrize(
    "changes",
    [{}, {"content": "${STORE_SECRET}/empty"}, {"weights": "${STORE_SECRET}/c/broken.png"}],
)
def test_an_error_in_a_notebook_says_no_secret(vault, tmp_path, monkeypatch, changes):
    """Nor do the errors that caused it, which are printed too."""

    def broken(*arguments: object) -> None:
        try:
            open(f"{vault}/none")  # noqa: SIM115, PTH123
        except OSError as error:
            raise RuntimeError(f"no such thing as {vault} or s3://key:secret@bucket/x") from error

    (vault / "empty").mkdir()
    if not changes:
        monkeypatch.setattr("pipeline.runner.run.Run.__init__", broken)
    with pytest.raises(Exception, match=r"\$\{STORE_SECRET\}") as caught:
        run(secret_job(tmp_path, **changes), local=True, quiet=True)
    printed = traceback.format_exception_only(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        printed += [*traceback.format_exception_only(error), repr(error)]
        error = error.__cause__ or error.__context__
    assert SECRET not in "".join(printed)
    assert run.__doc__.startswith("Run a job")


def test_a_bug_says_no_secret(vault, tmp_path, monkeypatch):
    def broken(*arguments: object) -> None:
        raise RuntimeError(f"no such thing as {vault} or s3://key:secret@bucket/x")

    monkeypatch.setattr("pipeline.runner.run.Run.__init__", broken)
    result = CliRunner().invoke(main, ["run", "-q", str(secret_job(tmp_path))])
    assert result.exit_code == 1
    assert "this is a bug" in result.output
    assert "${STORE_SECRET}" in result.output
    assert "s3://***@bucket/x" in result.output
    assert SECRET not in result.output


def test_events_mask_what_they_are_given(tmp_path):
    remember("STORE_SECRET", SECRET)
    with EventLog(Place.parse(tmp_path), "r") as log:
        log.log(
            "x", place=Place("s3", f"b/{SECRET}"), url="https://me:pa/ss@host/x", inner=[{f"k{SECRET}": f"<{SECRET}"}]
        )
    (event,) = read_events(Place.parse(tmp_path))
    assert event["place"] == "s3://b/${STORE_SECRET}"
    assert event["url"] == "https://***@host/x"
    assert event["inner"] == [{"k${STORE_SECRET}": "<${STORE_SECRET}"}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://key:secret@bucket/a", "s3://***@bucket/a"),
        ("see https://token@host/a, and s3://a:b/c@d/e", "see https://***@host/a, and s3://***@d/e"),
        ("http://host:8000/a@2x.png", "http://host:8000/a@2x.png"),
        ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
        ("mail a:b@c", "mail a:b@c"),
    ],
)
def test_logins_in_addresses_are_masked(text, expected):
    assert masked(text) == expected


def test_plain_variables_are_written_by_name_and_said_by_value(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA", "sets/one")
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setenv("STEPS", "20")
    file = tmp_path / "job.yaml"
    file.write_text(
        "model: afhq-dog\noutput: ${OUT}/a$$B\ncontent: ${DATA}/c\nstyle: ./$5\ninversion: {steps: '${STEPS}'}\n"
    )
    job = load_job(file)
    assert job.output == str(tmp_path / "out/a$B")
    assert job.content.addresses == (str(tmp_path / "sets/one/c"),)
    written = yaml.safe_load(job.to_yaml())
    assert written["output"] == "${OUT}/a$$B"
    assert written["content"] == {"any": f"{tmp_path}/${{DATA}}/c", "allow_outside": False}
    assert written["style"]["any"] == str(tmp_path / "$5")
    assert written["inversion"]["steps"] == 20
    moved = tmp_path / "elsewhere" / "job.yaml"
    moved.parent.mkdir()
    moved.write_text(job.to_yaml())
    assert load_job(moved) == job
    assert load_job(moved).to_yaml() == job.to_yaml()
    with pytest.raises(Exception, match=str(tmp_path / "sets/one/c")):
        load_job(file, check_inputs=True)


@pytest.mark.parametrize("value", ["hunt//er2pass", "hunt#er2pass", "hunt%23er2pass", "a/./hunter2", "hunter2//#x"])
def test_a_secret_is_masked_in_the_forms_that_a_path_takes(monkeypatch, value):
    monkeypatch.setattr(masking, "_SECRETS", {})
    masking.remember("MY_TOKEN", value)
    for form in (value, posixpath.normpath(value), source_text(value), source_text(posixpath.normpath(value))):
        assert masking.masked(f"/data/{form}/x") == "/data/${MY_TOKEN}/x", form
