"""What a nightly run needs: a time budget, a summary for machines, a webhook."""

from __future__ import annotations

import http.server
import json
import os
import socket
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
        code = self.answers.pop(0) if self.answers else 200
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/elsewhere")
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


@pytest.fixture
def failing_job(tmp_path):
    """A job that ends at once, with code 2, and writes its summary."""
    return job_file(tmp_path, **SIX_PAIRS | {"style": {"folder": str(tmp_path / "none")}})


def refused(result, *words: str) -> None:
    """It ended with code 2 and one line that holds the words."""
    assert result.exit_code == 2, result.output
    assert result.output.count("\n") == 1, result.output
    assert result.output.startswith("error: --"), result.output
    for word in words:
        assert word in result.output


def test_a_summary_replaces_nothing_but_a_summary(tmp_path, failing_job):
    out, other, plain = tmp_path / "out", tmp_path / "notes.json", tmp_path / "notes.txt"
    out.mkdir()
    (out / "job.yaml").write_text("kept: true\n")
    other.write_text('{"exit_code": 0}')
    plain.write_text("[" * 200_000)
    link = tmp_path / "link"
    link.symlink_to(failing_job)
    inside = tmp_path / "inside"
    inside.symlink_to(out)
    before = {file: file.read_bytes() for file in (failing_job, out / "job.yaml", other, plain)}
    refused(run(failing_job, "--summary", failing_job), "is the job file")
    refused(run(failing_job, "--summary", link), "is the job file")
    for file in (out / "job.yaml", out / "new.json", inside / "new.json", out / "deep/new.json"):
        refused(run(failing_job, "--summary", file), "is inside the output folder")
    for file in (other, plain):
        refused(run(failing_job, "--summary", file), str(file), "is no earlier summary")
    for file in (tmp_path, "."):
        refused(run(failing_job, "--summary", file), "is a folder")
    refused(run(failing_job, "--summary", ""), "give the name of a file")
    refused(run(failing_job, "--summary", tmp_path / "no/such.json"), "there is no folder")
    refused(run(failing_job, "--summary", tmp_path / ("n" * 300)), "can't be written")
    assert {file: file.read_bytes() for file in before} == before
    assert sorted(one.name for one in out.iterdir()) == ["job.yaml"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cant_be_written_is_refused(tmp_path, failing_job):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    refused(run(failing_job, "--summary", folder / "new.json"), "can't be written")


def test_a_summary_goes_to_a_new_an_empty_and_an_earlier_file(tmp_path, failing_job):
    empty, target, link = tmp_path / "empty.json", tmp_path / "target.json", tmp_path / "link.json"
    empty.touch()
    target.touch()
    link.symlink_to(target)
    for file in (empty, empty, tmp_path / "new.json", tmp_path / ("n" * 250), link):
        assert run(failing_job, "--summary", file).exit_code == 2
        assert json.loads(file.read_text())["exit_code"] == 2
    assert link.is_symlink()
    assert not list(tmp_path.glob(".*"))


def test_a_pipe_gets_the_summary_and_stays_a_pipe(tmp_path, failing_job):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        run(failing_job, "--summary", pipe)
        assert json.loads(os.read(reader, 1 << 16))["exit_code"] == 2
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert run(failing_job, "--summary", pipe).exit_code == 2  # nobody reads: a line, and no wait
    assert pipe.is_fifo()


def test_a_pipe_without_a_path_gets_the_summary(failing_job):
    reader, writer = os.pipe()
    try:
        assert run(failing_job, "--summary", f"/dev/fd/{writer}").exit_code == 2
        assert json.loads(os.read(reader, 1 << 16))["exit_code"] == 2
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    "address", ["notaurl", "file:///etc/passwd", "", " ", "http://", "http://[::1", "http://host:port/", "https://.a/"]
)
def test_a_wrong_webhook_is_refused_before_the_run(tmp_path, address):
    refused(run(job_file(tmp_path, **SIX_PAIRS), "--webhook", address), "--webhook", "https://HOST/PATH")
    assert not (tmp_path / "out").exists()


def test_a_redirect_is_not_taken_and_told(failing_job, hook, caplog):
    hook.answers += [302]
    assert run(failing_job, "--webhook", hook.address).exit_code == 2
    assert len(hook.taken) == 1
    assert "it answered 302, a redirect" in caplog.text
    assert "very-secret" not in caplog.text


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"])
def test_a_server_that_drips_does_not_hold_the_run(failing_job, monkeypatch, caplog, start):
    """Its head byte by byte, which no timeout of a socket ends; or its body, which nobody waits for."""
    import requests  # noqa: F401 - else its import counts, which may take long

    monkeypatch.setattr(closing, "_DEADLINE", 30.0 if start else 3.0)
    asked, over = [], threading.Event()

    def drip(server: socket.socket) -> None:
        while not over.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            asked.append(connection)
            connection.recv(1 << 16)
            try:
                connection.sendall(start or b"HTTP/1.1 200 OK\r\nX: ")
                while not over.wait(0.1):
                    connection.sendall(b"x")
            except OSError:
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/very-secret"
        assert run(failing_job, "--webhook", address).exit_code == 2
        over.set()
        server.shutdown(socket.SHUT_RDWR)
        thread.join(20)
    assert len(asked) == 1
    assert ("no whole answer in 3 s" in caplog.text) == (not start)
    for connection in asked:
        connection.close()


def test_nobody_at_the_address_is_tried_again_and_is_a_line(failing_job, monkeypatch, caplog):
    monkeypatch.setattr(closing, "_PAUSE", 0.01)
    with socket.socket() as mute:  # bound and not listening: nobody else takes the port meanwhile
        mute.bind(("127.0.0.1", 0))
        result = run(failing_job, "--webhook", f"http://127.0.0.1:{mute.getsockname()[1]}/very-secret")
    assert result.exit_code == 2
    assert "the webhook on 127.0.0.1 did not take the summary (ConnectionError)" in caplog.text
    assert "Traceback" not in result.output
