"""``keep``: what settings made that the job no longer wants goes at the end of a run, once it is old enough."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner
from support.whole_jobs import SIX_PAIRS, job_file, manifest, run_job

from pipeline.cli.main import main
from pipeline.jobfile.load import load_job
from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.results.prune import drop_leavings, find_leavings
from pipeline.results.retention import WantedOrYoung
from pipeline.results.scores import Scores, score_rows
from pipeline.results.verify import check_results
from pipeline.runner.api import STAGES, carry_out
from pipeline.runner.dropping import Clock, drop_old
from pipeline.runner.run import Options, Run
from pipeline.storage.place import Place
from pipeline.workers.local import LocalWorkers

TODAY = datetime(2030, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def settings(gamma: float, keep: str | None = "30d", **changes: object) -> dict:
    injection = {**SIX_PAIRS["injection"], "gamma": gamma}
    return {**SIX_PAIRS, "injection": injection, **({} if keep is None else {"keep": keep}), **changes}


def age(out: Path, made: datetime, gamma: float | None = None) -> None:
    """Let the rows of a gamma, or all, say that they were made at some time."""
    store = Manifest(Place.parse(out)).store
    for part in store.parts():
        rows = store.part_rows(part, MANIFEST_SCHEMA)
        if gamma is None or rows["gamma"][0].as_py() == gamma:
            field = MANIFEST_SCHEMA.field("created")
            created = pa.array([made] * len(rows), field.type)
            store.commit(part, rows.set_column(MANIFEST_SCHEMA.get_field_index("created"), field, created))


def night(folder: Path, today: datetime, **changes: object) -> Run:
    """A run of the pairs alone that takes it for ``today`` when it ends."""
    job = load_job(job_file(folder, **changes), check_inputs=True)
    with Run(job, Options(quiet=True), LocalWorkers()) as run:
        carry_out(run, "inject")
        drop_old(run, today)
    return run


def gammas(out: Path) -> list[float]:
    return sorted(set(manifest(out)["gamma"]))


def made(folder: Path, **changes: object) -> None:
    """An output with six pictures of gamma 0.3, made 40 days before TODAY, and six of 0.6, made 50 days before."""
    run_job(folder, **settings(0.3, keep=None, **changes))
    age(folder / "out", TODAY - 40 * DAY)
    run_job(folder, **settings(0.6, keep=None, **changes))
    age(folder / "out", TODAY - 50 * DAY, 0.6)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    made(folder)
    return folder


@pytest.fixture
def two(template, tmp_path):
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_what_is_old_and_not_wanted_goes_and_what_is_wanted_stays_however_old(two):
    out = two / "out"
    run = night(two, TODAY, **settings(0.6))
    assert run.counts.pairs_dropped == 6
    assert gammas(out) == [0.6]
    assert len(manifest(out)) == 6
    pictures = {str(path.relative_to(out)) for path in (out / "pictures").rglob("*.png")}
    assert pictures == set(manifest(out)["picture"])
    assert len(list((out / "contact-sheets").iterdir())) == 1
    assert check_results(Manifest(Place.parse(out))).problems == []
    status = CliRunner().invoke(main, ["status", str(out)])
    assert status.exit_code == 0, status.output
    assert run_job(two, **settings(0.6)).counts.pairs_there == 6


@pytest.mark.parametrize("day", [TODAY - 29 * DAY, TODAY + 1000 * DAY], ids=["young", "from the future"])
def test_what_is_young_or_from_the_future_stays(two, day):
    age(two / "out", day, 0.3)
    run = night(two, TODAY, **settings(0.6))
    assert run.counts.pairs_dropped == 0
    assert gammas(two / "out") == [0.3, 0.6]


def test_without_keep_nothing_goes(two):
    assert night(two, TODAY, **settings(0.6, keep=None)).counts.pairs_dropped == 0
    assert gammas(two / "out") == [0.3, 0.6]


def test_settings_are_what_counts_and_not_the_pictures_that_a_data_set_has_today(two):
    fewer = settings(0.6, content={**SIX_PAIRS["content"], "limit": 1})
    assert night(two, TODAY, **fewer).counts.pairs_dropped == 6
    assert len(manifest(two / "out")) == 6  # of gamma 0.6, also those of contents that are not listed any more


def test_the_dry_run_says_what_a_run_then_drops_and_tells(two):
    out = two / "out"
    age(out, datetime.now(UTC) - 40 * DAY, 0.3)
    job = str(job_file(two, **settings(0.6)))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    plan = CliRunner().invoke(main, ["run", job, "--dry-run"]).output
    (line,) = [line for line in plan.splitlines() if line.startswith("keep")]
    assert "6 pairs and 8 files" in line  # the pictures, their sheet, and that of the sweep
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    summary = two / "summary.json"
    result = CliRunner().invoke(main, ["run", job, "--local", "--quiet", "--summary", str(summary)])
    assert result.exit_code == 0, result.output
    assert json.loads(summary.read_text())["pairs_dropped"] == 6
    assert "dropped 6 pairs of settings that this job no longer wants" in result.output
    assert gammas(out) == [0.6]
    assert "keep " not in CliRunner().invoke(main, ["run", job, "--dry-run"]).output


class Killed(BaseException):
    """As a kill is."""


def stopped_after(monkeypatch: pytest.MonkeyPatch, n: int, work: Callable[[], object]) -> bool:
    """Do some work, killed at its n-th write or deletion; returns whether it came to its end."""
    left = [n]

    def counted(real: Callable[[Place], object]) -> Callable[[Place], object]:
        def step(place: Place) -> object:
            left[0] -= 1
            if not left[0]:
                raise Killed
            return real(place)

        return step

    with monkeypatch.context() as patch:
        for name in ("delete", "writer"):
            patch.setattr(Place, name, counted(getattr(Place, name)))
        with contextlib.suppress(Killed):
            work()
    return left[0] > 0


@pytest.mark.parametrize(
    ("to", "steps"),
    [
        ("folder", (3, 9, 13)),
        pytest.param("folder", range(1, 40), marks=pytest.mark.long),
        pytest.param("webdataset", range(1, 40), marks=pytest.mark.long),
    ],
)
def test_killed_at_a_write_or_a_deletion_the_next_run_goes_on(tmp_path, monkeypatch, to, steps):
    form = {"pictures": {"to": to}}
    made(tmp_path / "0", **form)
    rows = manifest(tmp_path / "0" / "out")
    kept = rows.query("gamma == 0.6").reset_index(drop=True)
    scores = Scores(Place.parse(tmp_path / "0" / "out"))
    scores.open({"model_fingerprint": "of a stand-in"})
    scores.commit("all", score_rows({"pair": pair, "edges": 1.0} for pair in rows["pair"]))
    rule = WantedOrYoung(frozenset(kept["settings"]), TODAY - 30 * DAY)
    for n in steps:
        folder = tmp_path / str(n)
        shutil.copytree(tmp_path / "0", folder)
        results = Manifest(Place.parse(folder / "out"))
        at_its_end = stopped_after(monkeypatch, n, lambda m=results: drop_leavings(m, find_leavings(m, rule), rule))
        night(folder, TODAY, **settings(0.6, **form))
        pd.testing.assert_frame_equal(manifest(folder / "out"), kept)
        assert check_results(results).problems == []
        assert sorted(pd.read_parquet(folder / "out" / "scores")["pair"]) == sorted(kept["pair"])
        assert [path.name[:9] for path in (folder / "out" / "contact-sheets").iterdir()] == ["gamma-0.6"]
        assert not (folder / "out" / "prune-under-way.json").exists()
        if at_its_end:
            assert n > 7
            return
    assert len(steps) == 3


def test_scores_of_pairs_that_are_gone_go_too(two):
    run_job(two, **settings(0.6, keep=None), stages=("score",))
    age(two / "out", datetime.now(UTC) - 40 * DAY, 0.3)
    result = CliRunner().invoke(main, ["prune", str(two / "job.yaml"), "--yes"])
    assert "dropped 6 pairs and 8 files" in result.output
    assert "6 rows of scores" in result.output
    assert set(pd.read_parquet(two / "out" / "scores")["pair"]) == set(manifest(two / "out")["pair"])


def test_what_goes_at_the_end_of_a_run_is_not_scored_before(two):
    age(two / "out", datetime.now(UTC) - 40 * DAY, 0.3)
    counts = run_job(two, **settings(0.6), stages=STAGES).counts
    assert (counts.pairs_dropped, counts.scored) == (6, 6)
    assert set(pd.read_parquet(two / "out" / "scores")["pair"]) == set(manifest(two / "out")["pair"])


def test_a_row_without_a_time_or_without_settings_stays():
    rows = pa.table(
        {
            "settings": pa.array(["a", "b", None, "b", "b"]),
            "created": pa.array([TODAY - DAY, None, TODAY - DAY, TODAY - DAY, TODAY + DAY], pa.timestamp("us", "UTC")),
        }
    )
    assert WantedOrYoung(frozenset("a"), TODAY).stays(rows).tolist() == [True, True, True, False, True]


def test_a_clock_that_jumps_forward_while_a_run_goes_on_makes_nothing_older():
    days, seconds = [TODAY, TODAY + 4000 * DAY, TODAY - 4000 * DAY], [100.0, 160.0, 170.0]
    clock = Clock(lambda: days.pop(0), lambda: seconds.pop(0))
    assert clock.now() == TODAY + timedelta(seconds=60)
    assert clock.now() == TODAY - 4000 * DAY


@pytest.mark.parametrize(("written", "said"), [("soon", "30d"), (0, "keep"), ("1e30d", None)])
def test_how_long_is_written(tmp_path, written, said):
    file = job_file(tmp_path, **settings(0.6, keep=None), keep=written)
    result = CliRunner().invoke(main, ["run", str(file), "--dry-run"])
    assert (result.exit_code == 2) == (said is not None)
    assert (said or "") in result.output


def banks(out: Path) -> list[str]:
    return [path.name.partition("-")[0] for path in sorted((out / "banks").iterdir())]


def test_further_banks_go_once_they_are_old_and_nothing_is_left_that_was_made_of_them(two):
    out = two / "out"
    another = settings(0.6, keep=None, inversion={"steps": 5})
    run_job(two, **another)
    age(out, TODAY - 40 * DAY)
    assert banks(out) == ["content", "content", "style", "style"]
    real, today = datetime.now(UTC), TODAY - 40 * DAY
    assert real < today  # the banks are of today, the rows say that they were made later
    night(two, TODAY - 20 * DAY, **settings(0.6))  # no row is old enough
    assert banks(out) == ["content", "content", "style", "style"]
    run = night(two, real + DAY, **settings(0.6, keep="2d"))  # all rows are from the future, the banks are young
    assert run.counts.pairs_dropped == 0
    assert banks(out) == ["content", "content", "style", "style"]
    run = night(two, TODAY, **settings(0.6))
    assert run.counts.pairs_dropped == 12
    assert banks(out) == ["content", "style"]
    assert run_job(two, **settings(0.6)).counts.pairs_there == 6
    assert CliRunner().invoke(main, ["verify", str(out)]).exit_code == 0


def test_a_dry_run_names_the_banks_that_go(two):
    run_job(two, **settings(0.6, keep=None, inversion={"steps": 5}))
    age(two / "out", datetime.now(UTC) - 40 * DAY)
    job = str(job_file(two, **settings(0.6, keep="1s")))
    time.sleep(1.1)  # the further banks were made just now, and are not of another age
    plan = CliRunner().invoke(main, ["run", job, "--dry-run"]).output
    (line,) = [line for line in plan.splitlines() if line.startswith("keep")]
    assert line.count("content-") == line.count("style-") == 1
    assert run_job(two, **settings(0.6, keep="1s")).counts.pairs_dropped == 12
    assert banks(two / "out") == ["content", "style"]
    assert "keep " not in CliRunner().invoke(main, ["run", job, "--dry-run"]).output


def test_the_bank_of_the_job_and_the_first_of_a_side_stay_however_old(two):
    out = two / "out"
    run_job(two, **settings(0.6, keep=None, inversion={"steps": 5}))
    run = night(two, TODAY + 1000 * DAY, **settings(0.6, inversion={"steps": 5}))
    assert run.counts.pairs_dropped == 12
    assert banks(out) == ["content", "content", "style", "style"]
    assert run_job(two, **settings(0.6, inversion={"steps": 5})).counts.pairs_there == 6
