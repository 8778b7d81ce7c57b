"""Data sets: folders, WebDataset tars, Parquet, lists of paths, lmdb; on a disk, S3 or GCS.

``open_source(spec)`` gives a :class:`Source`; its blocks, read in workers, give the pictures.
"""

from pipeline.sources.base import Block, RawPicture, Source, SourceError
from pipeline.sources.spec import SourceSpec, open_source

__all__ = ["Block", "RawPicture", "Source", "SourceError", "SourceSpec", "open_source"]
