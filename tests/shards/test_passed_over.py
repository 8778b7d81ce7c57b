"""What a data set holds besides pictures is kept with the shards and told."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner
from support.data_sets import encoded, member, tar_bytes, write
from support.whole_jobs import STYLES, manifest, paint, run_job

from diffstyle.errors import ConfigError
from pipeline.cli.main import main
from pipeline.shards.passed_over import read_passed_over, total
from pipeline.sources import SourceSpec, open_source
from pipeline.stages.shard import shard_stage
from pipeline.storage import masking
from pipeline.storage.place import Place
from pipeline.storage.tables import DamagedError
from pipeline.workers.local import LocalPool


def test_counts_stay_with_tars_that_are_not_walked_again(tmp_path):
    out = Place.parse(tmp_path / "shards")
    data = tar_bytes(member("a.png", encoded()), member("x.npy", b"x"), member("y.md", b"y"))
    write(tmp_path / "set", {"a.tar": data})

    def stage():
        return shard_stage(LocalPool(), open_source(SourceSpec(webdataset=str(tmp_path / "set"))), out, 16)

    first = stage()
    assert first.passed_over.line() == "passed over 2 members of unknown suffix (.npy, .md)"
    kept = (out / "passed_over.parquet").read_bytes()
    again = stage()
    assert (again.done, again.passed_over.line()) == (0, first.passed_over.line())
    assert (out / "passed_over.parquet").read_bytes() == kept
    write(tmp_path / "set", {"b.tar": tar_bytes(member("b.png", encoded(1)), member("z.md", b"y"))})
    assert stage().passed_over.line() == "passed over 3 members of unknown suffix (.npy, .md)"
    (tmp_path / "set" / "a.tar").unlink()
    assert total(read_passed_over(out)).line() == "passed over 3 members of unknown suffix (.npy, .md)"
    assert stage().passed_over.line() == "passed over 1 member of unknown suffix (.md)"


def test_the_name_of_a_tar_holds_no_secret(tmp_path, monkeypatch):
    monkeypatch.setattr(masking, "_SECRETS", {})
    masking.remember("STORE_SECRET", "hunter22")
    out = Place.parse(tmp_path / "shards")
    write(tmp_path / "hunter22", {"a.tar": tar_bytes(member("a.png", encoded()), member("x.npy", b"x"))})
    for done in (1, 0):
        summary = shard_stage(LocalPool(), open_source(SourceSpec(webdataset=str(tmp_path / "hunter22"))), out, 16)
        assert (summary.done, summary.passed_over.line()) == (done, "passed over 1 member of unknown suffix (.npy)")
        (tar,) = read_passed_over(out)
        assert tar == str(tmp_path / "${STORE_SECRET}" / "a.tar")


def test_damaged_counts_are_one_line_and_counted_again_once_deleted(tmp_path):
    out = Place.parse(tmp_path / "shards")
    write(tmp_path / "set", {"a.png": encoded(), "b.xmp": b"x"})
    line = shard_stage(LocalPool(), open_source(str(tmp_path / "set")), out, 16).passed_over.line()
    table = out / "passed_over.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=r"passed_over.parquet: .*; delete it; the next run counts again"):
        read_passed_over(out)
    table.delete()
    assert shard_stage(LocalPool(), open_source(str(tmp_path / "set")), out, 16).passed_over.line() == line
    assert total(read_passed_over(out)).line() == line


class TestJobs:
    def test_a_run_and_status_say_so_in_one_line(self, tmp_path, caplog):
        paint(tmp_path / "set" / "a.png", 1)
        write(tmp_path / "set", {"b.xmp": b"x", "c.txt": b"x"})
        run_job(tmp_path, stages=("shard",), content=str(tmp_path / "set"))
        line = "passed over 2: 1 file of unknown suffix (.xmp), 1 side-car without a picture (c.txt)"
        assert [record.getMessage() for record in caplog.records].count(f"content: {line}") == 1
        said = CliRunner().invoke(main, ["status", str(tmp_path / "out")]).output
        assert re.search(rf"content +1 prepared\n +{re.escape(line)}\n", said)

    def test_an_output_in_its_own_content_folder_does_not_feed_on_itself(self, tmp_path, caplog):
        for n in range(2):
            paint(tmp_path / "set" / f"{n}.png", n)
        changes = {"content": str(tmp_path / "set"), "output": "set/out", "style": {"folder": str(STYLES), "limit": 1}}
        run_job(tmp_path, stages=("shard",), **changes)
        assert caplog.records[-1].getMessage() == "content: passed over 1 folder that a job wrote (out)"
        for _ in range(2):
            run_job(tmp_path, **changes)
            assert len(manifest(tmp_path / "set" / "out")) == 2
        assert caplog.records[-1].getMessage() == "content: passed over 1 folder that a job wrote (out)"

    @pytest.mark.parametrize("source", ["set", "set/pictures", "way"])
    def test_a_data_set_that_is_the_output_is_refused_before_anything_is_written(self, tmp_path, source):
        paint(tmp_path / "set" / "pictures" / "a.png", 1)
        (tmp_path / "way").symlink_to(tmp_path / "set")
        with pytest.raises(ConfigError, match=r"is the output of this job.*give the job another output folder"):
            run_job(tmp_path, content=str(tmp_path / source), output="set")
        assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["pictures"]
