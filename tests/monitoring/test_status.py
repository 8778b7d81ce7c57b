"""`diffstyle status`: how far a run is, from files alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from support.whole_jobs import SIX_PAIRS, job_file, run_job

from diffstyle.errors import DiffStyleError
from pipeline.cli.main import main
from pipeline.jobfile.load import load_job
from pipeline.monitoring.status import Status, read_status
from pipeline.results.manifest import Manifest
from pipeline.runner.api import STAGES, run
from pipeline.storage.place import Place
from pipeline.workers.local import LocalWorkers


def status(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["status", *map(str, words)])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run_job(folder, **SIX_PAIRS)
    return folder


def test_a_finished_run(finished):
    code, said = status(finished / "out")
    assert code == 0
    assert "6 wanted: 6 done (100 %), 0 failed, 0 left" in said
    assert "running  no; the last run ended at" in said
    assert "content  3 prepared, 3 inverted" in said
    assert "to go" not in said


def test_the_job_file_names_its_output(finished):
    assert status(finished / "job.yaml") == status(finished / "out")


def test_for_programs(finished):
    code, said = status(finished / "out", "--json")
    found = json.loads(said)
    assert code == 0
    assert {name: found[name] for name in ("wanted", "done", "failed", "left", "running")} == {
        "wanted": 6,
        "done": 6,
        "failed": 0,
        "left": 0,
        "running": None,
    }


def test_pairs_in_two_parts_of_the_manifest_are_told_and_counted_once(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    manifest = tmp_path / "copy" / "out" / "manifest"
    part = next(iter(sorted(manifest.glob("*.parquet"))))
    shutil.copy(part, part.with_name("zzz.parquet"))
    n = len(pd.read_parquet(part))
    code, said = status(tmp_path / "copy" / "out")
    assert code == 0
    assert "6 wanted: 6 done (100 %), 0 failed, 0 left" in said
    assert f"repeated {n} rows" in said


def test_nothing_is_written(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    status(finished / "out")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_folder_without_a_run_is_wrong_input(tmp_path):
    code, said = status(tmp_path)
    assert code == 2
    assert said == f"error: {tmp_path}: no job was run here (there is no job.yaml); give a job's output folder\n"


def test_while_it_runs_and_after_it_was_stopped(tmp_path, monkeypatch):
    out = Place.parse(tmp_path / "out")
    job = load_job(job_file(tmp_path, **SIX_PAIRS))
    seen = []
    commit = Manifest.commit

    class Stop(Exception):
        pass

    def watched(self, part, rows):
        commit(self, part, rows)
        seen.append(read_status(out))
        if len(seen) == 2:
            raise Stop

    monkeypatch.setattr(Manifest, "commit", watched)
    befores = []

    def run_all() -> None:
        for stage in STAGES:
            if stage == "inject":
                befores.append(read_status(out))
            run(job, workers=LocalWorkers(), stages=(stage,), quiet=True)

    with pytest.raises(Stop):
        run_all()
    (before,) = befores
    assert before.wanted is None
    assert before.exit_code == 4
    assert "pairs    not planned yet" in "\n".join(before.lines())
    first, second = seen
    assert (first.wanted, second.wanted) == (6, 6)
    assert 0 < first.done < second.done < 6
    assert second.left == 6 - second.done
    assert second.holder is not None
    assert second.holder.pid > 0
    assert second.rate is not None
    assert second.rate > 0
    assert "to go" in "\n".join(second.lines())
    code, said = status(tmp_path / "out")
    assert code == 4
    assert "running  no; the last run ended at" in said
    assert "Stop" in said
    monkeypatch.undo()


def test_what_an_earlier_job_left_is_not_counted(tmp_path):
    run_job(tmp_path, "injection.gamma=0.2", **SIX_PAIRS)
    run_job(tmp_path, "injection.gamma=[0.5, 0.6]", **SIX_PAIRS)
    found = read_status(Place.parse(tmp_path / "out"))
    assert (found.wanted, found.done, found.left) == (12, 12, 0)


def test_failures(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("torch.isfinite", lambda x: (x != x) if x.ndim == 4 else x == x)
        run_job(tmp_path, **SIX_PAIRS)
    code, said = status(tmp_path / "out")
    assert code == 3
    assert "6 wanted: 0 done (0 %), 6 failed, 0 left" in said
    assert "6 x the result is not finite" in said
    assert "--retry-failed" in said
    run_job(tmp_path, retry=True, **SIX_PAIRS)
    assert status(tmp_path / "out")[0] == 0


def test_status_and_run_agree_on_what_is_lost(tmp_path):
    """Pictures that can't be used, and the pairs of them: counts and exit code, until the data set is repaired."""
    for side, names in (("c", ("good", "broken")), ("s", ("s",))):
        for name in names:
            file = tmp_path / side / f"{name}.png"
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), (len(name), 90, 20)).save(file)
    whole = (tmp_path / "c" / "broken.png").read_bytes()
    (tmp_path / "c" / "broken.png").write_bytes(b"no picture")
    pd.DataFrame({"content": ["good.png", "broken.png"], "style": "s.png"}).to_csv(tmp_path / "p.csv", index=False)
    job = SIX_PAIRS | {"content": str(tmp_path / "c"), "style": str(tmp_path / "s")}
    job["pairs"] = {"list": str(tmp_path / "p.csv")}
    for retry in (False, True):
        result = run_job(tmp_path, retry=retry, **job)
        state = read_status(Place.parse(tmp_path / "out"))
        assert (result.exit_code, state.exit_code) == (3, 3)
        assert (state.wanted, state.done, state.left) == (1, 1, 0)
        assert (state.lost, state.rejected, state.not_inverted) == (1, 1, 0)
        assert state.lost + state.rejected + state.not_inverted + state.failed == result.counts.failed
        assert "lost     1 more pair: " in str(state)
    (tmp_path / "c" / "broken.png").write_bytes(whole)
    result = run_job(tmp_path, **job)
    assert (result.exit_code, status(tmp_path / "out")[0]) == (0, 0)


def test_rejects_alone_are_failures_for_status_too_until_they_leave_the_data_set(tmp_path):
    for side in ("c", "s"):
        (tmp_path / side).mkdir()
        Image.new("RGB", (32, 32), (len(side), 90, 20)).save(tmp_path / side / "a.png")
    broken = tmp_path / "c" / "b.png"
    broken.write_bytes(b"no picture")
    job = SIX_PAIRS | {"content": str(tmp_path / "c"), "style": str(tmp_path / "s")}
    assert (run_job(tmp_path, **job).exit_code, status(tmp_path / "out")[0]) == (3, 3)
    broken.unlink()
    assert (run_job(tmp_path, **job).exit_code, status(tmp_path / "out")[0]) == (0, 0)


def test_a_killed_run_is_said_to_be_killed(finished, tmp_path):
    import shutil

    shutil.copytree(finished / "out", tmp_path / "out")
    (log,) = (tmp_path / "out" / "events").glob("*.jsonl")
    log.write_text("\n".join(line for line in log.read_text().splitlines() if "run_ended" not in line) + "\n")
    assert "the last run was killed" in status(tmp_path / "out")[1]


# ---- how a run ended ----


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (KeyboardInterrupt(), "stopped by Ctrl-C", 4),
        (KeyboardInterrupt("SIGTERM"), "stopped by SIGTERM", 4),
        (OSError(28, "No space left on device", "x.png"), "stopped: No space left on device (x.png)", 4),
        (DiffStyleError("the bank is gone"), "ended by an error: the bank is gone", 2),
        (AttributeError("no x"), "ended by a bug: AttributeError: no x", 1),
    ],
    ids=["Ctrl-C", "SIGTERM", "disk", "wrong input", "bug"],
)
def test_how_a_run_ended_is_said_in_words(error, words, code, tmp_path, monkeypatch):
    """While contact sheets are drawn: all pairs are there, and yet the run did not come to its end."""

    def interrupted(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.runner.run.contact_sheets", interrupted)
        with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever becomes of it on the way out
            run_job(tmp_path, **SIX_PAIRS)
    exit_code, text = status(tmp_path / "out")
    assert exit_code == 4
    assert f": {words}" in text
    assert "KeyboardInterrupt" not in text
    assert json.loads(status(tmp_path / "out", "--json")[1])["last_exit"] == code
    run_job(tmp_path, **SIX_PAIRS)
    assert status(tmp_path / "out")[0] == 0


# ---- watching ----


def test_watch_shows_it_until_the_run_has_ended(tmp_path, monkeypatch):
    job = load_job(job_file(tmp_path, **SIX_PAIRS))
    commit = Manifest.commit
    seen = []

    def watched(self, part, rows):
        commit(self, part, rows)
        if not seen:
            looks = iter([read_status(Place.parse(tmp_path / "out"))])
            ended = Status(Place.parse(tmp_path / "out"), None, wanted=6, done=6)
            with monkeypatch.context() as patch:
                patch.setattr("pipeline.cli.status.EVERY", 0.0)
                patch.setattr("pipeline.monitoring.status.read_status", lambda output: next(looks, ended))
                seen.append(status(tmp_path / "out", "--watch"))

    monkeypatch.setattr(Manifest, "commit", watched)
    run(job, workers=LocalWorkers(), quiet=True)
    ((code, text),) = seen
    assert code == 0
    assert text.count("output ") == 2
    assert "6 wanted: 6 done (100 %)" in text.splitlines()[-1]


def test_watch_and_json_exclude_each_other(finished):
    assert status(finished / "out", "--watch", "--json")[0] == 2
