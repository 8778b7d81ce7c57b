"""What can go wrong between a program and S3, on purpose: a layer in front of moto's application, which also counts.

Slow answers, 503 SlowDown, uploads that are cut in the middle, answers that are lost after the request was carried out,
and listings that lag behind. All by a seeded generator, so that a test has the same faults again as far as its requests
come in the same order.
"""

from __future__ import annotations

import collections
import contextlib
import random
import re
import socket
import threading
import time
import urllib.parse
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

KINDS = ("LIST", "GET", "HEAD", "PUT", "DELETE")

_ANSWERS = {
    "slow_down": (
        "503 Slow Down",
        b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
    ),
    "refused": ("400 Bad Request", b"<Error><Code>InvalidArgument</Code><Message>Not like this.</Message></Error>"),
}
#: Clients try six times or more, so they come through in the end, whatever the generator draws.
MOST_IN_A_ROW = 3
_HARDLY_EVER = 0.999_999

_XML = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass
class Faults:
    """How much goes wrong; with one object never more often than MOST_IN_A_ROW, unless a share is 1: always.

    Attributes:
        latency: Seconds that a request waits at most.
        slow_down: The share of requests that are answered with 503 SlowDown.
        refused: The share of requests that are answered with 400 Bad Request.
        torn: The share of uploads whose connection is cut in the middle; nothing of them is kept.
        lost: The share of writes that are carried out, and whose answer is lost.
        stale: Seconds for which at most a listing lacks a new object and shows a deleted one.
        seed: Of the generator.
    """

    latency: float = 0.0
    slow_down: float = 0.0
    refused: float = 0.0
    torn: float = 0.0
    lost: float = 0.0
    stale: float = 0.0
    seed: int = 0


@dataclass
class _Listed:
    """What a listing is to show of a key for a while."""

    until: float
    contents: dict[str, str] | None  # of an object that is gone; None: the key is not shown yet


class FaultyStore:
    """A WSGI application around another one.

    Attributes:
        faults: What goes wrong from now on.
        counts: Requests by kind, with all that were repeated; reset by :meth:`counting`.
        caused: Faults by kind.
        keys: (kind, bucket/key) of each request; of a listing the prefix.
        on_write: Called with the number, kind and address of each write (PUT, POST, DELETE) before it is carried
            out; where it returns True the connection is cut in the middle of it.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._live: dict[str, dict[str, str]] = {}
        self._stale: dict[str, _Listed] = {}
        self.counts: Counter[str] = Counter()
        self.caused: Counter[str] = Counter()
        self.keys: list[tuple[str, str]] = []
        self.writes = 0
        self._in_a_row: Counter[str] = Counter()  # faults, by object, since the last answer
        self.on_write: Callable[[int, str, str], bool] | None = None
        self.set(Faults())

    def set(self, faults: Faults) -> None:
        """Let these faults happen from now on."""
        self.faults = faults
        self._random = random.Random(faults.seed)

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Count anew; what is counted inside."""
        with self._lock:
            self.counts, self.keys = Counter(), []
        yield self.counts
        with self._lock:
            self.counts = Counter()

    # ---- a request ----

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        kind, path = _kind(environ)
        write = kind in ("PUT", "DELETE")
        with self._lock:
            self.counts[kind] += 1
            self.keys.append((kind, path))
            self.writes += write
            number = self.writes
            wait, slow, torn, lost, refused = (self._random.random() for _ in range(5))
            if self._in_a_row[path] >= MOST_IN_A_ROW:
                slow = torn = lost = refused = _HARDLY_EVER
            on_write = self.on_write
        cut = bool(write and on_write is not None and on_write(number, kind, path))
        faults = self.faults
        if faults.latency:
            time.sleep(wait * faults.latency)
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if cut or (length and write and torn < faults.torn):
            environ["wsgi.input"].read(length // 2)
            return self._cut(environ, "torn", path)
        body = environ["wsgi.input"].read(length) if length else b""
        for fault, happens in (("slow_down", slow < faults.slow_down), ("refused", refused < faults.refused)):
            if happens:
                self._note(fault, path)
                status, text = _ANSWERS[fault]
                start_response(status, [("Content-Type", "application/xml"), ("Content-Length", _len(text))])
                return [text]
        if length:
            environ["wsgi.input"] = BytesIO(body)
        answer: list[Any] = []
        data = b"".join(self._app(environ, lambda status, headers, exc_info=None: answer.extend((status, headers))))
        status, headers = answer[0], answer[1]
        if write and status.startswith("2"):
            self._remember(environ, path, body)
        if write and lost < faults.lost:
            return self._cut(environ, "lost", path)
        if kind == "LIST" and faults.stale and status.startswith("200"):
            data = self._lagging(environ, path, data)
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", _len(data)))
        self._in_a_row[path] = 0
        start_response(status, headers)
        return [data]

    def _note(self, fault: str, path: str | None = None) -> None:
        """Count a fault; ``path``: of the object whose request failed."""
        with self._lock:
            self.caused[fault] += 1
            if path is not None:
                self._in_a_row[path] += 1

    def _cut(self, environ: dict[str, Any], fault: str, path: str) -> Iterable[bytes]:
        self._note(fault, path)
        with contextlib.suppress(Exception):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            environ["wsgi.input"].read()  # what has come already, else it is taken for the next request
        raise ConnectionResetError(fault)

    # ---- listings that lag behind ----

    def _remember(self, environ: dict[str, Any], path: str, body: bytes) -> None:
        query = environ.get("QUERY_STRING", "")
        method = environ["REQUEST_METHOD"]
        bucket = path.partition("/")[0]
        if method == "POST" and "delete" in query.split("&")[0]:
            for key in re.findall(rb"<Key>([^<]*)</Key>", body):
                self._gone(f"{bucket}/{key.decode()}")
        elif method == "DELETE" and "uploadId" not in query:
            self._gone(path)
        elif (method == "PUT" and "partNumber" not in query) or (method == "POST" and "uploadId" in query):
            with self._lock:
                if path not in self._live and self.faults.stale:
                    self._stale[path] = _Listed(self._until(), None)
                self._live[path] = {"Size": str(len(body)), "LastModified": _time(), "ETag": '"0"'}

    def _gone(self, path: str) -> None:
        with self._lock:
            contents = self._live.pop(path, None)
            if contents is not None and self.faults.stale:
                self._stale[path] = _Listed(self._until(), contents)

    def _until(self) -> float:
        return time.monotonic() + self._random.random() * self.faults.stale

    def _lagging(self, environ: dict[str, Any], bucket: str, data: bytes) -> bytes:
        query = dict(urllib.parse.parse_qsl(environ.get("QUERY_STRING", "")))
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        now = time.monotonic()
        with self._lock:
            for path in [path for path, listed in self._stale.items() if listed.until < now]:
                del self._stale[path]
            stale = dict(self._stale)
        if not stale:
            return data
        ET.register_namespace("", _XML)
        root = ET.fromstring(data)
        bucket = bucket.partition("/")[0]
        for contents in root.findall(f"{{{_XML}}}Contents"):
            key = urllib.parse.unquote(contents.findtext(f"{{{_XML}}}Key") or "")
            listed = stale.get(f"{bucket}/{key}")
            if listed is not None and listed.contents is None:
                root.remove(contents)
                self._note("missing in a listing")
        shown = {urllib.parse.unquote(one.text or "") for one in root.iter(f"{{{_XML}}}Key")}
        for path, listed in stale.items():
            key = path.partition("/")[2]
            rest = key[len(prefix) :]
            beyond = bool(delimiter) and delimiter in rest
            if listed.contents is None or beyond or not path.startswith(f"{bucket}/{prefix}") or key in shown:
                continue
            element = ET.SubElement(root, f"{{{_XML}}}Contents")
            for name, value in {"Key": urllib.parse.quote(key), **listed.contents}.items():
                ET.SubElement(element, f"{{{_XML}}}{name}").text = value
            self._note("still in a listing")
        return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def _kind(environ: dict[str, Any]) -> tuple[str, str]:
    """(one of KINDS, bucket/key). The requests of an upload in parts are PUTs, deleting many at once is a DELETE."""
    path = environ["PATH_INFO"].encode("latin-1").decode().lstrip("/")
    method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
    if method == "GET":
        if path.partition("/")[2] and "uploads" not in query:
            return "GET", path
        return "LIST", f"{path.partition('/')[0]}/{dict(urllib.parse.parse_qsl(query)).get('prefix', '')}"
    if method == "POST":
        return "DELETE" if query.partition("&")[0] in ("delete", "delete=") else "PUT", path
    return method, path


def _len(data: bytes) -> str:
    return str(len(data))


def _time() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


def by_folder(keys: Iterable[tuple[str, str]]) -> dict[str, Counter[str]]:
    """Requests by the first two folders below the bucket, for messages."""
    counts: dict[str, Counter[str]] = collections.defaultdict(Counter)
    for kind, path in keys:
        counts["/".join(path.split("/")[1:4])][kind] += 1
    return dict(counts)
