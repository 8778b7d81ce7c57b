"""A run that is refused changes nothing: no file, no folder, no byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support.whole_jobs import CONTENTS, MODEL, STYLES, job_file, run_job

from diffstyle.errors import DiffStyleError
from pipeline.cli.main import main


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    """A folder with a job that has run and was scored."""
    folder = tmp_path_factory.mktemp("earlier")
    run_job(folder, stages=("shard", "precompute", "inject", "score"))
    return folder


@pytest.fixture
def there(earlier, tmp_path) -> Path:
    folder = tmp_path / "job"
    shutil.copytree(earlier, folder)
    return folder


def everything(out: Path) -> dict[str, bytes | None]:
    """Path -> bytes of every file, None for folders, hidden ones too."""
    return {str(path.relative_to(out)): path.read_bytes() if path.is_file() else None for path in out.rglob("*")}


def without_lock(files: dict[str, bytes | None]) -> dict[str, bytes | None]:
    return {path: data for path, data in files.items() if path.split("/")[0] != ".lock"}


def refused(folder: Path, *arguments: str, command: str = "run", **changes) -> str:
    file = job_file(folder, **changes)
    result = CliRunner().invoke(main, [command, str(file), "--local", "--quiet", *arguments])
    assert result.exit_code == 2, result.output
    (line,) = result.output.splitlines()
    assert line.startswith("error: ")
    return line


def edited(path: Path, change: Callable[[dict], None]) -> None:
    """A description as another release, or another program, would have written it."""
    description = json.loads(path.read_text())
    change(description["identity"])
    del description["hash"]
    path.write_text(json.dumps(description))


# ---- those that show before the lock is taken: not a byte differs ----


def empty_folder(folder: Path) -> dict:
    (folder / "empty").mkdir()
    return {"style": "./empty"}


def bank_of(folder: Path, side: str, change: Callable[[dict], None] = lambda identity: None) -> dict:
    bank = folder / f"another-{side}"
    shutil.copytree(folder / "out" / "banks" / side, bank)
    edited(bank / "description.json", change)
    return {"bank": str(bank)}


def list_without_rows(folder: Path) -> dict:
    (folder / "pairs.csv").write_text("content,style\n")
    return {"pairs": {"list": "pairs.csv"}}


def broken_mask(folder: Path) -> dict:
    (folder / "mask.png").write_bytes(b"no picture")
    return {"injection": {"mask": {"picture": "./mask.png"}}}


def wrong_weights(folder: Path) -> dict:
    torch.save({"weights": torch.zeros(3)}, folder / "other.pt")
    return {"weights": "./other.pt"}


def no_directions(folder: Path) -> dict:
    (folder / "d.npz").write_bytes(b"no directions")
    return {"injection": {"edit": {"directions": "./d.npz", "component": 0, "strength": 1}}}


def own_output(folder: Path) -> dict:
    return {"content": "./out/pictures"}


def damaged(name: str) -> Callable[[Path], dict]:
    def damage(folder: Path) -> dict:
        (folder / "out" / name).write_text("{")
        return {}

    return damage


def other_kind(name: str) -> Callable[[Path], dict]:
    def change(folder: Path) -> dict:
        edited(folder / "out" / name, lambda identity: identity.update(format_version=99, format=99))
        return {"score": True}

    return change


def damaged_batches(folder: Path) -> dict:
    (folder / "out" / "batches.json").write_text("{")
    return {"compute": {"batch": "auto"}}


@pytest.mark.parametrize("more", [{}, {"bank": {"keep": "all"}}, {"injection": {"events": "every"}}], ids=str)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_job_that_injects_nothing(tmp_path: Path, more: dict, command: str) -> None:
    """Its pictures would be the styles as they are; the line says which fields, and where events are."""
    injection = {"t_edit": 410, "t_start": 500, **more.get("injection", {})}
    file = job_file(tmp_path, **{**more, "injection": injection})
    result = CliRunner().invoke(main, [command, str(file), *(["--local", "--quiet"] if command == "run" else [])])
    (line,) = (line for line in result.output.splitlines() if "no content would be injected" in line)
    assert "no event lies from t_edit 410 to t_start 500; the nearest are at 399 and 599" in line
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


EARLY: dict[str, Callable[[Path], dict]] = {
    "an unknown field": lambda folder: {"injection": {"gama": 0.3}},
    "a data set that is missing": lambda folder: {"content": "./nowhere"},
    "an empty data set": empty_folder,
    "the output as data set": own_output,
    "a data set that is no list": lambda folder: {"content": {"list": str(folder / "job.yaml")}},
    "wrong weights": wrong_weights,
    "a device that is not there": lambda folder: {"compute": {"device": "mps"}},
    "a bank of another model": lambda folder: {
        "content": bank_of(folder, "content", lambda identity: identity.update(model_fingerprint="0" * 32))
    },
    "a bank of another size": lambda folder: {
        "style": bank_of(folder, "style", lambda identity: identity.update(image_size=64))
    },
    "a bank of the other side": lambda folder: {"style": bank_of(folder, "content")},
    "a bank that lacks an h": lambda folder: {"content": bank_of(folder, "content"), "injection": {"t_edit": 0}},
    "unequal sides": lambda folder: {"pairs": "zip", "style": {"folder": str(STYLES), "limit": 1}},
    "a list of no pairs": list_without_rows,
    "a mask that is no picture": broken_mask,
    "no file of directions": no_directions,
    "a damaged bank": damaged("banks/content/description.json"),
    "damaged shards": damaged("shards/style/description.json"),
    "a damaged manifest": damaged("output.json"),
    "a damaged list of batches": damaged_batches,
    "shards of another kind": other_kind("shards/content/description.json"),
    "results of another kind": other_kind("output.json"),
    "scores of another kind": other_kind("scores.json"),
}


@pytest.mark.parametrize("kind", EARLY)
def test_nothing_changes(there, kind):
    changes = EARLY[kind](there)
    before = everything(there / "out")
    refused(there, **changes)
    assert everything(there / "out") == before


@pytest.mark.parametrize("kind", EARLY)
def test_no_folder_is_made_for_an_output_that_is_not_there(there, kind):
    changes = EARLY[kind](there)
    if kind.startswith(("a damaged", "damaged")) or kind.endswith("of another kind"):
        pytest.skip("a new output has no such file")
    if kind == "the output as data set":
        pytest.skip("a new output has no pictures")
    refused(there, **changes, output="./new")
    assert not (there / "new").exists()


@pytest.mark.parametrize("output", ["./file", "./file/out"])
def test_an_output_where_a_file_is(tmp_path, output):
    (tmp_path / "file").write_text("precious")
    assert f"output: {tmp_path}/file is a file, where a folder should be" in refused(tmp_path, output=output)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(("command", "said"), [("precompute", "diffstyle shard"), ("inject", "diffstyle precompute")])
def test_a_stage_too_early_makes_nothing(tmp_path, command, said):
    assert said in refused(tmp_path, command=command)
    assert not (tmp_path / "out").exists()


def test_a_stage_that_does_not_exist_and_a_limit_that_is_none_change_nothing(there):
    before = everything(there / "out")
    with pytest.raises(DiffStyleError):
        run_job(there, stages=("shards",))
    assert everything(there / "out") == before


# ---- those that show in the pictures: the lock's number grows, nothing else differs ----


def masks_that_are_missing(folder: Path) -> dict:
    (folder / "masks").mkdir()
    return {"injection": {"mask": {"folder": "./masks"}}}


def list_of_unknown_names(folder: Path) -> dict:
    (folder / "pairs.csv").write_text("content,style\nnobody,nobody\n")
    return {"pairs": {"list": "pairs.csv"}}


def bank_of_no_pictures(folder: Path) -> dict:
    bank = bank_of(folder, "style")
    shutil.rmtree(folder / "another-style" / "index")
    (folder / "another-style" / "index.snapshot").unlink(missing_ok=True)
    return {"style": bank}


LATE = {
    "contents without masks": masks_that_are_missing,
    "a list of unknown names": list_of_unknown_names,
    "a bank of no pictures": bank_of_no_pictures,
}


@pytest.mark.parametrize("kind", LATE)
def test_nothing_but_the_number_of_the_lock_changes(there, kind):
    changes = LATE[kind](there)
    before = without_lock(everything(there / "out"))
    refused(there, **changes)
    assert without_lock(everything(there / "out")) == before


def test_the_bank_of_a_run_is_reconstructed_after_a_refused_one(there):
    """A refused run of another model left its own job.yaml, by which the bank was refused."""
    (there / "empty").mkdir()
    refused(there, content=str(CONTENTS), weights="random:0", style="./empty")
    result = CliRunner().invoke(main, ["reconstruct", f"{there}/out/banks/style", "--local", "--quiet"])
    assert result.exit_code == 0, result.output


def test_a_run_that_goes_through_writes_its_job_and_its_events_from_the_start(tmp_path):
    run_job(tmp_path)
    assert (tmp_path / "out" / "job.yaml").is_file()
    (log,) = (tmp_path / "out" / "events").iterdir()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events[:3]] == ["run_started", "model", "model_checked"]
    assert events[-1]["event"] == "run_ended"
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    assert str(MODEL) in events[0]["job"]
