"""The objects of a store, S3 or GCS, each by one request: written, read and deleted by obstore.

Arrow's file systems need three requests to write a small file, two to read one, and a listing for each file that is not
there. A request that the store throttles, drops or fails is repeated with growing pauses for some minutes (obstore's
defaults); what fails after that is a StoreError, which stops the run and fails no picture.
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
from collections.abc import Iterator
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any

from diffstyle.errors import cut
from pipeline.storage.errors import StoreError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

#: Up to so many bytes are written by one request. A larger object goes up in pieces, which a kill leaves behind.
ONE_REQUEST = 64 << 20

_TRIES = 6
_ANSWER = re.compile(r"status code: (4\d\d)")
_ASK_AGAIN = ("408", "429")  # a time-out, too many requests: not this request's fault
# A whole object must go over a slow line in this time.
_CLIENT: ClientConfig = {"timeout": timedelta(minutes=5)}
_RETRY: RetryConfig = {"max_retries": 10, "retry_timeout": timedelta(minutes=3)}
_SETTINGS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)


def object_store(scheme: str, bucket: str) -> Any:
    """A bucket, as obstore opens it: one for each process, as long as the environment says the same."""
    return _opened(scheme, bucket, tuple(os.environ.get(name) for name in _SETTINGS), os.getpid())


@functools.lru_cache(16)
def _opened(scheme: str, bucket: str, settings: tuple[str | None, ...], process: int) -> Any:
    from obstore.store import GCSStore, S3Store

    client = _CLIENT.copy()
    if scheme == "gs":
        return GCSStore(bucket, client_options=client, retry_config=_RETRY)
    options: dict[str, Any] = {}
    # The same settings as those of the file system in `place.py`.
    if endpoint := settings[0] or settings[1]:
        options["endpoint"] = endpoint
        client["allow_http"] = True
    if region := settings[2] or settings[3]:
        options["region"] = region
    # Keys in ~/.aws are read by Arrow, but not by obstore alone.
    if settings[4] is None and importlib.util.find_spec("boto3") is not None:
        from obstore.auth.boto3 import Boto3CredentialProvider

        with contextlib.suppress(ValueError):  # it has none: obstore looks for a role of the machine, and tells
            options["credential_provider"] = Boto3CredentialProvider()
    return S3Store(bucket, client_options=client, retry_config=_RETRY, **options)


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
            with _errors(scheme, path) as (store, key):
                obstore.put(store, key, data, mode="create", use_multipart=False)
            return True
        except AlreadyExistsError:
            return get(scheme, path) == data
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

    with _errors(scheme, path) as (store, key):
        if size <= ONE_REQUEST:
            obstore.put(store, key, data if isinstance(data, bytes) else data.read(), use_multipart=False)
        else:
            obstore.put(store, key, data, use_multipart=True, chunk_size=16 << 20, max_concurrency=4)


def get(scheme: str, path: str) -> bytes:
    """The bytes of an object. FileNotFoundError where there is none, else as :func:`put`."""
    import obstore

    with _errors(scheme, path) as (store, key):
        return bytes(obstore.get(store, key).bytes())


def get_dated(scheme: str, path: str) -> tuple[bytes, float]:
    """The bytes of an object, and when it was written, in seconds by the store's clock."""
    import obstore

    with _errors(scheme, path) as (store, key):
        result = obstore.get(store, key)
        return bytes(result.bytes()), result.meta["last_modified"].timestamp()


def get_range(scheme: str, path: str, offset: int, length: int) -> bytes:
    """``length`` bytes from ``offset``, or as many as there are."""
    import obstore

    if not length:
        return b""
    with _errors(scheme, path) as (store, key):
        return bytes(obstore.get_range(store, key, start=offset, length=length))


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
        with _errors(scheme, path) as (store, key):
            return int(obstore.head(store, key)["size"])
    except FileNotFoundError:
        return None


def delete(scheme: str, path: str) -> None:
    """Delete an object; nothing happens where there is none."""
    import obstore

    with contextlib.suppress(FileNotFoundError), _errors(scheme, path) as (store, key):
        obstore.delete(store, key)


@contextlib.contextmanager
def _errors(scheme: str, path: str) -> Iterator[tuple[Any, str]]:
    """The bucket and the key of an address; what fails with them is an OSError that names it."""
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        NotFoundError,
        PermissionDeniedError,
        UnauthenticatedError,
    )

    bucket, _, key = path.partition("/")
    address = f"{scheme}://{path}"
    try:
        yield object_store(scheme, bucket), key
    except AlreadyExistsError:
        raise
    except (NotFoundError, FileNotFoundError) as error:
        if "NoSuchBucket" in str(error):
            raise PermissionError(errno.EACCES, "there is no such bucket", f"{scheme}://{bucket}") from error
        raise FileNotFoundError(errno.ENOENT, "no such object", address) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise PermissionError(errno.EACCES, _why(error), address) from error
    except (BaseError, OSError) as error:
        if (answer := _ANSWER.search(str(error))) and answer[1] not in _ASK_AGAIN:
            raise PermissionError(errno.EACCES, _why(error), address) from error
        raise StoreError(f"{address}: {_why(error)}") from error


def _why(error: Exception) -> str:
    """What the store or the network said, without the library's notes for its developers."""
    text = " ".join(str(error).partition("Debug source:")[0].split())
    return cut(text or type(error).__name__, most=300)
