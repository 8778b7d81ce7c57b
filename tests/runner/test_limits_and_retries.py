"""What counts as a failure, how many are too many, what --retry-failed reaches, and what a pair took."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support.whole_jobs import job_file, manifest, paint, run_job

import diffstyle.sampling
from pipeline.banks.reader import LatentBank
from pipeline.cli.main import main
from pipeline.monitoring.summary import RunCounts
from pipeline.stages.inject_unit import InjectUnit
from pipeline.storage.errors import Stopped

QUICKER = {
    "inversion": {"steps": 4},
    "injection": {"gamma": 0.6, "t_edit": 400, "events": 2, "plan": {"grid": 4}},
    "compute": {"batch": 1, "tile_seconds": 1e-9},
}


def sources(folder: Path, contents: int, styles: int) -> dict:
    for n in range(contents):
        paint(folder / "contents" / f"c{n}.png", n)
    for n in range(styles):
        paint(folder / "styles" / f"s{n}.png", 1000 + n)
    return {"content": str(folder / "contents"), "style": str(folder / "styles"), **QUICKER}


def spoil(monkeypatch: pytest.MonkeyPatch, numbers: set[int], value: float = float("nan")) -> None:
    """Instead of the walk, a picture that follows from x_T and h; those of some numbers are ``value``."""
    made = [0]

    def inject(model, x_T, h, *rest, **options):
        results = torch.tanh(x_T + h.flatten(1).mean(1).reshape(-1, 1, 1, 1))
        for k in range(len(results)):
            if made[0] in numbers:
                results[k] = value
            made[0] += 1
        return results

    monkeypatch.setattr(diffstyle.sampling, "inject", inject)


def command(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [*map(str, words), "--local", "--quiet"])
    return result.exit_code, result.output


# ---- the limit ----


@pytest.mark.parametrize(("limit", "stopped"), [(1, True), (2, False), (3, False)])
def test_as_many_failures_as_the_limit_are_allowed_and_one_more_is_not(tmp_path, monkeypatch, limit, stopped):
    spoil(monkeypatch, {1, 3})
    job = job_file(tmp_path, **sources(tmp_path, 3, 2))
    code, said = command("run", job, "--max-failures", limit)
    rows = manifest(tmp_path / "out")
    if stopped:
        assert code == 4
        assert f"2 failures are more than the limit of {limit}" in said
        assert len(rows) == 4  # stopped at once: pairs 0 to 3
    else:
        assert code == 3
        assert len(rows) == 6
    assert (rows["status"] == "failed").sum() == 2


@pytest.mark.parametrize(("of_job", "of_option", "code"), [(0, 5, 3), (5, 0, 4), (0, None, 4), (5, None, 3)])
def test_the_options_limit_beats_the_jobs(tmp_path, monkeypatch, of_job, of_option, code):
    spoil(monkeypatch, {0})
    changes = sources(tmp_path, 2, 1)
    job = job_file(tmp_path, **{**changes, "compute": {**QUICKER["compute"], "max_failures": of_job}})
    assert command("run", job, *([] if of_option is None else ["--max-failures", of_option]))[0] == code


def test_failures_of_every_stage_count_towards_the_limit(tmp_path, monkeypatch):
    spoil(monkeypatch, {0})
    changes = sources(tmp_path, 3, 1)
    (tmp_path / "contents" / "c0.png").write_bytes(b"no picture")
    with pytest.raises(Stopped, match="2 failures are more than the limit of 1"):
        run_job(tmp_path, "compute.max_failures=1", **changes)


# ---- what fails ----


def test_a_picture_that_can_not_be_inverted_is_a_failure_of_the_run(tmp_path, monkeypatch):
    job = job_file(tmp_path, **sources(tmp_path, 2, 1))
    walk = diffstyle.sampling.ddim_walk
    walked = [0]

    def first_is_not_finite(*arguments, **options):
        ends, h = walk(*arguments, **options)
        walked[0] += len(ends)
        return (ends, torch.full_like(h, torch.nan)) if walked[0] == 1 else (ends, h)

    with monkeypatch.context() as patch:
        patch.setattr(diffstyle.sampling, "ddim_walk", first_is_not_finite)
        code, said = command("run", job)
    assert code == 3
    assert "1 picture could not be inverted" in said
    assert "try them again with --retry-failed" in said
    assert len(manifest(tmp_path / "out")) == 1
    assert len(LatentBank.open(str(tmp_path / "out" / "banks" / "content")).failed()) == 1
    # As long as it is not tried again, each run says so; tried again, it is there.
    assert command("run", job)[0] == 3
    assert command("run", job, "--retry-failed")[0] == 0
    assert len(manifest(tmp_path / "out")) == 2


@pytest.mark.parametrize("kind", ["rejected", "not_inverted", "pairs_failed"])
def test_each_kind_of_failure_counts(kind):
    assert RunCounts().failed == 0
    assert RunCounts(**{kind: 2}, prepared=5, inverted=5, pairs_made=5, pairs_there=5).failed == 2


def test_retry_failed_reads_rejected_pictures_again(tmp_path, monkeypatch):
    """Of the same size and time as before, so that nothing but the option says to look again."""
    spoil(monkeypatch, set())
    job = job_file(tmp_path, **sources(tmp_path, 2, 1))
    file = tmp_path / "contents" / "c0.png"
    whole, time_of = file.read_bytes(), file.stat().st_mtime_ns
    file.write_bytes(bytes(len(whole)))
    os.utime(file, ns=(time_of, time_of))
    assert command("run", job)[0] == 3
    file.write_bytes(whole)
    os.utime(file, ns=(time_of, time_of))
    assert command("run", job)[0] == 3
    assert len(manifest(tmp_path / "out")) == 1
    assert command("run", job, "--retry-failed")[0] == 0
    assert len(manifest(tmp_path / "out")) == 2


# ---- what a pair took ----


@pytest.mark.parametrize(("batch", "n"), [(4, 4), (4, 3), (2, 4), (1, 3)])
def test_the_seconds_of_pairs_add_up_to_those_of_their_batches(tmp_path, monkeypatch, batch, n):
    """However full a batch was: the pairs of it share what it took."""
    inside, outside = [0.0], [0.0]

    def slow(model, x_T, *rest, **options):
        begun = time.perf_counter()
        time.sleep(0.05)
        inside[0] += time.perf_counter() - begun
        return torch.tanh(x_T)

    compute = InjectUnit.compute

    def timed(unit, context, loaded):
        begun = time.perf_counter()
        result = compute(unit, context, loaded)
        outside[0] += time.perf_counter() - begun
        return result

    monkeypatch.setattr(diffstyle.sampling, "inject", slow)
    monkeypatch.setattr(InjectUnit, "compute", timed)
    changes = sources(tmp_path, n, 1)
    run_job(tmp_path, **{**changes, "compute": {"batch": batch, "tile_seconds": 100}})
    seconds = manifest(tmp_path / "out")["seconds"]
    assert len(seconds) == n
    assert inside[0] <= seconds.sum() <= outside[0]
