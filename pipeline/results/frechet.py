"""Fréchet distances of an output: of each setting's pictures to the contents and the styles that they were made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.measures.frechet import Moments, frechet_distance
from pipeline.results.manifest import Manifest
from pipeline.results.network_scores import SOURCES_SCHEMA, NetworkScores, vectors
from pipeline.results.words import PARAMETERS, setting_words
from pipeline.storage.counts import count

SIDES = ("content", "style")


def frechet_distances(manifest: Manifest, scores: NetworkScores) -> list[dict[str, Any]]:
    """The distances that embeddings give, by setting.

    Args:
        manifest: The output's.
        scores: Of a network whose embeddings are kept.

    Returns:
        For each setting: ``settings``, ``words``, ``pictures``, ``dimensions``, and of each side ``SIDE``, the
        distance (None where there are fewer than two pictures on either side), and ``SIDE_pictures``; ``left_out`` and
        ``SIDE_left_out``, how many more there are that have no embedding: unreadable, or not finite.
    """
    rows = manifest.table(["pair", "status", "settings", *PARAMETERS, "content_image", "style_image"])
    rows = rows.filter(pc.equal(rows["status"], "ok"))
    if not len(rows):
        return []
    codes = rows["settings"].combine_chunks().dictionary_encode()
    numbers = codes.indices.to_numpy(zero_copy_only=False)
    _, first = np.unique(numbers, return_index=True)
    firsts = rows.take(pa.array(first)).to_pylist()
    results = [Moments() for _ in firsts]
    pairs = rows["pair"].combine_chunks()
    for part in scores.store.parts():  # part by part: embeddings of a large run do not fit in memory
        table = scores.store.part_rows(part, scores.schema, ["pair", "embedding"])
        table = table.filter(pc.is_valid(table["embedding"]))
        at = pc.index_in(table["pair"], pairs).combine_chunks()
        table, at = table.filter(pc.is_valid(at)), at.drop_null().to_numpy()
        block = vectors(table["embedding"])
        for number in np.unique(numbers[at]):
            results[number].add(block[numbers[at] == number])
    sources = scores.sources.rows(SOURCES_SCHEMA)
    words = setting_words(firsts)
    distances = []
    for number in sorted(range(len(firsts)), key=lambda n: (firsts[n]["gamma"] or 0, words[n])):
        own = rows.filter(pa.array(numbers == number))
        one: dict[str, Any] = {
            "settings": firsts[number]["settings"],
            "words": words[number],
            "pictures": results[number].n,
            "left_out": max(0, len(own) - results[number].n),
            "dimensions": len(results[number].mean),
        }
        for side in SIDES:
            images = pc.unique(own[f"{side}_image"])
            known = Moments.of(_blocks(sources.filter(pc.is_in(sources["image"], images))))
            one[f"{side}_pictures"] = known.n
            one[f"{side}_left_out"] = len(images) - known.n
            enough = min(known.n, results[number].n) > 1
            one[side] = frechet_distance(results[number], known) if enough else None
        distances.append(one)
    return distances


def _blocks(sources: pa.Table) -> Iterator[np.ndarray]:
    _, first = np.unique(sources["image"].to_numpy(zero_copy_only=False).astype(str), return_index=True)
    sources = sources.take(pa.array(first))
    for start in range(0, len(sources), 4096):
        yield vectors(sources["embedding"].slice(start, 4096))


def frechet_lines(name: str, distances: list[dict[str, Any]]) -> list[str]:
    """What a command prints of them."""
    lines = []
    for one in distances:
        phrases = [_to_side(one, side) for side in SIDES]
        phrases = [phrase for phrase in phrases if phrase]
        omitted = _omitted(one.get("left_out", 0))
        if phrases:
            lines.append(
                f"Fréchet distance on {name}, {one['words']}: {', '.join(phrases)} "
                f"({count(one['pictures'], 'picture')}){omitted}"
            )
        elif omitted:
            lines.append(f"no Fréchet distance on {name}, {one['words']}: too few embeddings{omitted}")
    few = any(0 < _fewest(one) <= one["dimensions"] for one in distances)
    if lines and few:
        size = distances[0]["dimensions"]
        lines.append(
            f"  fewer pictures than the {size:,} numbers of an embedding: compare such distances only where the counts "
            "are the same"
        )
    return lines


def _to_side(one: Mapping[str, Any], side: str) -> str:
    left_out = one.get(f"{side}_left_out", 0)
    if one[side] is None and not left_out:
        return ""
    distance = "none" if one[side] is None else format(one[side], ".4g")
    return f"{distance} to its {one[f'{side}_pictures']:,} {side}s{_omitted(left_out)}"


def _omitted(n: int) -> str:
    return f" ({n:,} without a finite embedding left out)" if n else ""


def _fewest(one: Mapping[str, Any]) -> int:
    return min(one["pictures"], *(one[f"{side}_pictures"] for side in SIDES))
