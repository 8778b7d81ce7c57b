"""The rows of a manifest that contact sheets show: of ten million a few thousand, found without holding the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.results.words import NAMING
from pipeline.storage.pair_ids import PairIds, packed

#: The columns of the manifest that sheets read.
COLUMNS = (
    *("status", "picture", "picture_hash", "width", *NAMING),
    *("content_key", "content_image", "style_key", "style_image"),
    *(
        "t_edit",
        "t_start",
        "t_boost",
        "events",
        "dt_lambda",
        "dt_end",
        "plan",
        "inversion",
        "precision",
        "model",
        "format",
    ),
)

# A sheet is to be looked at, not to hold everything.
MAX_ROWS, MAX_COLUMNS = 12, 8

# Of a content, among which those are looked for that were made with several settings.
_STYLES = 1000

T = TypeVar("T")


@dataclass(frozen=True)
class SheetRows:
    """What sheets need of a manifest.

    Attributes:
        rows: The columns COLUMNS of finished pairs: for each recipe all of its first contents in its first styles, by
            their keys, and at least one row; and a thousand styles of each of the first contents of all.
        sides: ``settings`` -> how many contents and how many styles that recipe has.
        n_pairs: How many contents in styles there are, whatever the settings.
    """

    rows: pa.Table
    sides: Mapping[str, tuple[int, int]]
    n_pairs: int


def sheet_rows(manifest: Manifest | pa.Table) -> SheetRows:
    """The rows that sheets show, in two passes over a manifest. Memory: its pictures' names, and 16 bytes a pair.

    Args:
        manifest: Of an output; or rows that are all there is, with the columns COLUMNS.
    """
    surveys = _of_each_part(manifest, _survey, _SURVEYED)
    n_pairs = len(PairIds(*(survey.pairs for survey in surveys)))
    contents = _by_settings([survey.contents for survey in surveys])
    styles = _by_settings([survey.styles for survey in surveys])
    del surveys
    sides = {settings: (_n_images(contents[settings]), _n_images(styles[settings])) for settings in contents}
    shown_contents = {image for some in contents.values() for _, image in some[:MAX_ROWS]}
    shown_styles = {image for some in styles.values() for _, image in some[:MAX_COLUMNS]}
    leading = [image for _, image in sorted(set().union(*contents.values()))[:MAX_ROWS]]

    def chosen(rows: pa.Table) -> pa.Table:
        rows = rows.filter(pc.equal(rows["status"], "ok"))
        on_sheets = rows.filter(_is_in(rows["content_image"], shown_contents))
        on_sheets = on_sheets.filter(_is_in(on_sheets["style_image"], shown_styles))
        some_styles = _first_styles(rows.filter(_is_in(rows["content_image"], leading)))
        return _first_of(pa.concat_tables([on_sheets, some_styles, _first_of(rows, ["settings"])]), _PAIR)

    rows = chosen(pa.concat_tables(_of_each_part(manifest, chosen, COLUMNS)))
    return SheetRows(rows, sides, n_pairs)


_SURVEYED = ("status", "settings", "content_key", "content_image", "style_key", "style_image")
_PAIR = ["settings", "content_image", "style_image"]


@dataclass(frozen=True)
class _Survey:
    """Of a part: (settings, key, image) of its contents and of its styles, and what tells its pairs apart, (n, 2)."""

    contents: set[tuple[str, str, str]]
    styles: set[tuple[str, str, str]]
    pairs: np.ndarray


def _survey(rows: pa.Table) -> _Survey:
    rows = rows.filter(pc.equal(rows["status"], "ok"))

    def pictures(side: str) -> set[tuple[str, str, str]]:
        names = ["settings", f"{side}_key", f"{side}_image"]
        columns = rows.group_by(names).aggregate([]).to_pydict()
        return set(zip(*(columns[name] for name in names), strict=True))

    return _Survey(
        pictures("content"), pictures("style"), packed(rows["content_image"]) ^ packed(rows["style_image"])[:, ::-1]
    )


def _by_settings(parts: Sequence[set[tuple[str, str, str]]]) -> dict[str, list[tuple[str, str]]]:
    """``settings`` -> (key, image) of a side's pictures, sorted."""
    pictures: dict[str, list[tuple[str, str]]] = {}
    for settings, key, image in sorted(set().union(*parts)):
        pictures.setdefault(settings, []).append((key, image))
    return pictures


def _n_images(pictures: Sequence[tuple[str, str]]) -> int:
    return len({image for _, image in pictures})


def _of_each_part(manifest: Manifest | pa.Table, of_part: Callable[[pa.Table], T], columns: Sequence[str]) -> list[T]:
    if isinstance(manifest, pa.Table):
        return [of_part(manifest.select(list(columns)))]
    nothing = pa.schema([MANIFEST_SCHEMA.field(name) for name in columns]).empty_table()
    return manifest.store.each(of_part, MANIFEST_SCHEMA, list(columns)) or [of_part(nothing)]


def _is_in(column: pa.ChunkedArray, texts: Iterable[str]) -> pa.ChunkedArray:
    return pc.is_in(column, pa.array(texts, pa.string()))


def _first_of(rows: pa.Table, columns: list[str]) -> pa.Table:
    """The first row of each value of some columns."""
    numbered = rows.select(columns).append_column("row", pa.array(range(len(rows)), pa.int64()))
    first = numbered.group_by(columns).aggregate([("row", "min")])["row_min"]
    return rows.take(first.combine_chunks().sort())


def _first_styles(rows: pa.Table) -> pa.Table:
    """Of each content in each settings the first styles by their keys."""
    rows = rows.sort_by([(name, "ascending") for name in ("settings", "content_image", "style_key", "style_image")])
    n: Counter[tuple[str, str]] = Counter()
    keep = []
    for pair in zip(rows["settings"].to_pylist(), rows["content_image"].to_pylist(), strict=True):
        n[pair] += 1
        keep.append(n[pair] <= _STYLES)
    return rows.filter(pa.array(keep, pa.bool_()))
