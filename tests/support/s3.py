"""A real S3 API on the loopback. Import ``s3_bucket`` into a test module to use it as a fixture there.

``s3_store`` is the layer in front of it, which counts requests and makes them fail (``s3_faults.py``).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator

import pytest

from support.s3_faults import Faults, FaultyStore

_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_numbers = itertools.count()
_STORES: dict[str, FaultyStore] = {}  # by the address of their server


@contextlib.contextmanager
def s3_server() -> Iterator[tuple[str, FaultyStore]]:
    """Run a server, with the environment pointing at it; gives its address and the layer in front of it."""
    apps = pytest.importorskip("moto.moto_server.werkzeug_app")
    from werkzeug.serving import make_server

    from pipeline.storage import place

    class Quietly(apps.MotoRequestHandler):  # type: ignore[misc, name-defined]
        def log_request(self, *words: object) -> None:
            """Nothing."""

    store = FaultyStore(apps.DomainDispatcherApplication(apps.create_backend_app))
    server = make_server("127.0.0.1", 0, store, threaded=True, request_handler=Quietly)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    before = {name: os.environ.get(name) for name in (*_SETTINGS, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")}
    os.environ.update(_SETTINGS, AWS_ENDPOINT_URL=address)
    os.environ.pop("AWS_ENDPOINT_URL_S3", None)
    place._FILE_SYSTEMS.pop("s3", None)  # one that was made for another server
    try:
        yield address, store
    finally:
        place._FILE_SYSTEMS.pop("s3", None)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as (address, store):
        _STORES[address] = store
        yield address


@pytest.fixture
def s3_store(s3_endpoint: str) -> Iterator[FaultyStore]:
    """The layer in front of the server; a test's faults end with it."""
    store = _STORES[s3_endpoint]
    yield store
    store.set(Faults())
    store.on_write = None


@pytest.fixture
def s3_bucket(s3_endpoint: str) -> str:
    """An empty bucket of the test's own, as ``s3://NAME``."""
    import boto3

    name = f"bucket-{next(_numbers)}"
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=name)
    return f"s3://{name}"
