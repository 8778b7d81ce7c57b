"""A list of pairs that somebody looked at: ``pair`` and ``decision``, which is ``keep`` or ``reject``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffstyle.errors import ConfigError, cut

_EXAMPLE = "it needs the columns pair and decision (keep or reject)"


@dataclass(frozen=True)
class KeepList:
    """The decisions of a list. Where any is ``keep``, only those pairs are chosen; else all but the rejected."""

    keep: frozenset[str]
    reject: frozenset[str]


def read_keep_list(path: Path) -> KeepList:
    """Read a CSV. ConfigError, naming the file and the line, where a row can't be followed."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"--keep {path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"--keep {path}: a folder, not a CSV file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--keep {path}: not readable as UTF-8; {_EXAMPLE}") from None
    decisions: dict[str, str] = {}
    try:
        for row, line in _rows(path, text):
            pair, decision = (row["pair"] or "").strip(), (row["decision"] or "").strip().lower()
            if not decision:  # not decided yet
                continue
            if decision not in ("keep", "reject"):
                raise ConfigError(f"--keep {path}, line {line}: decision is {cut(repr(decision), 120)}; {_EXAMPLE}")
            if decisions.setdefault(pair, decision) != decision:
                raise ConfigError(f"--keep {path}, line {line}: pair {cut(pair, 120)} is both kept and rejected")
    except csv.Error as error:
        raise ConfigError(f"--keep {path}: not readable as CSV ({error}); {_EXAMPLE}") from error
    keep = frozenset(pair for pair, decision in decisions.items() if decision == "keep")
    return KeepList(keep, frozenset(decisions) - keep)


def _rows(path: Path, text: str) -> Iterator[tuple[dict[str, str | None], int]]:
    """Each row and the line where it ends. Spreadsheets write semicolons in many countries, or tabs."""
    columns: list[str] = []
    for delimiter in ",;\t":
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        names = list(reader.fieldnames or ())
        if {"pair", "decision"} <= set(names):
            yield from ((row, reader.line_num) for row in reader)
            return
        columns = columns or names
    raise ConfigError(f"--keep {path}: its columns are {cut(', '.join(columns), 200) or 'none'}; {_EXAMPLE}")
