"""Pictures at web addresses: fetched in parallel, bounded in time and size, and kept in the cache folder.

An address is asked for once: what was prepared, or rejected, is not asked for again by a later run, unless it retries
failures. What was fetched and not prepared (a killed run, a preview) is in the cache, and the server is asked only
whether it has changed.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

import diffstyle
from pipeline.sources.addresses import Unreadable
from pipeline.sources.attributes import Naming, version_with
from pipeline.sources.base import Item, RawPicture, failed
from pipeline.sources.web_cache import about, conditions, keep, kept
from pipeline.storage.counts import count
from pipeline.storage.errors import reason_of

# In a version's place: an address that was not fetched, and one that may not be.
UNFETCHED = "unfetched"
REFUSED = "refused"

PARALLEL = 8  # fetches of a block at once
SECONDS = 60.0  # for one picture, tries and pauses included
SILENCE = 15.0  # seconds without a byte
TRIES = 3
PAUSE = 0.5  # seconds before the second try; twice as long before each further one
MAX_FETCH = 128 << 20  # bytes of one picture
REDIRECTS = 5

_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_PRIVATE = "the address belongs to a private network; say allow_outside: true in the source if you trust the list"


class _RefusedError(Unreadable):
    """An address that a list may not make this machine ask."""


class _TransientError(Exception):
    """A fetch that may succeed when tried again; ``pause`` is what the server asks for, in seconds."""

    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause


@dataclass(frozen=True, slots=True)
class WebAt:
    """A picture's address, and what its list says of it."""

    address: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Fetched:
    """A picture's bytes and their version: size, time of change and tag, as far as the server says them."""

    data: bytes
    version: str


def is_web_address(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class WebReader:
    """Fetches the items of a block. ``allow_private``: also from addresses that only this network knows."""

    naming: Naming
    allow_private: bool = False

    def read(self, items: Sequence[Item]) -> Iterator[RawPicture]:
        fetcher = Fetcher(self.allow_private)
        waiting: deque[tuple[Item, Future[Fetched]]] = deque()
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="fetch") as pool:
            try:
                for item in items:
                    waiting.append((item, pool.submit(fetcher.fetch, item.at.address)))
                    if len(waiting) > PARALLEL:
                        yield self._one(*waiting.popleft())
                while waiting:
                    yield self._one(*waiting.popleft())
            finally:
                for _, future in waiting:
                    future.cancel()

    def _one(self, item: Item, future: Future[Fetched]) -> RawPicture:
        try:
            fetched = future.result()
        except _RefusedError as error:
            return failed(replace(item, version=REFUSED), str(error))
        except Unreadable as error:
            return failed(item, str(error))
        attributes = self.naming.sort(item.at.values)
        version = version_with(fetched.version, item.at.values)
        return RawPicture(
            item.source, version, item.name, fetched.data, attributes.label, attributes.caption, attributes.meta
        )


class Fetcher:
    """Fetches addresses, from any number of threads; each thread keeps its connections."""

    def __init__(self, allow_private: bool = False):
        self._allow_private = allow_private
        self._local = threading.local()

    def fetch(self, address: str) -> Fetched:
        """The bytes at an address, from the cache where the server says that they are still the same.

        Raises Unreadable, with the reason in one line, where it can't be had within the limits of this module.
        """
        begun = time.monotonic()
        with _Deadline(SECONDS) as deadline:
            for attempt in range(1, TRIES + 1):
                try:
                    return self._once(address, deadline)
                except _TransientError as error:
                    pause = error.pause if error.pause is not None else PAUSE * 2 ** (attempt - 1)
                    if deadline.passed:
                        raise Unreadable(f"took longer than {SECONDS:g} s") from error
                    if attempt == TRIES or time.monotonic() - begun + pause > SECONDS:
                        raise Unreadable(f"{error} ({count(attempt, 'try')})") from error
                    time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _once(self, address: str, deadline: _Deadline) -> Fetched:
        earlier = kept(address)
        headers = conditions(earlier) if earlier is not None else {}
        try:
            with self._session().get(address, headers=headers, stream=True, timeout=(10, SILENCE)) as response:
                if response.status_code == 304 and earlier is not None:
                    return Fetched(earlier.data, earlier.about["version"])
                self._check(response)
                data = _body(response, deadline)
        except requests.TooManyRedirects as error:
            raise Unreadable(f"more than {REDIRECTS} redirects") from error
        except (
            requests.exceptions.InvalidSchema,
            requests.exceptions.InvalidURL,
            requests.exceptions.MissingSchema,
        ) as e:
            raise Unreadable(f"leads to something that is no web address ({reason_of(e)})") from e
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, UnicodeError) as error:
            if _caused_by(error, _PrivateAddressError):
                raise _RefusedError(_PRIVATE) from error
            raise _TransientError(_reason(error)) from error
        facts = about(address, response.headers, data)
        keep(facts, data)
        return Fetched(data, facts["version"])

    def _check(self, response: requests.Response) -> None:
        """Raise where the answer is no picture."""
        status = response.status_code
        if status in _TRY_AGAIN:
            raise _TransientError(f"the server answers {status} {response.reason}", _retry_after(response))
        if status != 200:
            raise Unreadable(f"the server answers {status} {response.reason}")
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml", "application/json"):
            raise Unreadable(f"no picture: the server sends {kind}")
        length = response.headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and len(length) < 20 and int(length) > MAX_FETCH:
            raise Unreadable(f"over {MAX_FETCH:,} bytes")

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            session = _Session()
            session.max_redirects = REDIRECTS
            session.auth = lambda request: request  # nobody's passwords of .netrc for what a list names
            session.headers.update(
                {
                    "User-Agent": f"diffstyle/{diffstyle.__version__}",
                    "Accept": "image/*,*/*;q=0.5",
                    "Accept-Encoding": "identity",
                }
            )
            for scheme in ("http://", "https://"):
                session.mount(scheme, _Adapter(self._allow_private))
            self._local.session = session
        return self._local.session


def _body(response: requests.Response, deadline: _Deadline) -> bytes:
    pieces, size = [], 0
    for piece in response.iter_content(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_FETCH:
            raise Unreadable(f"over {MAX_FETCH:,} bytes")
        if deadline.passed:
            raise Unreadable(f"took longer than {SECONDS:g} s")
    if deadline.passed:  # the connection was shut: what is here may be a part
        raise Unreadable(f"took longer than {SECONDS:g} s")
    if not size:
        raise Unreadable("the server sends nothing")
    return b"".join(pieces)


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return min(float(text), SECONDS) if text.isascii() and text.isdigit() and len(text) < 9 else None


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether an error of this kind is behind another; libraries wrap what a connection raises."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or one in seen:
            continue
        if isinstance(one, kind):
            return True
        seen.append(one)
        reason = getattr(one, "reason", None)
        waiting += [one.__cause__, one.__context__, reason if isinstance(reason, BaseException) else None]
        waiting += [inner for inner in one.args if isinstance(inner, BaseException)]
    return False


def _reason(error: BaseException) -> str:
    kinds = (
        (requests.exceptions.SSLError, "the server's certificate is not valid"),
        (requests.ConnectTimeout, "the server does not answer"),
        (requests.Timeout, f"no byte for {SILENCE:g} s"),
        (requests.exceptions.ChunkedEncodingError, "the connection was cut"),
        (requests.ConnectionError, "the server can't be reached, or cut the connection"),
    )
    return next((text for kind, text in kinds if isinstance(error, kind)), reason_of(error)[:200])


# ---- connections ----


class _PrivateAddressError(OSError):
    """A connection to an address that is not of the public internet."""


class _Deadline:
    """Shuts the connection of this thread's fetch once its time is over, whatever it waits for."""

    def __init__(self, seconds: float):
        self.passed = False
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._shut)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        _current.deadline = self
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        _current.deadline = None
        self._timer.cancel()
        self.watch(None)

    def watch(self, sock: socket.socket | None) -> None:
        """Shut this connection in time, by a handle of its own: an answer is read on after the library closed its."""
        with self._lock:
            if self._handle is not None:
                self._handle.close()
            self._handle = None if sock is None else sock.dup()
            if self.passed and self._handle is not None:
                _shut(self._handle)

    def _shut(self) -> None:
        with self._lock:
            self.passed = True
            if self._handle is not None:
                _shut(self._handle)


def _shut(handle: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        handle.shutdown(socket.SHUT_RDWR)


_current = threading.local()


class _Watched:
    """What both kinds of connections do beyond urllib3's: they know their fetch's deadline, and whom they talk to."""

    allow_private = False
    _handle: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]
        if not self.allow_private and not _is_public(sock):
            sock.close()
            raise _PrivateAddressError(_PRIVATE)
        self._handle = sock.dup()  # a handle of its own: encryption takes the socket itself away
        self._watch()
        return sock

    def putrequest(self, *args: Any, **options: Any) -> None:
        self._watch()
        super().putrequest(*args, **options)  # type: ignore[misc]

    def close(self) -> None:
        super().close()  # type: ignore[misc]
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _watch(self) -> None:
        deadline = getattr(_current, "deadline", None)
        if deadline is not None and self._handle is not None:
            deadline.watch(self._handle)


def _is_public(sock: socket.socket) -> bool:
    address = ipaddress.ip_address(str(sock.getpeername()[0]).partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_global


def _pools(allow_private: bool) -> dict[str, Any]:
    class Connection(_Watched, urllib3.connection.HTTPConnection):  # type: ignore[misc]
        pass

    class SecureConnection(_Watched, urllib3.connection.HTTPSConnection):  # type: ignore[misc]
        pass

    Connection.allow_private = SecureConnection.allow_private = allow_private

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = SecureConnection

    return {"http": Pool, "https": SecurePool}


class _Adapter(HTTPAdapter):
    """Connections that are watched. Through a proxy it is the proxy that decides whom it talks to."""

    def __init__(self, allow_private: bool):
        self._allow_private = allow_private
        super().__init__(pool_maxsize=PARALLEL, max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _pools(self._allow_private)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = _pools(True)
        return manager


class _Session(requests.Session):
    """A session that takes passwords from nowhere, redirected or not."""

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        prepared_request.headers.pop("Authorization", None)
