"""What a report says, as tables: pairs with their scores, sources, settings, rejects, cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from diffstyle.errors import ConfigError
from pipeline.results.all_scores import AllScores
from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.results.network_scores import networks_of
from pipeline.results.scores import ScoreColumn
from pipeline.results.source_pictures import run_banks
from pipeline.results.words import PARAMETERS, setting_words, settings_order, short_name
from pipeline.shards.store import ShardStore, open_shards
from pipeline.storage.counts import count
from pipeline.storage.identity import source_parts
from pipeline.storage.layout import SIDES, OutputLayout
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place

#: Gathering takes 1.6 kB a pair, thumbnails some more, and no browser opens a page of many more.
MOST_PAIRS = 500_000
_SOURCE = ("key", "image", "source", "label", "caption", "meta")
_ROW = ("pair", "status", "error", "picture", "picture_hash", "settings", "seconds", "created")


@dataclass
class ReportTables:
    """All that a report shows, but for its pictures.

    Attributes:
        pairs: A row for each pair of the manifest, by setting, content, style. Columns: pair, status, error, picture,
            picture_hash, seconds, created; ``content``, ``style`` and ``setting`` are numbers of the lists below;
            ``folder`` (path before the picture's name, ending in ``/`` or ``#``) and ``name``; each score;
            ``score_error``; and each parameter that differs within a setting.
        contents: Of each content: name, key, image, source, label, caption, meta. ``styles``: the same.
        settings: Of each setting: id, words, gamma, and ``parameters`` that its pairs share.
        own_parameters: The parameters that differ within a setting.
        scores: The scores that any pair has: name -> what it is.
        scored: How many pairs have scores.
        unsourced: How many were scored, but have empty scores only, since the pictures to compare with are not here.
        frechet: Of each network and setting, the Fréchet distances: ``network``, ``setting`` (a number of the list
            above), ``content`` and ``style`` (None: too few pictures), and how many of each there were.
        rejects: side, source and reason of each picture that could not be read.
        stores: The shards of the run.
        banks: The banks that the run reads, for thumbnails of what no shards have.
    """

    pairs: pd.DataFrame
    contents: list[dict[str, Any]]
    styles: list[dict[str, Any]]
    settings: list[dict[str, Any]]
    own_parameters: list[str]
    scores: dict[str, ScoreColumn]
    scored: int
    unsourced: int
    frechet: list[dict[str, Any]]
    rejects: list[dict[str, str]]
    stores: list[ShardStore]
    banks: list[Place]


def read_tables(output: Place) -> ReportTables:
    """The tables of a run.

    Raises:
        ConfigError: There are no results, or more pairs than MOST_PAIRS.
    """
    manifest = Manifest(output)
    if not manifest.store.exists():
        raise ConfigError(f"{output}: no results here; run a job first")
    made, failed = manifest.counts()
    if made + failed > MOST_PAIRS:
        raise ConfigError(
            f"{output}: {count(made + failed, 'pair', 'is/are')} more than a page can show ({MOST_PAIRS:,} at most); "
            "see contact-sheets/, or choose some of them with `diffstyle select`"
        )
    settings, setting_ranks, own = _settings(manifest)
    contents, content_ranks = _sources(manifest, "content")
    styles, style_ranks = _sources(manifest, "style")
    table = manifest.table([*_ROW, *own, "content_key", "style_key"])
    if not len(table):
        raise ConfigError(f"{output}: no pairs were made yet; run the job first")
    pairs = pd.DataFrame({name: _column(table[name]) for name in dict.fromkeys([*_ROW, *own])})
    pairs["setting"] = _ranks(table["settings"], setting_ranks)
    pairs["content"] = _ranks(table["content_key"], content_ranks)
    pairs["style"] = _ranks(table["style_key"], style_ranks)
    del table
    known = (pairs[["setting", "content", "style"]] >= 0).all(axis=1)
    if not known.all():  # a run has made them meanwhile; the next report shows them
        pairs = pairs[known].reset_index(drop=True)
    split = [_folder_and_name(picture) for picture in pairs["picture"]]
    pairs["folder"], pairs["name"] = [one[0] for one in split], [one[1] for one in split]
    pairs, scores, scored, unsourced = _with_scores(pairs, AllScores(output))
    pairs = pairs.sort_values(["setting", "content", "style", "pair"], ignore_index=True)
    places = [OutputLayout(output).shards(side) for side in SIDES]
    stores = {place.name: open_shards(place) for place in places if PartStore(place).exists()}
    rejects = [
        {"side": side, "source": row["source"], "reason": row["reason"]}
        for side, store in stores.items()
        for row in store.rejects().to_pylist()
    ]
    return ReportTables(
        pairs,
        contents,
        styles,
        settings,
        own,
        scores,
        scored,
        unsourced,
        _frechet(output, settings),
        rejects,
        list(stores.values()),
        run_banks(output),
    )


def _column(column: pa.ChunkedArray) -> pd.Series:
    """A column for pandas; what is missing in a text is None, and equal texts are one object."""
    if not pa.types.is_string(column.type):
        return column.to_pandas()
    codes = column.combine_chunks().dictionary_encode()
    if 2 * len(codes.dictionary) > len(codes):
        return pd.Series(column.to_pylist(), dtype=object)
    texts = np.array([*codes.dictionary.to_pylist(), None], object)
    return pd.Series(texts[codes.indices.fill_null(-1).to_numpy()], dtype=object)


def _distinct(manifest: Manifest, columns: list[str]) -> list[dict[str, Any]]:
    """The distinct rows of some columns, in the order in which they come; part by part, as all rows may be many."""

    def of_part(rows: pa.Table) -> pa.Table:
        return rows.group_by(columns, use_threads=False).aggregate([])

    tables = manifest.store.each(of_part, MANIFEST_SCHEMA, columns)
    return of_part(pa.concat_tables(tables)).to_pylist() if tables else []


def _ranks(column: pa.ChunkedArray, ranks: Mapping[str, int]) -> np.ndarray:
    """The rank of each row's text, -1 for one that has none."""
    codes = pc.fill_null(column, "").combine_chunks().dictionary_encode()
    of_texts = np.array([ranks.get(text, -1) for text in codes.dictionary.to_pylist()], np.int64)
    return of_texts[codes.indices.to_numpy()]


def _settings(manifest: Manifest) -> tuple[list[dict[str, Any]], dict[str, int], list[str]]:
    """The settings in order, the place of each among them, and the parameters that differ within one."""
    by_settings: dict[str, list[dict[str, Any]]] = {}
    for row in _distinct(manifest, ["settings", *PARAMETERS]):
        by_settings.setdefault(row["settings"] or "", []).append(row)
    own = [name for name in PARAMETERS if any(len({row[name] for row in one}) > 1 for one in by_settings.values())]
    rows = [one[0] for one in by_settings.values()]
    shared = [{name: row[name] for name in (*PARAMETERS, "settings") if name not in own} for row in rows]
    words = setting_words(shared)
    settings = [
        {
            "id": rows[n]["settings"],
            "words": words[n],
            "gamma": rows[n]["gamma"],
            "parameters": {name: rows[n][name] for name in PARAMETERS if name not in own},
        }
        for n in settings_order(shared)
    ]
    return settings, {one["id"] or "": rank for rank, one in enumerate(settings)}, own


def _sources(manifest: Manifest, side: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The distinct pictures of a side in key order, and the place of each among them."""
    by_key: dict[str, dict[str, Any]] = {}
    for row in _distinct(manifest, [f"{side}_{name}" for name in _SOURCE]):
        by_key.setdefault(row[f"{side}_key"] or "", {name: row[f"{side}_{name}"] for name in _SOURCE})
    sources = [{"name": short_name(key), **by_key[key]} for key in sorted(by_key)]
    return sources, {key: rank for rank, key in enumerate(sorted(by_key))}


def _folder_and_name(picture: str | None) -> tuple[str, str]:
    if not picture:
        return "", ""
    path, member = source_parts(picture)
    if member is not None:
        return f"{path}#", member
    folder, _, name = path.rpartition("/")
    return f"{folder}/", name


def _with_scores(pairs: pd.DataFrame, scores: AllScores) -> tuple[pd.DataFrame, dict[str, ScoreColumn], int, int]:
    ids = pa.chunked_array([pa.array(pairs["pair"], pa.string())])
    errors, columns = pd.Series(None, pairs.index, dtype=object), {}
    looked_at = np.zeros(len(pairs), bool)
    for field, values in scores.of(ids, [*scores.columns, "phash", "error"]):
        if field.name == "error":
            errors = pd.Series(values.to_pylist(), pairs.index, dtype=object)
        elif field.name == "phash":
            looked_at = values.is_valid().to_numpy(zero_copy_only=False)
        elif values.null_count < len(values):
            columns[field.name] = values.to_numpy(zero_copy_only=False)
    joined = pairs.assign(score_error=errors, **columns)
    has_scores = joined[list(columns)].notna().any(axis=1).to_numpy()
    unsourced = int((looked_at & ~has_scores & errors.isna().to_numpy()).sum())
    return joined, {name: scores.columns[name] for name in columns}, int(has_scores.sum()), unsourced


def _frechet(output: Place, settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distances of whole settings, as the last scoring found them; settings that are gone since are left out."""
    number = {setting["id"]: n for n, setting in enumerate(settings)}
    sides = ("content", "style", "content_pictures", "style_pictures", "pictures")
    return [
        {"network": scores.name, "setting": number[one["settings"]], **{name: one[name] for name in sides}}
        for scores in networks_of(output)
        for one in sorted(scores.frechet(), key=lambda one: number.get(one["settings"], -1))
        if one["settings"] in number
    ]


def cost(pairs: pd.DataFrame, settings: list[Mapping[str, Any]] | list[dict[str, Any]]) -> dict[str, float]:
    """Seconds and network calls that all finished pairs took."""
    made = pairs[pairs["status"] == "ok"]
    if "network_calls" in made:
        calls = made["network_calls"].fillna(0).sum()
    else:
        each = np.array([setting["parameters"]["network_calls"] or 0 for setting in settings], np.float64)
        calls = each[made["setting"].to_numpy()].sum()
    return {"seconds": float(made["seconds"].fillna(0).sum()), "calls": float(calls)}
