"""What is asked of a Parquet file before its rows are read: its footer, a first value, row groups without a picture."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources.addresses import reaching
from pipeline.sources.base import SourceError
from pipeline.storage.errors import reason_of
from pipeline.storage.place import Place

# What pyarrow raises for a damaged file, besides OSError: names in its footer that are no UTF-8 too.
DAMAGE = (pa.ArrowException, UnicodeDecodeError)
# Rows that are looked through for a value, and how many are read at a time.
_FIRST_ROWS, _AT_A_TIME = 512, 16
# Row groups of more rows than this are looked at before each of their rows becomes an item.
_MANY_ROWS = 10_000


def read_footer(file: Place) -> pq.FileMetaData:
    """The metadata of a Parquet file; SourceError where it is none."""
    with reaching(str(file)), file.open() as stream:
        try:
            return pq.read_metadata(stream)
        except DAMAGE as error:
            raise SourceError(f"{file}: not a Parquet file ({reason_of(error)}); make or fetch it again") from error


def read_schema(file: Place, footer: pq.FileMetaData | None = None) -> pa.Schema:
    """The columns of a Parquet file; SourceError where it is none, or has types that can't be read."""
    footer = footer or read_footer(file)
    try:
        return footer.schema.to_arrow_schema()
    except (*DAMAGE, OSError) as error:
        raise SourceError(f"{file}: not readable as Parquet ({reason_of(error)}); make or fetch it again") from error


def first_value(file: Place, column: str) -> pa.Scalar | None:
    """The first value of a column that is not null, of the first few hundred rows; None where there is none."""
    seen = 0
    try:
        with reaching(str(file)), file.open() as stream, pq.ParquetFile(stream) as table:
            for batch in table.iter_batches(batch_size=_AT_A_TIME, columns=[column]):
                for value in batch.column(0):
                    if value.is_valid:
                        return value
                seen += batch.num_rows
                if seen >= _FIRST_ROWS:
                    return None
    except DAMAGE:
        return None  # reading the rows says what is wrong
    except SourceError:
        if not file.is_local:
            raise
    return None


def has_no_value(file: Place, footer: pq.FileMetaData, group: int, column: str) -> bool:
    """Whether a large row group has but nulls in a column: by its statistics, or by reading it in little memory."""
    described = footer.row_group(group)
    if described.num_rows <= _MANY_ROWS:
        return False
    leaves = [described.column(n) for n in range(described.num_columns)]
    leaves = [leaf for leaf in leaves if f"{leaf.path_in_schema}.".startswith(f"{column}.")]
    counted = [leaf for leaf in leaves if leaf.statistics is not None and leaf.statistics.has_null_count]
    if leaves and len(counted) == len(leaves):
        return all(leaf.statistics.null_count == leaf.num_values for leaf in leaves)
    # So many rows in so few bytes are nulls, or one value again and again.
    if sum(leaf.total_uncompressed_size for leaf in leaves) > described.num_rows:
        return False
    try:
        with reaching(str(file)), file.open() as stream:
            table = pq.ParquetFile(stream, read_dictionary=[leaf.path_in_schema for leaf in leaves])
            batches = table.iter_batches(batch_size=1 << 16, row_groups=[group], columns=[column])
            return all(_is_empty(batch.column(0)) for batch in batches)
    except (*DAMAGE, SourceError):
        return False  # reading the rows says what is wrong


def _is_empty(array: pa.Array) -> bool:
    if array.null_count == len(array):
        return True
    return pa.types.is_struct(array.type) and all(
        array.field(n).null_count == len(array) for n in range(array.type.num_fields)
    )
