"""A real S3 API on the loopback. Import ``s3_bucket`` into a test module to use it as a fixture there."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator

import pytest

_SETTINGS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_numbers = itertools.count()


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Run a server, with the environment pointing at it; gives its address."""
    moto_server = pytest.importorskip("moto.server")
    from pipeline.storage import place

    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    before = {name: os.environ.get(name) for name in (*_SETTINGS, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")}
    os.environ.update(_SETTINGS, AWS_ENDPOINT_URL=address)
    os.environ.pop("AWS_ENDPOINT_URL_S3", None)
    place._FILE_SYSTEMS.pop("s3", None)  # one that was made for another server
    try:
        yield address
    finally:
        place._FILE_SYSTEMS.pop("s3", None)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        server.stop()


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3_bucket(s3_endpoint: str) -> str:
    """An empty bucket of the test's own, as ``s3://NAME``."""
    import boto3

    name = f"bucket-{next(_numbers)}"
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=name)
    return f"s3://{name}"
