"""Which files below an output's pictures the manifest's rows name, in 16 bytes a file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.manifest import Manifest
from pipeline.storage.files_below import files_below
from pipeline.storage.identity import source_parts
from pipeline.storage.pair_ids import PairIds, packed
from pipeline.storage.place import Entry


def files_of(pictures: pa.ChunkedArray) -> list[str]:
    """The files that a column ``picture`` names, by their paths below the output."""
    files = pc.unique(pc.replace_substring_regex(pictures, "(?s)#.*", ""))
    return [source_parts(file)[0] for file in files.to_pylist() if file]


def files_there(manifest: Manifest) -> PairIds:
    """The files that are there, by their paths below the output."""
    return PairIds(*(ids for _, ids in _listed(manifest)))


def spare_files(manifest: Manifest, named: PairIds) -> Iterator[Entry]:
    """The files that are there and not ``named``, by their paths below the output."""
    for entries, ids in _listed(manifest):
        for n in np.flatnonzero(~named.contains(ids)).tolist():
            yield entries[n]


def _listed(manifest: Manifest) -> Iterator[tuple[list[Entry], np.ndarray]]:
    """Ten thousand files at a time, with the ids of their paths."""
    entries = files_below(manifest.store.data_folder)
    while some := list(islice(entries, 10_000)):
        yield some, packed([entry.place.relative_to(manifest.output) for entry in some])
