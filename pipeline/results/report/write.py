"""Writing a report: thumbnails, data as scripts (a page from disk may not fetch), and the page itself."""

from __future__ import annotations

import datetime
import html
import json
import math
import os
import shutil
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

import diffstyle
from diffstyle.errors import ConfigError
from pipeline.results.pictures import EXTENSIONS, inside
from pipeline.results.report.sheets import Result, Sheets, Source, Thumbnail, cell_size, make_sheets
from pipeline.results.report.tables import ReportTables, cost, read_tables
from pipeline.results.source_pictures import thumbnails_of
from pipeline.storage.counts import count, data_size
from pipeline.storage.identity import digest
from pipeline.storage.layout import OutputLayout
from pipeline.storage.place import Place

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("data.js", "tiles.js", "detail.js", "panels.js", "page.js")
_MARK = "report.json"  # says that a folder is a report, which another may replace
_CHUNK = 10_000


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
        page: Its ``index.html``.
        pairs: How many it shows.
        scored: How many of them have scores.
        unsourced: How many were scored, but have empty scores only, since the pictures to compare with are not here.
        unreadable: How many pictures of results could not be read.
        size: Bytes of all files.
        files: How many there are.
    """

    page: Path
    pairs: int
    scored: int
    unsourced: int
    unreadable: int
    size: int
    files: int

    def __str__(self) -> str:
        inside = f"{count(self.pairs, 'pair')}, {data_size(self.size)} in {count(self.files, 'file')}"
        return f"{self.page}: {inside}; open it in a browser"


def write_report(run: Place, out: Path | None = None, tell: Callable[[str], None] = lambda line: None) -> Report:
    """Write the report of a run.

    Args:
        run: The output folder of a run.
        out: The folder to write, on a disk. Default: ``RUN/report``. An earlier report there is replaced.
        tell: Is told what is being done.

    Raises:
        ConfigError: There is nothing to report, or ``out`` holds something else.
    """
    if out is None:
        if not run.is_local:
            raise ConfigError(f"{run}: a report is for a browser on this machine; name a folder of its disk by --out")
        out = Path(OutputLayout(run).report.path)
    out = out.absolute()
    tables = read_tables(run)
    _empty(out)
    pairs = tables.pairs
    tell(f"{count(len(pairs), 'pair')}, {count(len(tables.settings), 'setting')}")
    described = _pictures(run, out, tables, tell)
    extensions = list(EXTENSIONS.values())
    # `diffstyle new` calls its output `results`, beside the job: the folder of both says which one it is.
    title = run.parent.name if run.name == "results" and run.parent.name else run.name
    facts = {
        "title": title,
        "id": digest(str(run))[:16],
        "made": _now(),
        "version": diffstyle.__version__,
        "pairs": len(pairs),
        "scored": tables.scored,
        "unsourced": tables.unsourced,
        "cost": cost(pairs, tables.settings),
        "contents": tables.contents,
        "styles": tables.styles,
        "side": _side(tables),
        "settings": tables.settings,
        "own_parameters": tables.own_parameters,
        "scores": [{"name": name, "better": one.better, "says": one.says} for name, one in tables.scores.items()],
        "frechet": tables.frechet,
        "rejects": tables.rejects,
        "folders": list(dict.fromkeys(pairs["folder"])),
        "extensions": extensions,
        "pictures": _way(run, out),
        "chunks": _write_chunks(out, tables, extensions),
        **described,
    }
    _script(out / "data" / "facts.js", "facts", facts)
    for file in sorted(_ASSETS.iterdir()):
        if file.suffix in (".js", ".css"):
            shutil.copyfile(file, out / file.name)
    text = string.Template((_ASSETS / "index.html").read_text("utf-8")).substitute(
        title=html.escape(title), scripts="\n".join(f'<script src="{name}"></script>' for name in _SCRIPTS)
    )
    Place.parse(out / "index.html").write_bytes(text.encode())
    sizes = [file.stat().st_size for file in out.rglob("*") if file.is_file()]
    unreadable = int((pairs["damage"] != "").sum())
    page = out / "index.html"
    return Report(page, len(pairs), tables.scored, tables.unsourced, unreadable, sum(sizes), len(sizes))


def _empty(out: Path) -> None:
    """Make ``out`` an empty folder that is known as a report. Its page goes first, so that none opens half-made."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out: {out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise ConfigError(f"--out: {out} holds files that are no report; name another folder")
    (out / "index.html").unlink(missing_ok=True)
    for name in ("data", "thumbnails"):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
    (out / "data").mkdir(parents=True)
    (out / _MARK).write_text(json.dumps({"kind": "report", "diffstyle": diffstyle.__version__}))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _way(run: Place, out: Path) -> str | None:
    """The address of the run, as the page reaches it; None where a browser can't."""
    if not run.is_local:
        return None
    try:
        way = os.path.relpath(Path(run.path).resolve(), out.resolve())
    except ValueError:  # another drive
        return Path(run.path).resolve().as_uri() + "/"
    return quote(Path(way).as_posix(), safe="/.") + "/"


# ---- pictures ----
def _pictures(run: Place, out: Path, tables: ReportTables, tell: Callable[[str], None]) -> dict[str, Any]:
    """Write all sheets; gives ``pairs`` the columns thumbnail, large and damage, and sources their numbers."""
    pairs = tables.pairs
    shown = pairs.index[(pairs["status"] == "ok") & (pairs["picture"].fillna("") != "")]
    in_tar = pairs["folder"].str.endswith("#")
    # In tars the pictures of a sheet should lie side by side; elsewhere in the order of the matrix.
    order = pairs.loc[shown].assign(tar=pairs["folder"].where(in_tar, "")).sort_values("tar", kind="stable").index
    results = [Result(picture, written) for picture, written in pairs.loc[order, ["picture", "picture_hash"]].values]
    side = _side(tables)
    tell(f"thumbnails of {count(len(results), 'result')}")
    thumbnails = make_sheets(out, "results", cell_size(side, len(results), 96, 64), run, results)
    pairs["thumbnail"], pairs["damage"] = -1, ""
    good = [n for n in range(len(order)) if n not in thumbnails.failed]
    pairs.loc[order[good], "thumbnail"] = good
    for n, reason in thumbnails.failed.items():
        pairs.loc[order[n], "damage"] = reason
    described = {"thumbnails": thumbnails.described(), "sources": _source_sheets(run, out, tables, side).described()}
    # What the browser can't show from its own file is shown from large cells.
    far = [n for n in good if in_tar[order[n]] or not run.is_local or not inside(results[n].picture)]
    pairs["large"] = -1
    if far and side > thumbnails.cell:
        tell(f"{count(len(far), 'result')} that no file of their own holds")
        large = make_sheets(out, "large", cell_size(side, len(far), 256, 128), run, [results[n] for n in far])
        pairs.loc[order[far], "large"] = np.arange(len(far))
        described["large"] = large.described()
    return described


def _side(tables: ReportTables) -> int:
    sides = [value for setting in tables.settings for name in ("width", "height")
             if (value := setting["parameters"].get(name))]  # fmt: skip
    own = [tables.pairs[name].max() for name in ("width", "height") if name in tables.own_parameters]
    return int(max([*sides, *(value for value in own if not pd.isna(value))], default=256))


def _source_sheets(run: Place, out: Path, tables: ReportTables, side: int) -> Sheets:
    """Write the sheets of the sources that shards or banks have; ``thumbnail`` of a source is its number, or -1."""
    sources = [*tables.contents, *tables.styles]
    wanted = {source["image"] for source in sources if source["image"]}
    listed: dict[str, Source | Thumbnail] = {}
    for store in tables.stores:
        for row in store.unique():
            if row["image"] in wanted:
                listed.setdefault(row["image"], Source(str(store.root), row))
    for bank in tables.banks:
        if missing := wanted - set(listed):
            listed.update((image, Thumbnail(pixels)) for image, pixels in thumbnails_of(bank, missing).items())
    numbers = {image: n for n, image in enumerate(listed)}
    sheets = make_sheets(out, "sources", cell_size(side, len(listed), 256, 96), run, list(listed.values()))
    for source in sources:
        number = numbers.get(source.pop("image"), -1)
        source["thumbnail"] = -1 if number in sheets.failed else number
    return sheets


# ---- data ----
def _write_chunks(out: Path, tables: ReportTables, extensions: Sequence[str]) -> list[str]:
    """Write the pairs in scripts of so many rows, column by column; returns the files' names."""
    pairs = tables.pairs
    folder_numbers = {folder: n for n, folder in enumerate(dict.fromkeys(pairs["folder"]))}
    files = []
    for number, start in enumerate(range(0, len(pairs), _CHUNK)):
        rows = pairs.iloc[start : start + _CHUNK]
        chunk: dict[str, Any] = {
            "pair": rows["pair"].tolist(),
            **{name: rows[name].tolist() for name in ("content", "style", "setting", "thumbnail")},
            "folder": [folder_numbers[folder] for folder in rows["folder"]],
            "name": _names(tables, rows, extensions),
            "seconds": _numbers(rows["seconds"]),
            "created": [None if pd.isna(time) else int(time.timestamp()) for time in rows["created"]],
            "scores": {name: _numbers(rows[name]) for name in tables.scores},
            "own": {name: _values(rows[name]) for name in tables.own_parameters},
            "troubles": _troubles(rows),
        }
        if (rows["large"] >= 0).any():
            chunk["large"] = rows["large"].tolist()
        files.append(f"data/pairs-{number:05d}.js")
        _script(out / files[-1], f"pairs[{start}]", chunk)
    return files


def _names(tables: ReportTables, rows: pd.DataFrame, extensions: Sequence[str]) -> list[str | int]:
    """The pictures' names. 0: none; a number: the keys of its sources, and the extension of that number, from 1."""
    names: list[str | int] = []
    for content, style, name in zip(rows["content"], rows["style"], rows["name"], strict=True):
        stem, _, extension = name.rpartition(".")
        usual = stem == f"{tables.contents[content]['key']}__{tables.styles[style]['key']}"
        names.append(extensions.index(extension) + 1 if usual and extension in extensions else name or 0)
    return names


def _numbers(column: pd.Series) -> list[float | None]:
    """Numbers with five digits; null for what is missing or no number."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in column.astype(float)]


def _values(column: pd.Series) -> list[Any]:
    return [None if pd.isna(value) else value.item() if isinstance(value, np.generic) else value for value in column]


def _troubles(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Number in the chunk -> kind (failed, damaged or unscored) and reason; of most pairs there is nothing to say."""
    troubles = {}
    columns = zip(rows["status"], rows["error"], rows["damage"], rows["score_error"], strict=True)
    for n, (status, error, damage, score_error) in enumerate(columns):
        if status != "ok":
            troubles[str(n)] = ["failed", error or "no reason was noted"]
        elif damage:
            troubles[str(n)] = ["damaged", damage]
        elif isinstance(score_error, str) and score_error:
            troubles[str(n)] = ["unscored", score_error]
    return troubles


def _script(file: Path, name: str, value: Any) -> None:
    """Write ``diffstyle.NAME = VALUE`` in ASCII, so that no text, whatever is in it, can end the script."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    file.write_text(f"diffstyle.{name} = {text};\n", "ascii")
