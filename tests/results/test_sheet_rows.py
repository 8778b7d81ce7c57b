"""The rows that sheets show, held against the whole manifest."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.results.manifest import Manifest, manifest_rows
from pipeline.results.sheet_rows import COLUMNS, MAX_COLUMNS, MAX_ROWS, SheetRows, sheet_rows
from pipeline.storage.place import Place

# (settings, content, style): few of each, in any holes.
cells = st.sets(st.tuples(st.integers(0, 2), st.integers(0, 15), st.integers(0, 10)), min_size=1, max_size=300)


def row(setting: int, content: int, style: int, status: str = "ok") -> dict:
    names = {"content_key": f"c{content:03}", "content_image": f"{content:032x}"}
    names |= {"style_key": f"s{style:03}", "style_image": f"{1000 + style:032x}"}
    picture = f"pictures/{setting}/{content}-{style}.png"
    return {"pair": picture, "status": status, "settings": f"{setting:032}", "picture": picture, "width": 8, **names}


def seen(shown: SheetRows) -> set[tuple[int, int, int]]:
    columns = [shown.rows[name].to_pylist() for name in ("settings", "content_key", "style_key")]
    return {(int(setting), int(content[1:]), int(style[1:])) for setting, content, style in zip(*columns, strict=True)}


@settings(deadline=None)
@given(cells)
def test_a_sheet_of_them_is_that_of_all_rows(made):
    shown = sheet_rows(manifest_rows([row(*one) for one in made]))
    kept = seen(shown)
    assert shown.rows.column_names == list(COLUMNS)
    assert len(kept) == len(shown.rows)  # each once
    assert kept <= made
    assert shown.n_pairs == len({(content, style) for _, content, style in made})
    assert set(shown.sides) == {f"{setting:032}" for setting, _, _ in made}
    for setting in {setting for setting, _, _ in made}:
        contents, styles = ({one[n] for one in made if one[0] == setting} for n in (1, 2))
        assert shown.sides[f"{setting:032}"] == (len(contents), len(styles))
        first = itertools.product(sorted(contents)[:MAX_ROWS], sorted(styles)[:MAX_COLUMNS])
        assert {(setting, *pair) for pair in first} & made <= kept
        assert any(one[0] == setting for one in kept)
    # What the sheet of a sweep chooses from: all of the first contents.
    leading = sorted({content for _, content, _ in made})[:MAX_ROWS]
    assert {one for one in made if one[1] in leading} <= kept


def test_it_is_the_same_from_many_parts_and_failures_are_not_shown(tmp_path):
    made = [row(setting, content, style) for setting in (1, 2) for content in range(20) for style in range(12)]
    manifest = Manifest(Place.parse(tmp_path))
    manifest.open()
    for n in range(0, len(made), 7):
        manifest.commit(f"tile-{n:03}", made[n : n + 7])
    manifest.commit_failures([row(3, 0, 0, "failed"), row(1, 99, 99, "failed")])
    shown, whole = sheet_rows(manifest), sheet_rows(manifest_rows(made))
    assert seen(shown) == seen(whole)
    assert (shown.sides, shown.n_pairs) == (whole.sides, whole.n_pairs)
    assert shown.n_pairs == 240
    assert shown.sides == {f"{setting:032}": (20, 12) for setting in (1, 2)}


def test_of_many_rows_few_are_held():
    rows = [row(1, content, style) for content in range(300) for style in range(100)]
    shown = sheet_rows(manifest_rows(rows))
    assert len(shown.rows) == MAX_ROWS * 100  # all styles of the first contents
    assert Counter(content for _, content, _ in seen(shown)) == dict.fromkeys(range(MAX_ROWS), 100)


def test_nothing_is_shown_of_nothing(tmp_path):
    shown = sheet_rows(Manifest(Place.parse(tmp_path)))
    assert (len(shown.rows), shown.sides, shown.n_pairs) == (0, {}, 0)
