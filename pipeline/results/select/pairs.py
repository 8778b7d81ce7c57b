"""The pairs of a run as one table: manifest, scores and what the sources say of licences, joined by ``pair``.

A million rows of all columns are a gigabyte and take seconds to read, so only the columns that are asked for are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from diffstyle.errors import ConfigError
from pipeline.results.all_scores import AllScores
from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.results.scores import SCORES, ScoreColumn
from pipeline.results.select.licences import rights_of
from pipeline.storage.mistakes import unknown
from pipeline.storage.pair_ids import PairIds, packed
from pipeline.storage.place import Place

#: Of the manifest's columns, those that are the same in each row here, and one that is long.
_OMITTED = {"status", "error", "recipe"}
_RIGHTS = tuple(f"{side}_{name}" for side in ("content", "style") for name in ("licence", "attribution"))


class RunPairs:
    """The pictures of a run, a row for each.

    Args:
        run: The output folder, or its address on S3 or GCS.

    Attributes:
        names: The columns that there are: the manifest's but ``recipe``, ``content_licence``,
            ``content_attribution``, ``style_licence``, ``style_attribution``, and the scores' where the run was scored.

    Raises:
        ConfigError: There are no pictures.
    """

    def __init__(self, run: Place) -> None:
        self._run, self._manifest, self._scores = run, Manifest(run), AllScores(run)
        if not self._manifest.store.exists():
            raise ConfigError(f"{run}: no results here; give the output folder of a job that was run")
        self._fields = [field.name for field in self._scores.fields]
        self.names = [*(name for name in MANIFEST_SCHEMA.names if name not in _OMITTED), *_RIGHTS, *self._fields]

    @property
    def scored(self) -> bool:
        """Whether the run was ever scored."""
        return "phash" in self._fields

    def table(self, names: Collection[str] | None = None, only: pa.ChunkedArray | None = None) -> pa.Table:
        """The pairs, in any order. Memory: the columns asked for.

        Args:
            names: Those wanted, ``pair`` always being one of them; None: all.
            only: Ids of the pairs that are wanted; None: all.

        Raises:
            ConfigError: There are no pictures yet, where all are wanted.
        """
        wanted = [name for name in self.names if names is None or name == "pair" or name in names]
        of_metas = {f"{side}_meta": {f"{side}_licence", f"{side}_attribution"} for side in ("content", "style")}
        metas = [meta for meta, rights in of_metas.items() if rights & set(wanted)]
        own = [name for name in wanted if name in MANIFEST_SCHEMA.names]
        among = None if only is None else PairIds(packed(only))
        table = self._manifest.table(list(dict.fromkeys([*own, *metas, "status"])), among)
        made = pc.equal(table["status"], "ok")
        if not pc.all(made).as_py():
            table = table.filter(made)
        if len(table) == 0 and only is None:
            raise ConfigError(f"{self._run}: no pictures here yet; run the job first")
        columns = {name: table[name] for name in own}
        for meta in metas:
            side = meta.removesuffix("meta")
            columns |= dict(zip((f"{side}licence", f"{side}attribution"), rights_of(table[meta]), strict=True))
        fields = {name: MANIFEST_SCHEMA.field(name) for name in own} | {n: pa.field(n, pa.string()) for n in _RIGHTS}
        for field, values in self._scores.of(table["pair"], set(wanted) & set(self._fields)):
            fields[field.name], columns[field.name] = field, values
        schema = pa.schema([fields[name] for name in wanted])
        return pa.Table.from_arrays([columns[name] for name in wanted], schema=schema)

    def unknown(self, name: str, among: Sequence[str] | None = None) -> str:
        """``unknown column 'edge'; did you mean 'edges'?``, with a word on scores where there are none.

        Args:
            name: The unknown one.
            among: The columns that may be in its place; None: all.
        """
        words = unknown("column", name, self.names if among is None else among)
        return words if self.scored else f"{words}; this run has no scores yet, `diffstyle score RUN` makes them"

    def number(self, name: str, option: str) -> None:
        """Raise ConfigError, naming the option, where ``name`` is no column of numbers."""
        kinds = dict.fromkeys(self.names, pa.string())
        kinds |= {field.name: field.type for field in (*MANIFEST_SCHEMA, *self._scores.fields)}
        if name not in self.names:
            if name in SCORES and not self.scored:
                raise ConfigError(f"{option} {name}: this run has no scores yet; `diffstyle score RUN` makes them")
            raise ConfigError(f"{option}: {self.unknown(name, [one for one in self.names if _is_number(kinds[one])])}")
        if not _is_number(kinds[name]):
            raise ConfigError(f"{option} {name}: a column of {kinds[name]}, which is no number")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


# How a condition may mean a column without naming it: `*` that is no product, `#1`, COLUMNS(...), whole rows, and
# queries that name no columns at all.
_UNNAMED = re.compile(
    r"#|(?<![\w\s)\]'\"])\s*\*|^\s*\*|\b(?:select|distinct|all)\s*\*"
    r"|\b(?:pairs|columns|table|describe|show|summarize|pivot|unpivot|natural)\b"
)
# The plain use of the table: it has no other name there by which whole rows could be meant.
_FROM = re.compile(r"\bfrom\s+pairs(?=\s*(?:\)|$|(?:where|group|having|qualify|order|limit)\b))")


def columns_of(condition: str, names: Sequence[str]) -> set[str]:
    """Of some columns, all that an SQL condition may read; perhaps more, never fewer."""
    text = _FROM.sub("from ", condition.lower())
    words = re.findall(r"\w+", text)
    if _UNNAMED.search(text) or words.count("from") > words.count("select"):
        return set(names)
    return {name for name in names if name.lower() in words}


def matching(table: pa.Table, condition: str, unknown_column: Callable[[str], str]) -> pa.Array:
    """The ids of the pairs for which an SQL condition is true.

    The condition is one DuckDB expression over the table's columns; a subquery may name the table ``pairs``. It can
    read nothing else: no files, no other tables, no variables of this process.

    Args:
        table: As :meth:`RunPairs.table` gives it, with ``columns_of`` the condition.
        condition: For example ``content_kept > 0.5 AND style_label = 'oil'``.
        unknown_column: What to say of a name that is no column.

    Raises:
        ConfigError: The condition is wrong; the line has DuckDB's own message, or the nearest column. Or DuckDB is not
            installed.
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
            missing = re.search(r'Referenced column "([^"]+)" not found', str(error))
            if missing:
                raise ConfigError(f"--where: {unknown_column(missing[1])}") from error
            example = "a condition is SQL over the columns, as content_kept > 0.5 AND style_label = 'oil'"
            raise ConfigError(f"--where: {_first_line(error)}; {example}") from error
    return chosen["pair"].combine_chunks()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n\nLINE ")[0].split())[:400]


def score_columns(table: pa.Table) -> dict[str, ScoreColumn]:
    """The table's columns of scores: name -> what it is."""
    columns = ((field.name, ScoreColumn.of(field)) for field in table.schema)
    return {name: column for name, column in columns if column is not None}
