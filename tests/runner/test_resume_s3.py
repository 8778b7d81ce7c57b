"""A run whose output lies on S3: stopped half-way, looked at, resumed, pruned."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures
from support.whole_jobs import SIX_PAIRS, STYLES, job_file, run_job

from pipeline.cli.main import main
from pipeline.monitoring.status import read_status
from pipeline.results.manifest import Manifest
from pipeline.storage.place import Place


class Stop(Exception):
    pass


@pytest.mark.parametrize("to", ["folder", "webdataset"])
def test_stopped_resumed_and_pruned_on_s3(tmp_path, monkeypatch, s3_bucket, to):  # noqa: F811
    out = Place.parse(s3_bucket) / "out"
    changes = SIX_PAIRS | {"output": str(out), "pictures": {"to": to}}
    commit = Manifest.commit

    def once(self, part, rows):
        if self.store.parts():
            raise Stop
        commit(self, part, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "commit", once)
        with pytest.raises(Stop):
            run_job(tmp_path, **changes)
    half = read_status(out)
    assert (half.wanted, half.done, half.exit_code, half.holder) == (6, 2, 4, None)
    run = run_job(tmp_path, **changes)
    assert (run.counts.pairs_there, run.counts.pairs_made) == (2, 4)
    rows = Manifest(out).table()
    assert len(set(rows["pair"].to_pylist())) == len(rows) == 6
    parts = [pq.read_table(io.BytesIO(entry.place.read_bytes())) for entry in (out / "manifest").list(".parquet")]
    assert sum(map(len, parts)) == 6
    pictures = {name.partition("#")[0] for name in rows["picture"].to_pylist()}
    assert {entry.place.relative_to(out) for entry in (out / "pictures").list(recursive=True)} == pictures
    assert read_status(out).exit_code == 0

    job = job_file(tmp_path, **changes | {"style": {"folder": str(STYLES), "limit": 1}})
    assert yaml.safe_load(job.read_text())["output"] == str(out)
    result = CliRunner().invoke(main, ["prune", str(job), "--yes"], catch_exceptions=False)
    assert "dropped 3 pairs" in result.output
    assert Manifest(out).counts() == (3, 0)
