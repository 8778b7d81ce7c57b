"""The pairs of a run as one table: manifest, scores and what the sources say of licences, joined by ``pair``."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from diffstyle.errors import ConfigError
from pipeline.results.all_scores import AllScores
from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.results.scores import SCORES, ScoreColumn
from pipeline.results.select.licences import rights_of
from pipeline.storage.place import Place

#: Of the manifest's, those that are the same in each row here, and one that is long: of a million rows a gigabyte.
_OMITTED = {"status", "error", "recipe"}


def pairs_of(run: Place) -> pa.Table:
    """A row for each picture of a run, sorted by ``pair``.

    Args:
        run: The output folder, or its address on S3 or GCS.

    Returns:
        The manifest's columns but ``recipe``, ``content_licence``, ``content_attribution``, ``style_licence``,
        ``style_attribution``, and the scores' where the run was scored; a picture that has no scores has nulls there.

    Raises:
        ConfigError: There are no pictures.
    """
    manifest = Manifest(run)
    if not manifest.store.exists():
        raise ConfigError(f"{run}: no results here; give the output folder of a job that was run")
    table = manifest.table()
    table = table.filter(pc.equal(table["status"], "ok"))
    table = table.select([name for name in MANIFEST_SCHEMA.names if name not in _OMITTED])
    if len(table) == 0:
        raise ConfigError(f"{run}: no pictures here yet; run the job first")
    for side in ("content", "style"):
        licences, attributions = rights_of(table[f"{side}_meta"])
        table = table.append_column(f"{side}_licence", licences)
        table = table.append_column(f"{side}_attribution", attributions)
    scores = AllScores(run)
    for field, values in scores.of(table["pair"], [field.name for field in scores.fields]):
        table = table.append_column(field, values)
    return table.sort_by("pair").combine_chunks()


def has_scores(table: pa.Table) -> bool:
    """Whether the run of these pairs was ever scored."""
    return "phash" in table.column_names


def matching(table: pa.Table, condition: str) -> pa.Array:
    """The ids of the pairs for which an SQL condition is true.

    The condition is one DuckDB expression over the table's columns; a subquery may name the table ``pairs``. It can
    read nothing else: no files, no other tables, no variables of this process.

    Args:
        table: As :func:`pairs_of` gives it.
        condition: For example ``content_kept > 0.5 AND style_label = 'oil'``.

    Raises:
        ConfigError: The condition is wrong; the line has DuckDB's own message and the columns that there are. Or DuckDB
            is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise ConfigError("--where needs the package duckdb: pip install 'diffstyle[select]'") from error
    # Without external access DuckDB does not look up names among this process's variables either.
    closed: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": "false",
        "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false",
    }
    with duckdb.connect(":memory:", config=closed) as connection:
        connection.register("pairs", table)
        connection.execute("SET lock_configuration = true")
        try:
            # As an expression and not as text inside a query, which a bracket too many could leave.
            chosen = connection.view("pairs").filter(condition).project("pair").to_arrow_table()
        except duckdb.Error as error:
            raise ConfigError(f"--where: {_first_line(error)}; the columns are {', '.join(columns(table))}") from error
    return chosen["pair"].combine_chunks()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n\nLINE ")[0].split())[:400]


def columns(table: pa.Table) -> list[str]:
    """The names that a condition may use; with a word on scores where there are none."""
    names = list(table.column_names)
    return names if has_scores(table) else [*names, "and no scores (`diffstyle score RUN` makes them)"]


def column_of(table: pa.Table, name: str, option: str) -> pa.ChunkedArray:
    """A column of numbers by name. ConfigError, naming the option, where there is none."""
    if name not in table.column_names:
        if name in SCORES and not has_scores(table):
            raise ConfigError(f"{option} {name}: this run has no scores yet; `diffstyle score RUN` makes them")
        raise ConfigError(f"{option} {name}: no such column; the columns are {', '.join(columns(table))}")
    kind = table.schema.field(name).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ConfigError(f"{option} {name}: a column of {kind}, which is no number")
    return table[name]


def score_columns(table: pa.Table) -> dict[str, ScoreColumn]:
    """The table's columns of scores: name -> what it is."""
    columns = ((field.name, ScoreColumn.of(field)) for field in table.schema)
    return {name: column for name, column in columns if column is not None}
