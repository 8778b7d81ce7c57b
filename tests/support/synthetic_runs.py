"""Outputs of runs that never were: a manifest and scores of any size, without pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.results.manifest import Manifest
from pipeline.results.scores import Scores, score_rows
from pipeline.storage.identity import digest
from pipeline.storage.place import Place


def pair_row(content: str, style: str, /, **changes: Any) -> dict[str, Any]:
    """A row of the manifest, and of the scores where ``changes`` name one."""
    sides = {
        f"{side}_{column}": value
        for side, name in (("content", content), ("style", style))
        for column, value in (("key", name), ("image", digest(name)), ("source", f"/home/me/{name}.png"))
    }
    return {"pair": digest(content, style), "status": "ok", "format": "png", "gamma": 0.5, **sides, **changes}


def meta(**fields: Any) -> str:
    """What a source says of itself."""
    return json.dumps(fields)


def synthetic_run(folder: Path, rows: Iterable[Mapping[str, Any]], scored: bool = True) -> Place:
    """An output with these pairs."""
    rows, output = list(rows), Place.parse(folder)
    manifest = Manifest(output)
    manifest.open()
    manifest.commit("part", rows)
    if scored:
        scores = Scores(output)
        scores.open({"of": "nothing"})
        scores.commit("part", score_rows([row for row in rows if row["status"] == "ok"]))
    return output
