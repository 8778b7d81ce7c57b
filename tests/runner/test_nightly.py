"""What a nightly run needs: a time budget, a summary for machines, a webhook."""

from __future__ import annotations

import http.server
import json
import threading

import pytest
from click.testing import CliRunner
from support.whole_jobs import SIX_PAIRS, job_file, manifest, run_job

from pipeline.cli.main import main
from pipeline.runner import budget, closing
from pipeline.storage.errors import Stopped


class Clock:
    """A clock that a test moves: as much at each look as it says."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize("seconds", [1.5, 3.5, 6.5])
def test_a_run_stops_after_its_time_and_goes_on_where_it_was(tmp_path, monkeypatch, seconds):
    """The clock goes on by one at each unit that might begin: so it stops in the shards, the banks, the pairs."""
    changes = SIX_PAIRS | {"bank": {"h": "float32", "part_size": 1}, "stop_after": seconds}
    quiet = run_job(tmp_path / "quiet", **{**changes, "stop_after": None, "output": str(tmp_path / "quiet/out")})
    assert quiet.counts.pairs_made == 6
    stops: list[Stopped] = []
    while True:
        monkeypatch.setattr(budget, "time", Clock(1.0))
        try:
            run_job(tmp_path, **changes)
            break
        except Stopped as error:
            stops.append(error)
            assert len(stops) < 30
    assert {error.exit_code for error in stops} == {4}
    assert str(stops[0]).startswith(f"stop_after: {seconds:g} s have passed; what was begun is finished and kept")
    rows, wanted = manifest(tmp_path / "out"), manifest(tmp_path / "quiet/out")
    assert rows["pair"].is_unique
    assert rows["picture_hash"].tolist() == wanted["picture_hash"].tolist()


def test_what_was_begun_is_committed(tmp_path, monkeypatch):
    run_job(tmp_path, stages=("shard", "precompute"), **SIX_PAIRS)
    monkeypatch.setattr(budget, "time", Clock(1.0))
    with pytest.raises(Stopped):
        run_job(tmp_path, stages=("inject",), **SIX_PAIRS | {"stop_after": 0.5})
    assert len(manifest(tmp_path / "out")) == 2  # the batch that was begun, of three


class Hook(http.server.BaseHTTPRequestHandler):
    answers: list[int]
    taken: list[dict]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append(json.loads(body))
        self.send_response(self.answers.pop(0) if self.answers else 200)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Quietly."""


@pytest.fixture
def hook(monkeypatch):
    monkeypatch.setattr(closing, "_PAUSE", 0.01)
    handler = type("Handler", (Hook,), {"answers": [], "taken": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    handler.address = f"http://127.0.0.1:{server.server_port}/hooks/very-secret"
    yield handler
    server.shutdown()
    server.server_close()


def run(*words: object):
    return CliRunner().invoke(main, ["run", *map(str, words), "--local", "-q"])


def test_the_summary_of_a_run_that_is_done(tmp_path, hook):
    file = tmp_path / "summary.json"
    result = run(job_file(tmp_path, **SIX_PAIRS), "--summary", file, "--webhook", hook.address)
    assert result.exit_code == 0, result.output
    summary = json.loads(file.read_text())
    assert (summary["exit_code"], summary["outcome"], summary["pairs_made"]) == (0, "done", 6)
    assert summary["output"] == str(tmp_path / "out")
    assert summary["began"] <= summary["ended"]
    assert summary["seconds"]["inject"] > 0
    assert hook.taken == [summary]
    assert "very-secret" not in (tmp_path / "out/job.yaml").read_text() + result.output


def test_the_summary_of_a_run_that_stops_or_is_refused(tmp_path, hook, monkeypatch):
    file = tmp_path / "summary.json"
    job = job_file(tmp_path, **SIX_PAIRS)
    monkeypatch.setattr(budget, "time", Clock(1.0))
    assert run(job, "--set", "stop_after=6.5", "--summary", file).exit_code == 4
    summary = json.loads(file.read_text())
    assert summary["exit_code"] == 4
    assert summary["outcome"].startswith("stopped: stop_after: 6.5 s have passed")
    assert summary["pairs_made"] in (2, 4)
    monkeypatch.setenv("NIGHT_TOKEN", "hunter22")
    assert run(job, "--set", "content.folder=/no/${NIGHT_TOKEN}", "--summary", file).exit_code == 2
    summary = json.loads(file.read_text())
    assert summary["exit_code"] == 2
    assert "${NIGHT_TOKEN}" in summary["outcome"]
    assert "hunter22" not in file.read_text()


def test_a_webhook_that_fails_costs_a_line(tmp_path, hook):
    job = job_file(tmp_path, **SIX_PAIRS | {"style": {"folder": str(tmp_path / "none")}})
    hook.answers += [500, 503, 200]
    assert run(job, "--webhook", hook.address).exit_code == 2
    assert len(hook.taken) == 3
    hook.answers += [404]
    result = CliRunner().invoke(main, ["run", str(job), "--local"], env={"DIFFSTYLE_WEBHOOK": hook.address})
    assert result.exit_code == 2
    assert len(hook.taken) == 4
    assert "very-secret" not in result.output
