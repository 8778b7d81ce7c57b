"""What a run shows while it goes on."""

from __future__ import annotations

from support.whole_jobs import job_file, paint

from pipeline.jobfile.load import load_job
from pipeline.runner.api import run


def test_nothing_to_do_is_one_line_and_rejected_pictures_are_called_so(tmp_path, capsys):
    paint(tmp_path / "photos" / "a.png", 1)
    (tmp_path / "photos" / "b.png").write_bytes(b"no picture")
    job = load_job(job_file(tmp_path, content="./photos"))
    run(job, local=True)
    first = capsys.readouterr().err
    assert "shard content: done, 2 pictures, 1 rejected" in first
    assert "inject: done, 2 pairs" in first
    run(job, local=True)
    again = capsys.readouterr().err
    assert "nothing to do: 2 pairs are there" in again
    assert "0/0" not in again
    assert "invert" not in again
    assert "inject" not in again
