"""The rows of a list: CSV with commas, semicolons or tabs, JSON lines, Parquet. One bad row costs that row alone."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources.addresses import reaching
from pipeline.sources.base import SourceError
from pipeline.sources.recognise import is_picture
from pipeline.storage.errors import reason_of
from pipeline.storage.place import Place

LIST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq")

# A record above this is damage: a quote that is never closed would else swallow the rest of the list.
MAX_RECORD = 16 << 20
# The names under which are kept: a row's cells beyond the header, and why its last cells can't be read.
SURPLUS = "surplus"
ROW_ERROR = "row_error"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a list: its values by column, or in ``problem`` why it can't be read.

    number  from 1, the header not counted
    line    the line of the file at which it begins; 0 in Parquet
    """

    number: int
    line: int
    values: dict[str, Any]
    problem: str | None = None

    def __str__(self) -> str:
        return f"row {self.number} (line {self.line})" if self.line else f"row {self.number}"


class Rows:
    """The rows of one list, read as they are iterated.

    Args:
        place: the list's file; its suffix says what it is.
        wanted: names of columns of which the list must have one, best first.

    Attributes:
        columns: the columns of a CSV or Parquet file; () for JSON lines, where every row has its own.
        skipped: after the iteration, how many lines without anything in them were passed over.

    Raises:
        SourceError: the file can't be read, or its header is of no use; one line that names the file and the cure.
    """

    def __init__(self, place: Place, wanted: Sequence[str] = ()):
        self.place = place
        self.skipped = 0
        self.columns: tuple[str, ...] = ()
        self._wanted = wanted
        self._kind = place.name.rpartition(".")[2].lower()
        if self._kind in ("parquet", "pq"):
            self.columns = self._parquet_columns()
        elif not self._is_json:
            with reaching(str(place)), self._lines() as lines:
                self.columns, self._delimiter = self._header(lines)

    @property
    def _is_json(self) -> bool:
        return self._kind in ("jsonl", "ndjson")

    def __iter__(self) -> Iterator[Row]:
        self.skipped = 0
        with reaching(str(self.place)):
            if self._kind in ("parquet", "pq"):
                yield from self._parquet_rows()
            elif self._is_json:
                yield from self._json_rows()
            else:
                yield from self._csv_rows()

    def column(self, names: Sequence[str]) -> str | None:
        """The first of ``names`` that is a column. SourceError where the list has it twice."""
        column = next((name for name in names if name in self.columns), None)
        if column is not None and Counter(self.columns)[column] > 1:
            raise SourceError(
                f"{self.place}: the column {column} is there {Counter(self.columns)[column]} times; keep one"
            )
        return column

    # ---- text ----
    def _lines(self) -> _Lines:
        return _Lines(self.place)

    def _header(self, lines: _Lines) -> tuple[tuple[str, ...], str]:
        first = lines.next()
        while first is not None and not first.strip():
            first = lines.next()
        if first is None:
            raise SourceError(f"{self.place}: the list is empty; its first line must name the columns")
        delimiters = "\t" if self._kind == "tsv" else ",;\t"
        tried = []
        for delimiter in delimiters:
            try:
                tried.append((next(csv.reader([first], delimiter=delimiter, strict=True)), delimiter))
            except csv.Error:
                continue
        if not tried:
            raise SourceError(
                f"{self.place}, line {lines.number}: the header has a quote that is not closed; correct it"
            )
        # The delimiter by which the header has a column that is wanted; else the one that cuts it into most columns.
        cells, delimiter = max(
            tried, key=lambda one: (bool(set(self._wanted) & {c.strip() for c in one[0]}), len(one[0]))
        )
        names = [cell.strip() for cell in cells]
        return tuple(name or f"column {n}" for n, name in enumerate(names, 1)), delimiter

    def _csv_rows(self) -> Iterator[Row]:
        csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD))
        number = 0
        with self._lines() as lines:
            self._header(lines)
            while (cells := lines.record(self._delimiter)) is not None:
                if not any(map(str.strip, cells)):
                    self.skipped += 1
                    continue
                number += 1
                line = lines.began
                if not isinstance(cells, str) and (swallowed := self._swallowed(lines.taken)) is not None:
                    lines.push_back()
                    cells = f"a quote that is not closed: it would swallow line {line + swallowed}"
                if isinstance(cells, str):
                    yield self._damaged(number, line, lines.taken[0], cells)
                else:
                    yield Row(number, line, self._values(cells))

    def _values(self, cells: Sequence[str]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for n, name in enumerate(self.columns):
            cell = cells[n] if n < len(cells) and cells[n] else None
            values[f"{name} ({n + 1})" if name in values else name] = cell
        if len(cells) > len(self.columns):
            values[SURPLUS] = list(cells[len(self.columns) :])
        return values

    def _damaged(self, number: int, line: int, text: str, problem: str) -> Row:
        """A row whose quotes are wrong: the cells before the first quote are sound, and may hold all that matters."""
        problem = f"line {line}: {problem}; correct it"
        sound = text.partition('"')[0].split(self._delimiter)[:-1]
        path = self.column(self._wanted)
        if path is None or self.columns.index(path) >= len(sound) or len(text) >= MAX_RECORD:
            return Row(number, line, {}, problem)
        return Row(number, line, {**self._values(sound), ROW_ERROR: problem})

    def _swallowed(self, taken: Sequence[str]) -> int | None:
        """Which of a record's further lines looks like a row of its own, so that a stray quote is more likely."""
        path = self.column(self._wanted)
        if len(taken) < 2 or path is None:
            return None
        at = self.columns.index(path)
        for n, text in enumerate(taken[1:], 1):
            cells = text.rstrip("\r\n").split(self._delimiter)
            if len(cells) >= len(self.columns) and is_picture(cells[at].strip().strip('"')):
                return n
        return None

    def _json_rows(self) -> Iterator[Row]:
        number = 0
        with self._lines() as lines:
            while (text := lines.next()) is not None:
                if not text.strip():
                    self.skipped += 1
                    continue
                number += 1
                if len(text) >= MAX_RECORD:
                    yield Row(number, lines.number, {}, f"the line is over {MAX_RECORD:,} characters")
                    continue
                try:
                    value = json.loads(text)
                except (ValueError, RecursionError) as error:
                    yield Row(number, lines.number, {}, f"not readable as JSON ({reason_of(error)})")
                    continue
                if isinstance(value, dict):
                    yield Row(number, lines.number, value)
                else:
                    yield Row(number, lines.number, {}, "not a JSON object with the columns as its names")

    # ---- Parquet ----
    def _parquet_columns(self) -> tuple[str, ...]:
        with reaching(str(self.place)), self.place.open() as stream:
            try:
                return tuple(pq.read_schema(stream).names)
            except pa.ArrowInvalid as error:
                raise self._no_parquet(error) from error

    def _no_parquet(self, error: Exception) -> SourceError:
        return SourceError(f"{self.place}: not readable as Parquet ({reason_of(error)}); is it whole?")

    def _parquet_rows(self) -> Iterator[Row]:
        number = 0
        try:
            with self.place.open() as stream, pq.ParquetFile(stream) as table:
                for batch in table.iter_batches(batch_size=1024):
                    columns = [_python_values(column) for column in batch.columns]
                    for cells in zip(*columns, strict=True):
                        number += 1
                        yield Row(number, 0, dict(zip(self.columns, cells, strict=True)))
        except pa.ArrowInvalid as error:
            raise self._no_parquet(error) from error


def _python_values(column: pa.Array) -> list[Any]:
    """A column's values; as text where Python has no such value (a date beyond the year 9999, an unknown time zone)."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        return [_python_value(value) for value in column]


def _python_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return None


class _Lines:
    """The lines of a text file, each of bounded length; and CSV records made of them."""

    def __init__(self, place: Place):
        self.number = 0  # of the line read last
        self.began = 0  # of the line at which the record read last began
        self.taken: list[str] = []  # its lines
        self._place = place
        self._back: deque[str] = deque()

    def __enter__(self) -> _Lines:
        self._stream = self._place.open()
        start = self._stream.read(2)
        self._stream.seek(0)
        if start in (b"\xff\xfe", b"\xfe\xff"):
            self._stream.close()
            raise SourceError(f"{self._place}: this is UTF-16 text; save it as UTF-8")
        # pyarrow's stream has what a raw stream must have, without being one by name. Bytes that are no UTF-8 stay what
        # they are: a file's name may hold them.
        raw = io.BufferedReader(cast(io.RawIOBase, self._stream))
        self._text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
        return self

    def __exit__(self, *error: object) -> None:
        self._text.close()

    def next(self) -> str | None:
        """The next line with its end, cut at MAX_RECORD characters; None at the end."""
        text = self._back.popleft() if self._back else self._text.readline(MAX_RECORD)
        if not text:
            return None
        self.number += 1
        if len(text) >= MAX_RECORD and not text.endswith("\n"):
            while (more := self._text.readline(MAX_RECORD)) and not more.endswith("\n"):
                pass
        return text

    def push_back(self) -> None:
        """Give back all but the first line of the record read last."""
        self.number -= len(self.taken) - 1
        self._back.extendleft(reversed(self.taken[1:]))
        self.taken = self.taken[:1]

    def record(self, delimiter: str) -> list[str] | str | None:
        """The next record's cells; a text for a record that can't be read; None at the end.

        Of a record that can't be read its first line alone is used up.
        """
        self.taken = []
        self.began = self.number + 1
        size = 0

        def feed() -> Iterator[str]:
            nonlocal size
            while size < MAX_RECORD and (text := self.next()) is not None:
                self.taken.append(text)
                size += len(text)
                yield text

        try:
            cells = next(csv.reader(feed(), delimiter=delimiter, strict=True), None)
        except csv.Error as error:
            self.push_back()
            cells = None
            problem = f"a quote that is not closed, or one within a cell ({reason_of(error)})"
        else:
            problem = ""
        if self.taken and max(map(len, self.taken)) >= MAX_RECORD:
            self.push_back()
            problem = f"over {MAX_RECORD:,} characters"
        return problem or cells
