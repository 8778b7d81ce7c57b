"""A store that was never heard of is asked for seconds, with a word on the way; one that has answered, for minutes."""

from __future__ import annotations

import logging
import socket
import threading
import time

import pytest
from click.testing import CliRunner
from support.s3 import _SETTINGS, s3_bucket, s3_endpoint, s3_store  # noqa: F401 - fixtures
from support.s3_faults import Faults
from support.whole_jobs import job_file

from pipeline.cli.main import main
from pipeline.storage import first_answer, objects
from pipeline.storage import place as place_module
from pipeline.storage.errors import NeverAnswered
from pipeline.storage.files_below import files_below
from pipeline.storage.place import Place


@pytest.fixture
def nobody(monkeypatch) -> str:
    """The address of a store that refuses connections."""
    with socket.socket() as mute:  # bound and not listening: nobody else takes the port meanwhile
        mute.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        for name, value in {**_SETTINGS, "AWS_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        monkeypatch.delitem(place_module._FILE_SYSTEMS, "s3", raising=False)
        monkeypatch.setattr(first_answer, "PATIENCE", 1.0)
        monkeypatch.setattr(first_answer, "TOLD_AFTER", 0.2)
        yield address
    place_module._FILE_SYSTEMS.pop("s3", None)


ASKING = {
    "list": lambda place: place.list(),
    "read": lambda place: place.read_bytes(),
    "write": lambda place: place.write_bytes(b"x"),
    "create": lambda place: objects.create(place.scheme, place.path, b"x"),
    "delete": lambda place: place.delete(),
    "size": lambda place: place.size(),
    "all below": lambda place: list(files_below(place)),
}


@pytest.mark.parametrize("how", ASKING)
def test_a_store_that_refuses_connections_is_soon_told_with_its_address(nobody, caplog, how):
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(NeverAnswered) as caught:
        ASKING[how](Place.parse("s3://bucket/out"))
    assert time.monotonic() - began < 30  # Arrow and obstore alone ask for minutes
    line = str(caught.value)
    assert line.startswith("s3://bucket/out: no answer in 1 s (")
    assert nobody in line
    assert "Connection refused" in line
    assert line.endswith("; check the address in AWS_ENDPOINT_URL and the network")
    assert "\n" not in line
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"waiting for s3://bucket/out at {nobody}, which has not answered yet"]


@pytest.mark.parametrize("command", ["plan", "run", "status"])
def test_a_command_says_so_in_one_line(nobody, tmp_path, caplog, command):
    job = job_file(tmp_path, output="s3://bucket/out")
    with caplog.at_level(logging.WARNING):
        done = CliRunner().invoke(main, [command, str(job)])
    assert done.exit_code == 4
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: s3://bucket/out")
    assert nobody in line
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("waiting for s3://bucket/out")


@pytest.mark.parametrize("fault", [Faults(slow_down=1.0), Faults(torn=1.0)], ids=["throttled", "cut"])
def test_a_store_that_comes_to_itself_is_waited_for(s3_bucket, s3_store, monkeypatch, fault):  # noqa: F811
    """It throttles, or cuts connections, when it is asked first."""
    monkeypatch.setattr(first_answer, "_answered", set())
    s3_store.set(fault)
    place = Place.parse(s3_bucket) / "file"
    stop = threading.Timer(1.0, lambda: s3_store.set(Faults()))
    stop.start()
    place.write_bytes(b"whole")
    stop.join()
    assert place.read_bytes() == b"whole"
    assert s3_store.caused


def test_what_a_store_refuses_is_an_answer(s3_bucket, monkeypatch):  # noqa: F811
    monkeypatch.setattr(first_answer, "_answered", set())
    place = Place.parse(s3_bucket) / "file"
    assert not first_answer.has_answered("s3")
    with pytest.raises(FileNotFoundError):
        place.read_bytes()
    assert first_answer.has_answered("s3")
