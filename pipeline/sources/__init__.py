"""Data sets: folders, WebDataset tars, Parquet, lists of paths, lmdb; on a disk, S3 or GCS.

``open_source(spec)`` gives a :class:`Source`; its blocks, read in workers, give the pictures.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.sources.base import Block, RawPicture, Source, SourceError
    from pipeline.sources.spec import SourceSpec, open_source

__all__ = ["Block", "RawPicture", "Source", "SourceError", "SourceSpec", "open_source"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: what reads a table of counts needs neither pydantic nor a client for the web.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "spec" if name in ("SourceSpec", "open_source") else "base"
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
