"""Running a job again: what is missing is made, what is there stays as it is."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from support.whole_jobs import job_file, manifest, paint, run_job

from pipeline.cli.main import main
from pipeline.results.manifest import TIMING_COLUMNS, Manifest
from pipeline.results.verify import check_results
from pipeline.storage.errors import Stopped
from pipeline.storage.place import Place

QUICKER = {
    "inversion": {"steps": 4},
    "injection": {"gamma": 0.6, "t_edit": 400, "events": 2, "plan": {"grid": 4}},
    "compute": {"batch": 4},
}


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Instead of the network's walk, a sum that tells pairs and settings apart. Counts what went through."""
    sizes: list[int] = []

    def stand_in(model, x_T, h, h_timesteps, plan, gamma, *, omega=0.0, mask=None, noise=None, edit=None, on_step=None):
        sizes.append(len(x_T))
        said = torch.as_tensor(gamma).mean() + h.flatten(1).mean(1).reshape(-1, 1, 1, 1) + omega
        return torch.tanh(x_T + said + (0 if mask is None else mask.mean()))

    monkeypatch.setattr("diffstyle.sampling.inject", stand_in)
    return sizes


def sources(folder: Path, contents: int, styles: int) -> dict:
    for n in range(contents):
        paint(folder / "contents" / f"c{n:02d}.png", n)
    for n in range(styles):
        paint(folder / "styles" / f"s{n:02d}.png", 1000 + n)
    return {"content": str(folder / "contents"), "style": str(folder / "styles")} | QUICKER


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Path -> modification time and bytes, of every file below."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def test_20_x_20_extended_to_25_x_25_computes_the_225_missing_pairs(tmp_path, calls):
    out = tmp_path / "out"
    run = run_job(tmp_path, **sources(tmp_path, 20, 20))
    assert run.counts.pairs_made == 400
    pictures, rows = files(out / "pictures"), files(out / "manifest")
    assert len(pictures) == 400
    calls.clear()
    run = run_job(tmp_path, **sources(tmp_path, 25, 25))
    assert (run.counts.pairs_made, run.counts.pairs_there, run.counts.failed) == (225, 400, 0)
    assert 225 <= sum(calls) <= 225 + 3  # the last batch is filled up
    now = files(out / "pictures")
    assert len(now) == 625
    assert {name: now[name] for name in pictures} == pictures
    now = files(out / "manifest")
    assert {name: now[name] for name in rows} == rows
    assert manifest(out)["pair"].is_unique
    assert len(manifest(out)) == 625
    # And a third time there is nothing to do.
    everything = files(out / "pictures"), files(out / "manifest"), files(out / "banks")
    assert run_job(tmp_path, **sources(tmp_path, 25, 25)).counts.pairs_made == 0
    assert (files(out / "pictures"), files(out / "manifest"), files(out / "banks")) == everything


def test_two_jobs_in_one_output_share_their_pairs(tmp_path, calls):
    both = sources(tmp_path, 3, 2)
    run_job(tmp_path, "injection.gamma=[0.2, 0.3]", **both)
    before = files(tmp_path / "out" / "pictures")
    run = run_job(tmp_path, "injection.gamma=[0.3, 0.4]", **both)
    assert (run.counts.pairs_made, run.counts.pairs_there) == (6, 6)
    now = files(tmp_path / "out" / "pictures")
    assert {name: now[name] for name in before} == before
    assert sorted(manifest(tmp_path / "out")["gamma"].unique()) == [0.2, 0.3, 0.4]


def test_a_sweep_has_a_column_and_a_folder_for_each_point(tmp_path, calls):
    sweep = ["injection.gamma=[0.2, 0.3]", "injection.omega=[0, 0.5]", "injection.mask=[null, reference]"]
    run = run_job(tmp_path, *sweep, "injection.t_boost=300", "seed=[0, 1]", **sources(tmp_path, 2, 2))
    assert run.counts.pairs_made == 2 * 2 * 2 * 2 * 4
    rows = manifest(tmp_path / "out")
    points = rows.groupby(["gamma", "omega", "mask", "seed"], dropna=False)
    assert len(points) == 16
    assert (points.size() == 4).all()
    assert (points["settings"].nunique() == 1).all()
    folders = rows["picture"].str.rpartition("/")[0]
    assert folders.nunique() == rows["settings"].nunique() == 16  # equal gammas, and a folder each
    assert rows["picture"].is_unique


def test_pictures_of_old_masks_are_not_overwritten(tmp_path, calls):
    both = sources(tmp_path, 1, 1)
    mask = paint(tmp_path / "masks" / "c00.png", 1)
    wanted = f"injection.mask={{folder: {tmp_path / 'masks'}}}"
    run_job(tmp_path, wanted, **both)
    before = files(tmp_path / "out" / "pictures")
    paint(mask, 2)
    assert run_job(tmp_path, wanted, **both).counts.pairs_made == 1
    now = files(tmp_path / "out" / "pictures")
    assert len(now) == 2
    assert {name: now[name] for name in before} == before


@pytest.mark.parametrize("to", ["folder", "webdataset"])
def test_any_size_of_tile_and_order_makes_the_same(tmp_path, to):
    found = []
    for name, settings in (("a", {"tile_seconds": 0.001}), ("b", {"tile_seconds": 100})):
        both = sources(tmp_path / name, 3, 3)
        run_job(tmp_path / name, **both | {"compute": settings, "pictures": {"to": to}})
        if name == "b":  # other tiles still
            run_job(tmp_path / name, **sources(tmp_path / name, 4, 4) | {"compute": settings, "pictures": {"to": to}})
        rows = manifest(tmp_path / name / "out").drop(columns=[*TIMING_COLUMNS, "content_source", "style_source"])
        found.append(rows.drop(columns=["picture"] if to == "webdataset" else []))
    both_there = found[1][found[1]["pair"].isin(found[0]["pair"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found[0], both_there)  # the hash of each picture's bytes is in it


# ---- failure ----


def not_finite(monkeypatch, poisoned: set[int]) -> None:
    """Let the results of some pairs of the next run be NaN, by their number."""
    from diffstyle import sampling

    real, count = sampling.inject, [0]

    def stand_in(*args, **options):
        results = real(*args, **options).clone()
        for i in range(len(results)):
            if count[0] in poisoned:
                results[i, 0, 0, 0] = float("nan")
            count[0] += 1
        return results

    monkeypatch.setattr("diffstyle.sampling.inject", stand_in)


def test_a_result_that_is_not_finite_is_a_failure_and_can_be_retried(tmp_path, calls, monkeypatch):
    both = sources(tmp_path, 3, 2)
    with monkeypatch.context() as patch:
        not_finite(patch, {1, 4})
        run = run_job(tmp_path, **both)
    assert (run.counts.pairs_made, run.counts.pairs_failed) == (4, 2)
    rows = manifest(tmp_path / "out")
    failed = rows[rows["status"] == "failed"]
    assert set(failed["error"]) == {"the result is not finite"}
    assert failed["picture"].isna().all()
    assert len(files(tmp_path / "out" / "pictures")) == 4
    calls.clear()
    run = run_job(tmp_path, **both)
    assert (run.counts.pairs_made, run.counts.pairs_failed, calls) == (0, 2, [])
    run = run_job(tmp_path, retry=True, **both)
    assert (run.counts.pairs_made, run.counts.pairs_failed) == (2, 0)
    rows = manifest(tmp_path / "out")
    assert (rows["status"] == "ok").all()
    assert len(rows) == 6
    assert rows["pair"].is_unique


def test_a_retry_that_fails_again_leaves_one_row(tmp_path, calls, monkeypatch):
    both = sources(tmp_path, 2, 1)
    for retry in (False, True):
        with monkeypatch.context() as patch:
            not_finite(patch, {0, 1, 2, 3})
            assert run_job(tmp_path, retry=retry, **both).counts.pairs_failed == 2
    assert len(manifest(tmp_path / "out")) == 2


def test_too_many_failures_stop_the_run(tmp_path, calls, monkeypatch):
    not_finite(monkeypatch, set(range(100)))
    both = sources(tmp_path, 3, 3) | {"compute": {"batch": 1, "tile_seconds": 1e-9}}  # one pair after the other
    with pytest.raises(Stopped, match="3 failures are more than the limit of 2"):
        run_job(tmp_path, "compute.max_failures=2", **both)
    assert len(manifest(tmp_path / "out")) == 3
    result = CliRunner().invoke(main, ["run", str(tmp_path / "job.yaml"), "--local", "--quiet", "--max-failures", "0"])
    assert result.exit_code == 4
    assert "more than the limit of 0 (--max-failures or compute.max_failures)" in result.output


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("When uploading: AWS Error EXPIRED_TOKEN during PutObject"), "fix the credentials"),
    ],
)
def test_a_full_disk_and_lost_rights_stop_the_run_and_leave_it_resumable(tmp_path, calls, monkeypatch, error, said):
    both = sources(tmp_path, 4, 2)
    with monkeypatch.context() as patch:
        commit, n = Manifest.commit, [0]

        def fail(self, part, rows):
            n[0] += 1
            if n[0] == 2:
                raise error
            commit(self, part, rows)

        patch.setattr(Manifest, "commit", fail)
        job = job_file(tmp_path, **both)
        result = CliRunner().invoke(main, ["run", str(job), "--local", "--quiet"])
    assert result.exit_code == 4
    assert said in result.output
    assert "run the job again" in result.output
    assert len(result.output.splitlines()) == 1
    committed = len(manifest(tmp_path / "out"))
    assert 0 < committed < 8
    run = run_job(tmp_path, **both)
    assert (run.counts.pairs_there, run.counts.pairs_made) == (committed, 8 - committed)
    assert manifest(tmp_path / "out")["pair"].is_unique


# ---- prune ----


def prune(*words: object) -> str:
    result = CliRunner().invoke(main, ["prune", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_prune_drops_what_no_job_wants(tmp_path, calls):
    both = sources(tmp_path, 3, 2)
    out = tmp_path / "out"
    run_job(tmp_path, "injection.gamma=[0.2, 0.3, 0.4]", **both)
    kept = {name: found for name, found in files(out / "pictures").items() if "gamma-0.4" not in name}
    (tmp_path / "contents" / "c02.png").unlink()
    jobs = []
    for gamma in (0.2, 0.3):
        values = yaml.safe_load((tmp_path / "job.yaml").read_text())
        values["injection"]["gamma"] = gamma
        jobs.append(tmp_path / f"job-{gamma}.yaml")
        jobs[-1].write_text(yaml.safe_dump(values))
    assert "would drop 10 pairs and 12 files" in prune(*jobs)  # the pictures, the sheets of 0.4 and of the sweep
    assert len(manifest(out)) == 18
    assert "dropped 10 pairs and 12 files" in prune(*jobs, "--yes")
    rows = manifest(out)
    assert sorted(rows["gamma"]) == [0.2] * 4 + [0.3] * 4
    now = files(out / "pictures")
    assert set(now) == {name.removeprefix("pictures/") for name in rows["picture"]}
    assert all(now[name] == kept[name] for name in now)
    assert "nothing to drop" in prune(*jobs, "--yes")
    assert run_job(tmp_path, "injection.gamma=[0.2, 0.3]", **both).counts.pairs_made == 0


def test_prune_rewrites_tars(tmp_path, calls):
    import tarfile

    both = sources(tmp_path, 4, 4) | {"pictures": {"to": "webdataset"}}
    out = tmp_path / "out"
    run_job(tmp_path, **both)
    (tmp_path / "styles" / "s03.png").unlink()
    prune(tmp_path / "job.yaml", "--yes")
    rows = manifest(out)
    assert len(rows) == 12
    members = []
    for tar in (out / "pictures").glob("*.tar"):
        with tarfile.open(tar) as stream:
            members += [f"pictures/{tar.name}#{name}" for name in stream.getnames() if name.endswith(".png")]
    assert sorted(members) == sorted(rows["picture"])
    assert check_results(Manifest(Place.parse(out))).problems == []
    assert not (out / "prune-under-way.json").exists()
    assert "nothing to drop" in prune(tmp_path / "job.yaml")


@pytest.mark.parametrize("to", ["folder", "webdataset"])
@pytest.mark.parametrize("killed_at", [2, 3, 5])
def test_a_prune_that_is_killed_is_finished_by_the_next(tmp_path, calls, monkeypatch, to, killed_at):
    from pipeline.storage.place import Place

    both = sources(tmp_path, 3, 3) | {"pictures": {"to": to}}
    out = tmp_path / "out"
    run_job(tmp_path, **both)
    (tmp_path / "contents" / "c00.png").unlink()
    n = [0]

    class Killed(BaseException):
        pass

    with monkeypatch.context() as patch:
        for name in ("delete", "writer"):
            real = getattr(Place, name)

            def step(self, real=real):
                n[0] += 1
                if n[0] == killed_at:
                    raise Killed
                return real(self)

            patch.setattr(Place, name, step)
        with contextlib.suppress(Killed):
            main(["prune", str(tmp_path / "job.yaml"), "--yes"], standalone_mode=False)
    prune(tmp_path / "job.yaml", "--yes")
    rows = manifest(out)
    assert len(rows) == 6
    assert np.unique(rows["pair"]).size == 6
    assert "nothing to drop" in prune(tmp_path / "job.yaml")
    assert {name.partition("#")[0] for name in rows["picture"]} == {f"pictures/{n}" for n in files(out / "pictures")}
