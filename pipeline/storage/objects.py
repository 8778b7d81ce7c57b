"""The objects of a store, S3 or GCS, each by one request: written, read and deleted by obstore.

Arrow's file systems need three requests to write a small file, two to read one, and a listing for each file that is not
there. A request that the store throttles, drops or fails is repeated with growing pauses for some minutes (obstore's
defaults); what fails after that is a StoreError, which stops the run and fails no picture. A store that has not
answered this process yet is asked for seconds (``first_answer.py``).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import io
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any, TypeVar

from diffstyle.errors import cut
from pipeline.storage.errors import NeverAnswered, StoreError
from pipeline.storage.first_answer import endpoint, first_answer, has_answered

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

#: Up to so many bytes are written by one request. A larger object goes up in pieces, which a kill leaves behind.
ONE_REQUEST = 64 << 20

_TRIES = 6
_ANSWER = re.compile(r"status code: (\d\d\d)")
_REASON = re.compile(r'\b(?:message|error): "([^"]+)"')  # why no connection came about, in the notes for developers
_ASK_AGAIN = ("408", "429")  # a time-out, too many requests: not this request's fault
# A whole object must go over a slow line in this time.
_CLIENT: ClientConfig = {"timeout": timedelta(minutes=5)}
_RETRY: RetryConfig = {"max_retries": 10, "retry_timeout": timedelta(minutes=3)}
# Before the store has ever answered. A whole object may still take its time, once its first bytes come.
_FIRST_CLIENT: ClientConfig = {
    **_CLIENT,
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=20),
}
_FIRST_RETRY: RetryConfig = {"max_retries": 0}
_SETTINGS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
T = TypeVar("T")


def object_store(scheme: str, bucket: str) -> Any:
    """A bucket, as obstore opens it: one for each process, as long as the environment says the same."""
    settings = tuple(os.environ.get(name) for name in _SETTINGS)
    return _opened(scheme, bucket, settings, os.getpid(), has_answered(scheme))


@functools.lru_cache(16)
def _opened(scheme: str, bucket: str, settings: tuple[str | None, ...], process: int, patient: bool) -> Any:
    from obstore.store import GCSStore, S3Store

    client, retry = (_CLIENT.copy(), _RETRY) if patient else (_FIRST_CLIENT.copy(), _FIRST_RETRY)
    if scheme == "gs":
        return GCSStore(bucket, client_options=client, retry_config=retry)
    options: dict[str, Any] = {}
    # The same settings as those of the file system in `place.py`.
    if where := endpoint(scheme):
        options["endpoint"] = where
        client["allow_http"] = True
    if region := settings[2] or settings[3]:
        options["region"] = region
    # Keys in ~/.aws are read by Arrow, but not by obstore alone.
    if settings[4] is None and importlib.util.find_spec("boto3") is not None:
        from obstore.auth.boto3 import Boto3CredentialProvider

        with contextlib.suppress(ValueError):  # it has none: obstore looks for a role of the machine, and tells
            options["credential_provider"] = Boto3CredentialProvider()
    return S3Store(bucket, client_options=client, retry_config=retry, **options)


def await_answer(scheme: str, path: str) -> None:
    """Return once the store has answered this process; for what asks it by other means than this module.

    Raises:
        NeverAnswered: It does not.
    """
    if not has_answered(scheme):
        with contextlib.suppress(PermissionError):  # whoever asks for more hears of it
            size(scheme, path if "/" in path.rstrip("/") else f"{path.rstrip('/')}/-")


def create(scheme: str, path: str, data: bytes) -> bool:
    """Write an object whole, unless there is one of that name; returns whether it is there with these bytes.

    The answer to a request may be lost, and then what repeats it meets the object that it made. So bytes that nobody
    else writes say who created it.

    Raises:
        OSError: As for :func:`put`.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError

    for left in reversed(range(_TRIES)):  # a creation that timed out is not repeated by obstore
        try:
            _request(scheme, path, lambda store, key: obstore.put(store, key, data, mode="create", use_multipart=False))
            return True
        except AlreadyExistsError:
            return get(scheme, path) == data
        except NeverAnswered:
            raise
        except StoreError:
            if not left:
                raise
            time.sleep(0.1 * 2 ** (_TRIES - left))
    raise AssertionError


def put(scheme: str, path: str, data: bytes | IO[bytes], size: int) -> None:
    """Write an object of ``size`` bytes whole, or replace it.

    Raises:
        StoreError: The store can't be reached, or fails.
        OSError: It refuses.
    """
    import obstore

    def write(store: Any, key: str) -> None:
        if not isinstance(data, bytes):
            data.seek(0)
        if size <= ONE_REQUEST:
            obstore.put(store, key, data if isinstance(data, bytes) else data.read(), use_multipart=False)
        else:
            obstore.put(store, key, data, use_multipart=True, chunk_size=16 << 20, max_concurrency=4)

    _request(scheme, path, write)


def get(scheme: str, path: str) -> bytes:
    """The bytes of an object. FileNotFoundError where there is none, else as :func:`put`."""
    import obstore

    return _request(scheme, path, lambda store, key: bytes(obstore.get(store, key).bytes()))


def get_dated(scheme: str, path: str) -> tuple[bytes, float]:
    """The bytes of an object, and when it was written, in seconds by the store's clock."""
    import obstore

    def read(store: Any, key: str) -> tuple[bytes, float]:
        result = obstore.get(store, key)
        return bytes(result.bytes()), result.meta["last_modified"].timestamp()

    return _request(scheme, path, read)


def get_range(scheme: str, path: str, offset: int, length: int) -> bytes:
    """``length`` bytes from ``offset``, or as many as there are."""
    import obstore

    if not length:
        return b""
    return _request(scheme, path, lambda store, key: bytes(obstore.get_range(store, key, start=offset, length=length)))


class ObjectFile(io.RawIOBase):
    """An object as a file that is read here and there, by a request for each read.

    Arrow's own stream fails for good where a request for few bytes is throttled. Where one read goes on from the last
    one, more is read ahead.

    Raises:
        FileNotFoundError: There is no such object.
    """

    AHEAD = 1 << 20

    def __init__(self, scheme: str, path: str) -> None:
        length = size(scheme, path)
        if length is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", f"{scheme}://{path}")
        self._address = scheme, path
        self._length = length
        self._at = self._begin = 0
        self._bytes = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence])
        return self._at

    def read(self, n: int | None = -1) -> bytes:
        end = self._length if n is None or n < 0 else min(self._at + n, self._length)
        if end <= self._at:
            return b""
        known_until = self._begin + len(self._bytes)
        if not self._begin <= self._at <= end <= known_until:
            ahead = self.AHEAD if self._at == known_until else 0
            until = min(max(end, self._at + ahead), self._length)
            self._bytes = get_range(*self._address, self._at, until - self._at)
            self._begin = self._at
        data = self._bytes[self._at - self._begin : end - self._begin]
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def size(scheme: str, path: str) -> int | None:
    """The bytes that an object has; None where there is none."""
    import obstore

    try:
        return _request(scheme, path, lambda store, key: int(obstore.head(store, key)["size"]))
    except FileNotFoundError:
        return None


def delete(scheme: str, path: str) -> None:
    """Delete an object; nothing happens where there is none."""
    import obstore

    with contextlib.suppress(FileNotFoundError):
        _request(scheme, path, lambda store, key: obstore.delete(store, key))


def _request(scheme: str, path: str, ask: Callable[[Any, str], T]) -> T:
    """What a request of a bucket and a key gives. It may be repeated."""
    bucket, _, key = path.partition("/")

    def once() -> T:
        with store_errors(scheme, path):
            return ask(object_store(scheme, bucket), key)

    return once() if has_answered(scheme) else first_answer(scheme, f"{scheme}://{path}", once)


@contextlib.contextmanager
def store_errors(scheme: str, path: str) -> Iterator[None]:
    """What fails with an address inside is an OSError that names it."""
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        NotFoundError,
        PermissionDeniedError,
        UnauthenticatedError,
    )

    address = f"{scheme}://{path}"
    try:
        yield
    except AlreadyExistsError:
        raise
    except (NotFoundError, FileNotFoundError) as error:
        if "NoSuchBucket" in str(error):
            raise PermissionError(
                errno.EACCES, "there is no such bucket", f"{scheme}://{path.partition('/')[0]}"
            ) from error
        raise FileNotFoundError(errno.ENOENT, "no such object", address) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise PermissionError(errno.EACCES, _why(error), address) from error
    except (BaseError, OSError) as error:
        status = _ANSWER.search(str(error))
        if status and status[1].startswith("4") and status[1] not in _ASK_AGAIN:
            raise PermissionError(errno.EACCES, _why(error), address) from error
        failed = StoreError(f"{address}: {_why(error)}")
        failed.answered = status is not None
        raise failed from error


def _why(error: Exception) -> str:
    """What the store or the network said, without the library's notes for its developers."""
    text, _, notes = str(error).partition("Debug source:")
    text = " ".join(text.split()) or type(error).__name__
    reasons = [] if _ANSWER.search(text) else _REASON.findall(notes)
    return cut(f"{text} ({reasons[-1]})" if reasons else text, most=300)
