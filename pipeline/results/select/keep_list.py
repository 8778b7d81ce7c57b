"""A list of pairs that somebody looked at: ``pair`` and ``decision``, which is ``keep`` or ``reject``."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from diffstyle.errors import ConfigError

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
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if not {"pair", "decision"} <= set(reader.fieldnames or ()):
        raise ConfigError(f"--keep {path}: its columns are {', '.join(reader.fieldnames or ()) or 'none'}; {_EXAMPLE}")
    decisions: dict[str, str] = {}
    for row in reader:
        pair, decision = (row["pair"] or "").strip(), (row["decision"] or "").strip().lower()
        if not decision:  # not decided yet
            continue
        if decision not in ("keep", "reject"):
            raise ConfigError(f"--keep {path}, line {reader.line_num}: decision is {decision!r}; {_EXAMPLE}")
        if decisions.setdefault(pair, decision) != decision:
            raise ConfigError(f"--keep {path}, line {reader.line_num}: pair {pair} is both kept and rejected")
    keep = frozenset(pair for pair, decision in decisions.items() if decision == "keep")
    return KeepList(keep, frozenset(decisions) - keep)
