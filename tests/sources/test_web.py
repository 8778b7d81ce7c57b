"""Pictures at web addresses, from a server that behaves badly."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.waiting import NEVER

from pipeline.sources import RawPicture, SourceSpec, open_source, web, web_cache
from pipeline.storage.place import Place


def png(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), seed, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Each address behaves as its name says; ``server.asked`` counts them."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/").partition(".")[0]
        self.server.asked[name] += 1
        self.server.headers[name] = dict(self.headers)
        with contextlib.suppress(OSError):
            getattr(self, name, self.missing)()

    def send(self, data: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        given = {key.replace("_", "-"): value for key, value in headers.items()}
        for key, value in {"Content-Length": str(len(data)), "Content-Type": "image/png", **given}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def good(self) -> None:
        if self.headers.get("If-None-Match") == '"one"':
            self.send(status=304)
        else:
            self.send(png(1), ETag='"one"', Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT")

    def plain(self) -> None:
        self.send(png(2))

    def missing(self) -> None:
        self.send(b"no", 404, Content_Type="text/html")

    def page(self) -> None:
        self.send(b"<html>sign in</html>", Content_Type="text/html; charset=utf-8")

    def flaky(self) -> None:
        if self.server.asked["flaky"] == 1:
            self.send(status=500)
        else:
            self.send(png(3))

    def busy(self) -> None:
        self.send(status=503, Retry_After="0")

    def loop(self) -> None:
        self.send(status=302, Location="/loop")

    def moved(self) -> None:
        self.send(status=301, Location="/good.png")

    def local(self) -> None:
        self.send(status=302, Location="file:///etc/passwd")

    def nothing(self) -> None:
        self.send()

    def huge(self) -> None:
        self.send(bytes(5000))

    def endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        while True:
            self.wfile.write(bytes(1 << 10))

    def cut(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(png())
        self.close_connection = True

    def silent(self) -> None:
        self.server.over.wait(NEVER)

    def together(self) -> None:
        if self.server.asked["together"] == 8:
            self.server.met.set()
        self.server.met.wait(NEVER)
        self.send(png(4))

    def dripping(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "3000")
        self.end_headers()
        self.drip(b"x")

    def closing(self) -> None:
        self.protocol_version = "HTTP/1.0"  # after this the library lets go of the connection, and reads on
        self.dripping()

    def header(self) -> None:
        self.drip(b"HTTP/1.1 200 OK\r\nX-Long: ")

    def drip(self, data: bytes) -> None:
        self.close_connection = True
        while not self.server.over.wait(0.05):
            self.wfile.write(data[:1])
            self.wfile.flush()

    def log_message(self, *args) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    server = Server(("127.0.0.1", 0), Handler)
    server.asked, server.headers, server.over = Counter(), {}, threading.Event()
    server.met = threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(web, "PAUSE", 0.01)
    monkeypatch.setattr(web, "MAX_FETCH", 4000)


@pytest.fixture
def impatient(monkeypatch):
    """Short limits, for servers that never end."""
    monkeypatch.setattr(web, "SECONDS", 2.0)
    monkeypatch.setattr(web, "SILENCE", 0.8)


def read(folder, *addresses: str, known=None, allow_outside: bool = True) -> list[RawPicture]:
    (folder / "list.csv").write_text(
        "path,caption\n" + "".join(f"{address},c{n}\n" for n, address in enumerate(addresses))
    )
    source = open_source(SourceSpec(list=str(folder / "list.csv"), allow_outside=allow_outside))
    blocks = [pickle.loads(pickle.dumps(block)) for block in source.blocks(known or {})]
    return [picture for block in blocks for picture in block.pictures()]


def test_pictures_are_fetched_in_the_order_of_the_list(server, tmp_path):
    (tmp_path / "here.png").write_bytes(png(9))
    names = ["good.png", "moved.png", "plain.png?size=2", "flaky.png"]
    pictures = read(tmp_path, *(f"{server.url}/{name}" for name in names), "here.png")
    assert [picture.data for picture in pictures] == [png(1), png(1), png(2), png(3), png(9)]
    assert [picture.name for picture in pictures] == ["good.png", "moved.png", "plain.png", "flaky.png", "here.png"]
    assert [picture.caption for picture in pictures] == ["c0", "c1", "c2", "c3", "c4"]
    assert pictures[0].source == f"{server.url}/good.png"
    # Its size, the time of change in nanoseconds, and a mark of the ETag.
    assert pictures[0].source_version.startswith(f"{len(png(1))}-1445412480000000000-")
    assert server.headers["plain"]["User-Agent"].startswith("diffstyle/")


@pytest.mark.parametrize(
    ("name", "reason", "requests"),
    [
        ("missing", "the server answers 404 Not Found", 1),
        ("page", "no picture: the server sends text/html", 1),
        ("busy", "the server answers 503 Service Unavailable (3 tries)", 3),
        ("loop", "more than 5 redirects", 6),
        ("local", "leads to something that is no web address", 1),
        ("nothing", "the server sends nothing", 1),
        ("huge", "over 4,000 bytes", 1),
        ("endless", "over 4,000 bytes", 1),
        ("cut", "the connection was cut (3 tries)", 3),
    ],
)
def test_what_goes_wrong_is_a_reject_and_the_rest_goes_on(server, tmp_path, name, reason, requests):
    bad, good = read(tmp_path, f"{server.url}/{name}.png", f"{server.url}/good.png")
    assert bad.data is None
    assert reason in bad.error
    assert "\n" not in bad.error
    assert good.data == png(1)
    assert server.asked[name] == requests


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("silent", "took longer than 2 s|no byte for 0.8 s"),
        ("dripping", "took longer than 2 s"),
        ("closing", "took longer than 2 s"),
        ("header", "took longer than 2 s"),
    ],
)
def test_a_server_that_never_ends_is_left_and_the_rest_goes_on(server, tmp_path, impatient, name, reason):
    bad, good = read(tmp_path, f"{server.url}/{name}.png", f"{server.url}/good.png")
    assert bad.data is None
    assert any(text in bad.error for text in reason.split("|")), bad.error
    assert good.data == png(1)


def test_servers_that_are_not_there(server, tmp_path):
    addresses = (
        "http://127.0.0.1:9/a.png",
        "http://no-such-host.invalid/a.png",
        "http://[::1",
        "http://",
        "https://%00/",
    )
    pictures = read(tmp_path, *addresses, f"{server.url}/good.png")
    assert [bool(picture.error) for picture in pictures] == [True] * 5 + [False]
    assert all("\n" not in (picture.error or "") for picture in pictures)


def test_what_is_known_is_not_asked_for_again_and_failures_only_on_request(server, tmp_path):
    addresses = [f"{server.url}/{name}.png" for name in ("good", "missing", "plain")]
    first = read(tmp_path, *addresses)
    known = {picture.source: picture.source_version for picture in first}
    asked = Counter(server.asked)
    assert read(tmp_path, *addresses, known=known) == []
    assert server.asked == asked
    without_rejects = {picture.source: picture.source_version for picture in first if picture.data}
    assert [picture.name for picture in read(tmp_path, *addresses, known=without_rejects)] == ["missing.png"]


def test_the_cache_is_used_where_the_server_says_that_nothing_changed(server, tmp_path, monkeypatch):
    address = f"{server.url}/good.png"
    (first,) = read(tmp_path, address)
    (again,) = read(tmp_path, address)
    assert server.headers["good"]["If-None-Match"] == '"one"'
    assert (again.data, again.source_version) == (first.data, first.source_version)
    (file,) = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    file.write_bytes(file.read_bytes()[:-3] + b"bad")
    assert read(tmp_path, address)[0].data == first.data
    assert "If-None-Match" not in server.headers["good"]


def test_the_cache_does_not_grow_for_ever(server, tmp_path, monkeypatch):
    monkeypatch.setattr(web_cache, "CACHE_BYTES", 256 * 300)
    monkeypatch.setattr(web_cache, "cache_file", lambda address: Place.parse(tmp_path / "cache" / address[-3:]))
    for n in range(5):
        web_cache.keep({"address": f"x{n:02d}", "etag": "e", "modified": ""}, bytes(90))
    assert sorted(os.listdir(tmp_path / "cache")) == ["x03", "x04"]  # noqa: PTH208


def test_a_cache_that_cannot_be_written_is_told_and_costs_nothing(server, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path / "file"))
    assert read(tmp_path, f"{server.url}/good.png")[0].data == png(1)
    assert "fetched pictures are not kept" in caplog.text


def test_private_addresses_are_refused_unless_allowed(server, tmp_path):
    addresses = [f"{server.url}/good.png", f"http://localhost:{server.server_port}/good.png"]
    refused = read(tmp_path, *addresses, allow_outside=False)
    assert all("private network; say allow_outside: true" in picture.error for picture in refused)
    assert not server.asked
    known = {picture.source: picture.source_version for picture in refused}
    assert read(tmp_path, *addresses, known=known, allow_outside=False) == []
    assert [picture.data for picture in read(tmp_path, *addresses, known=known)] == [png(1), png(1)]


def test_passwords_are_neither_sent_nor_repeated(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (picture,) = read(tmp_path, f"{server.url}/moved.png")
    assert picture.data == png(1)
    assert "Authorization" not in server.headers["moved"] | server.headers["good"]
    (picture,) = read(tmp_path, f"{server.url.replace('127', 'me:secret@127')}/good.png")
    assert "a password" in picture.error
    assert "secret" not in repr(picture)


def test_many_addresses_are_fetched_at_once(server, tmp_path):
    """Each is answered once eight are asked for."""
    pictures = read(tmp_path, *(f"{server.url}/together.png?{n}" for n in range(8)))
    assert [picture.data for picture in pictures] == [png(4)] * 8
