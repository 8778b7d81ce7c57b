"""Writing an object only if there is none of that name: what pyarrow's file systems don't offer, by obstore."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from diffstyle.errors import one_line
from pipeline.storage.place import Place


def create(place: Place, data: bytes) -> bool:
    """Write an object of a store whole, unless there is one of that name.

    Returns:
        Whether it was written.

    Raises:
        OSError: The store refuses or can't be reached.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError

    bucket, _, key = place.path.partition("/")
    try:
        obstore.put(object_store(place.scheme, bucket), key, data, mode="create")
    except AlreadyExistsError:
        return False
    except (BaseError, OSError) as error:
        raise OSError(f"{place}: {one_line(error)}") from error
    return True


def object_store(scheme: str, bucket: str) -> Any:
    """A bucket, as obstore opens it."""
    from obstore.store import GCSStore, S3Store

    if scheme == "gs":
        return GCSStore(bucket)
    options: dict[str, Any] = {}
    # The same settings as those of the file system in `place.py`.
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        options = {"endpoint": endpoint, "client_options": {"allow_http": True}}
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        options["region"] = region
    # Keys in ~/.aws are read by Arrow, but not by obstore alone.
    if "AWS_ACCESS_KEY_ID" not in os.environ and importlib.util.find_spec("boto3") is not None:
        from obstore.auth.boto3 import Boto3CredentialProvider

        options["credential_provider"] = Boto3CredentialProvider()
    return S3Store(bucket, **options)
