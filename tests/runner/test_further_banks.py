"""A job that needs another bank than an output has gets one beside it; nothing of the first is lost or changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.whole_jobs import CONTENTS, MODEL, STYLES, job_file, manifest, run_job

import pipeline
from pipeline.cli.main import main

ALONE = {"style": {"folder": str(STYLES), "limit": 1}}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    """A folder with a job that has run."""
    folder = tmp_path_factory.mktemp("earlier")
    run_job(folder, **ALONE)
    return folder


@pytest.fixture
def there(earlier, tmp_path) -> Path:
    folder = tmp_path / "job"
    shutil.copytree(earlier, folder)
    return folder


def banks_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out" / "banks").iterdir())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


CHANGES = {
    "steps": ({"inversion": {"steps": 7}}, "was inverted in 6 steps (this job's inversion.steps is 7)", 2),
    "t_0": ({"inversion": {"t_0": 900}}, "was inverted up to timestep 999 (this job's inversion.t_0 is 900)", 2),
    "order": ({"inversion": {"plan": "second-order"}}, "by plan grid (this job's inversion.plan is second-order)", 2),
    "precision": (
        {"compute": {"precision": "bfloat16"}},
        "was made in float32 (this job's compute.precision is bfloat16)",
        2,
    ),
    "weights": ({"weights": "random:0"}, "was made with another model (tiny, fingerprint", 2),
    "t_edit": ({"injection": {"t_edit": 0}}, "doesn't have h at timesteps 0 and 199, which this job needs", 1),
    "dtype": ({"bank": {"h": "float16"}}, "keeps h as float32 (this job's bank.h is float16)", 1),
    "format": ({"bank": {"format": "webdataset"}}, "is stored as parquet (this job's bank.format is webdataset)", 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_setting_makes_a_second_bank_beside_the_first(there, change, caplog):
    changes, reason, further = CHANGES[change]
    before = files(there / "out" / "banks")
    pairs = set(manifest(there / "out").pair)
    result = run_job(there, **ALONE, **changes)
    assert before.items() <= files(there / "out" / "banks").items()
    names = banks_of(there)
    assert len(names) == 2 + further
    assert {"content", "style"} < set(names)
    assert pairs <= set(manifest(there / "out").pair)
    # It says which differs, and what it costs.
    (line,) = (record.getMessage() for record in caplog.records if record.getMessage().startswith("content: "))
    assert reason in line
    steps = {"steps": 7}.get(change, 6)
    calls = 9 if change == "order" else steps - 1
    assert f"2 inversions of {calls} network calls, 0." in line
    assert result.counts.inverted == 2 + (further == 2)
    assert result.bank_places["content"].name in names
    assert result.bank_places["content"].name != "content"
    # Run again, it is found again, by both jobs.
    caplog.clear()
    for again in (changes, {}):
        result = run_job(there, **ALONE, **again)
        assert (result.counts.inverted, result.counts.pairs_made) == (0, 0)
    assert banks_of(there) == names
    assert not [record for record in caplog.records if "is made beside it" in record.getMessage()]


def test_a_further_bank_gives_what_an_output_of_its_own_gives(there, tmp_path):
    run_job(there, **ALONE, inversion={"steps": 7})
    run_job(tmp_path / "own", **ALONE, inversion={"steps": 7})
    own = manifest(tmp_path / "own" / "out").set_index("pair")["picture_hash"]
    both = manifest(there / "out").set_index("pair")["picture_hash"]
    assert len(own) == 2
    assert len(both) == 4
    assert both[own.index].equals(own)


def test_a_bank_that_keeps_more_serves_as_it_is(there):
    run_job(there, **ALONE, bank={"keep": "all"})
    assert len(banks_of(there)) == 3
    result = run_job(there, **ALONE, injection={"t_edit": 0})
    assert result.counts.inverted == 0
    assert len(banks_of(there)) == 3


def test_the_first_bank_keeps_its_name_for_other_jobs(there, tmp_path):
    run_job(there, **ALONE, inversion={"steps": 7})
    other = run_job(
        tmp_path / "other",
        content={"bank": str(there / "out" / "banks" / "content")},
        style={"bank": str(there / "out" / "banks" / "style")},
    )
    assert other.counts.pairs_made == 2
    shared = set(manifest(tmp_path / "other" / "out").pair)
    assert shared <= set(manifest(there / "out").pair)


def test_status_verify_prune_and_the_banks_commands_know_them(there):
    run_job(there, **ALONE, inversion={"steps": 7})
    (further,) = (name for name in banks_of(there) if name.startswith("content-"))
    report = str(pipeline.status(there / "out"))
    assert "content  2 prepared, 2 inverted" in report
    assert "2 inverted in banks/content" in report
    assert "4 banks: all is well" in command("verify", there / "out", "--quiet")
    job = job_file(there, **ALONE, inversion={"steps": 7})
    said = command("prune", job)
    assert "would drop 2 pairs" in said
    assert f"note: {there}/out/banks/content (" in said
    assert f"{further} (" not in said
    assert "0 images leave" in command("bank", "prune", there / "out" / "banks" / further, "--job", job, "--dry-run")
    # A flipped byte in the further bank is seen, dropped and made again.
    (payload,) = (there / "out" / "banks" / further / "data").iterdir()
    data = bytearray(payload.read_bytes())
    data[len(data) // 2] ^= 1
    payload.write_bytes(bytes(data))
    assert further in command("verify", there / "out", "--quiet", code=3)
    command("verify", there / "out", "--repair", "--quiet")
    assert run_job(there, **ALONE, inversion={"steps": 7}).counts.inverted == 2
    assert "all is well" in command("verify", there / "out", "--quiet")


def test_each_bank_is_reconstructed_by_its_own_model(there):
    """``job.yaml`` is of the last job; a bank knows the one that made it."""
    run_job(there, **ALONE, weights="random:0")
    for name in (name for name in banks_of(there) if name.startswith("style")):
        assert "1 picture reconstructed" in command("reconstruct", there / "out" / "banks" / name, "--local", "--quiet")


def test_scores_of_two_models_are_not_mixed_and_it_is_told_before_anything_is_made(there):
    command("score", there / "out", "--local", "--quiet")
    before = files(there / "out" / "banks")
    said = command("run", job_file(there, **ALONE, weights="random:0", score=True), "--local", "--quiet", code=2)
    assert "its scores were made with another model" in said
    assert files(there / "out" / "banks") == before


def test_a_stage_alone_says_which_bank_it_lacks(there):
    said = command("inject", job_file(there, **ALONE, inversion={"steps": 7}), "--local", "--quiet", code=2)
    assert "no latent bank yet" in said
    assert "was inverted in 6 steps (this job's inversion.steps is 7)" in said
    assert "diffstyle precompute" in said


def test_the_description_of_a_bank_names_the_model_of_its_job(there):
    about = json.loads((there / "out" / "banks" / "style" / "description.json").read_text())["about"]
    assert about["job"] == {"model": str(MODEL)}
    assert CONTENTS.is_dir()


def test_a_plan_says_it_beforehand_and_writes_nothing(there):
    before = files(there / "out")
    job = job_file(there, **ALONE, inversion={"steps": 7})
    said = command("plan", job)
    assert "was inverted in 6 steps (this job's inversion.steps is 7), so another bank is made beside it" in said
    assert "2 x 6 network calls" in said
    assert files(there / "out") == before
    run_job(there, **ALONE, inversion={"steps": 7})
    assert "made beside it" not in command("plan", job)
    assert "2 inverted already" in command("plan", job)
