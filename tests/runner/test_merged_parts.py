"""A run whose manifest's parts were merged is resumed, shown, verified, repaired and pruned as any other."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from support.whole_jobs import SIX_PAIRS, STYLES, manifest, run_job

from pipeline.cli.main import main
from pipeline.monitoring.status import read_status
from pipeline.results.manifest import MANIFEST_SCHEMA, TIMING_COLUMNS, Manifest
from pipeline.results.scores import SCORES_SCHEMA, Scores
from pipeline.results.verify import check_results
from pipeline.storage import merging
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place

FORMS = {"files": {}, "tars": {"pictures": {"to": "webdataset"}}}


def command(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.output


def parts(out: Path) -> list[str]:
    return sorted(file.name.partition("-")[0] for file in (out / "manifest").glob("*.parquet"))


def rows(out: Path) -> list[str]:
    table = manifest(out).drop(columns=list(TIMING_COLUMNS))
    return [json.dumps(row, default=str, sort_keys=True) for row in table.to_dict("records")]


def pictures(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in (out / "pictures").rglob("*") if file.is_file()}


@pytest.fixture(params=FORMS)
def job(request, tmp_path, monkeypatch) -> Path:
    """A finished job of six pairs in three tiles, which are one part; and what the same job gives without merging."""
    changes = {**SIX_PAIRS, **FORMS[request.param]}
    run_job(tmp_path / "plain", **changes)
    monkeypatch.setattr(merging, "MANY", 2)
    run_job(tmp_path / "job", **changes)
    (tmp_path / "job" / "changes.json").write_text(json.dumps(changes))
    return tmp_path / "job"


def again(job: Path):
    return run_job(job, **json.loads((job / "changes.json").read_text()))


def test_it_is_the_same_run_and_goes_on(job):
    out, plain = job / "out", job.parent / "plain" / "out"
    assert (parts(out), parts(plain)) == (["merged"], ["tile"] * 3)
    assert rows(out) == rows(plain)
    assert pictures(out) == pictures(plain)
    status = read_status(Place.parse(out))
    assert (status.wanted, status.done, status.left, status.repeated) == (6, 6, 0, 0)
    assert check_results(Manifest(Place.parse(out))).problems == []
    before = pictures(out)
    run = again(job)
    assert (run.counts.pairs_there, run.counts.pairs_made) == (6, 0)
    assert pictures(out) == before


def scores(out: Path) -> pd.DataFrame:
    table = pd.read_parquet(out / "scores").drop(columns=["seconds", "created"])
    return table.sort_values("pair", ignore_index=True)


def test_scores_are_merged_too_and_are_the_same(job, monkeypatch):
    changes = json.loads((job / "changes.json").read_text())
    run_job(job, stages=("score",), **changes)
    monkeypatch.setattr(merging, "MANY", 256)
    run_job(job.parent / "plain", stages=("score",), **changes)
    out, plain = job / "out", job.parent / "plain" / "out"
    names = [sorted(file.name.partition("-")[0] for file in (one / "scores").glob("*.parquet")) for one in (out, plain)]
    assert names == [["merged"], ["score"] * 3]
    pd.testing.assert_frame_equal(scores(out), scores(plain))
    counts = run_job(job, stages=("score",), **changes).counts
    assert (counts.scored, counts.scored_before) == (0, 6)
    assert command("verify", out)[0] == 0


def test_scoring_and_verifying_hold_no_whole_table(job, monkeypatch):
    """Of ten million pairs the rows of all do not fit in memory: each part is read by itself."""

    def refused(*asked: object, **how: object) -> None:
        raise AssertionError("all rows at once")

    rows = PartStore.rows
    monkeypatch.setattr(Manifest, "table", refused)
    monkeypatch.setattr(Scores, "table", refused)
    monkeypatch.setattr(
        PartStore,
        "rows",
        lambda store, schema, columns=None: (
            refused() if schema in (MANIFEST_SCHEMA, SCORES_SCHEMA) else rows(store, schema, columns)
        ),
    )
    changes = json.loads((job / "changes.json").read_text())
    assert run_job(job, stages=("score",), **changes).counts.scored == 6
    assert run_job(job, stages=("score",), **changes).counts.scored_before == 6
    (job / "out" / "pictures" / "of-nobody.png").write_bytes(b"x")
    assert command("verify", job / "out", "--repair")[0] == 0
    assert "all is well" in command("verify", job / "out")[1]


def test_a_pair_in_two_parts_is_scored_once_and_named_by_verify(job):
    store = Manifest(Place.parse(job / "out")).store
    (part,) = store.parts()
    store.commit("tile-again", store.part_rows(part, MANIFEST_SCHEMA).slice(0, 2))
    changes = json.loads((job / "changes.json").read_text())
    assert run_job(job, stages=("score",), **changes).counts.scored == 6
    assert len(scores(job / "out")) == 6
    code, printed = command("verify", job / "out")
    assert code == 3
    assert "2 pairs have a row in another part too, the first in merged-" in printed
    assert command("verify", job / "out", "--repair")[0] == 0
    assert len(rows(job / "out")) == 6


def test_damage_costs_its_own_pairs_alone_and_is_healed(job):
    out = job / "out"
    wanted, made = rows(out), pictures(out)
    harmed = out / sorted(made)[0]
    harmed.write_bytes(made[sorted(made)[0]][:-9])
    assert command("verify", out, "--repair")[0] == 0
    lost = 2 if harmed.suffix == ".tar" else 1
    assert len(rows(out)) == 6 - lost
    assert not harmed.exists()
    assert again(job).counts.pairs_made == lost
    assert (rows(out), pictures(out)) == (wanted, made)
    assert command("verify", out)[0] == 0


def test_what_no_job_wants_is_pruned_and_made_again(job):
    out = job / "out"
    wanted, kept = rows(out), set(pictures(out))
    values = yaml.safe_load((job / "job.yaml").read_text())
    values["style"] = {"folder": str(STYLES), "limit": 1}
    (job / "less.yaml").write_text(yaml.safe_dump(values))
    assert "dropped 3 pairs" in command("prune", job / "less.yaml", "--yes")[1]
    assert len(rows(out)) == 3
    assert set(pictures(out)) <= kept
    assert check_results(Manifest(Place.parse(out))).problems == []
    assert "nothing to drop" in command("prune", job / "less.yaml")[1]
    assert again(job).counts.pairs_made == 3
    assert {json.loads(row)["pair"] for row in rows(out)} == {json.loads(row)["pair"] for row in wanted}
    assert check_results(Manifest(Place.parse(out))).problems == []
