"""Contact sheets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support.report_runs import made_up_run
from support.whole_jobs import CONTENTS, manifest, run_job

from diffstyle.images import prepare
from pipeline.results import contact_sheets
from pipeline.results.manifest import Manifest, manifest_rows
from pipeline.results.prune import drop_leavings, find_leavings
from pipeline.results.retention import Wanted
from pipeline.results.sheet_rows import sheet_rows
from pipeline.storage.identity import digest
from pipeline.storage.pair_ids import PairIds
from pipeline.storage.place import Place

LARGER = 3  # a picture of 32 pixels is shown with 96
CELL = 96 + 2
TITLE = 20 + 8 + 30  # a line, and the names of the styles
ASIDE = 112  # the names of the contents


@pytest.fixture(scope="module", params=["folder", "webdataset"])
def out(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    run = run_job(
        folder,
        f"pictures.to={request.param}",
        "injection.gamma=[0.3, {linear: [0.6, 0.2]}]",
        content={"folder": str(CONTENTS), "limit": 3},
    )
    assert len(run.contact_sheets) == 3
    return folder / "out"


def test_a_sheet_for_each_recipe_named_as_its_folder(out):
    rows = manifest(out).drop_duplicates("settings")
    names = {path.stem for path in (out / "contact-sheets").glob("gamma-*.png")}
    assert {name.rpartition("-")[2] for name in names} == {settings[:8] for settings in rows["settings"]}
    assert {name.rpartition("-")[0] for name in names} == {"gamma-0.3", "gamma-linear"}
    folders = {path.name for path in (out / "pictures").iterdir() if path.is_dir()}
    assert not folders or folders == names


def test_contents_down_styles_across_results_between(out):
    rows = manifest(out)
    rows = rows[rows["gamma"] == 0.3].sort_values(["content_key", "style_key"])
    (sheet,) = (out / "contact-sheets").glob("gamma-0.3-*.png")
    with Image.open(sheet) as image:
        assert image.size == (ASIDE + 3 * CELL + 6, TITLE + 4 * CELL + 6)
        pixels = np.asarray(image)
    assert (cell(pixels, 0, 0) == 255).all()
    for n, source in enumerate(rows["style_source"].unique(), 1):
        np.testing.assert_array_equal(cell(pixels, 0, n), prepared(source))
    for n, source in enumerate(rows["content_source"].unique(), 1):
        np.testing.assert_array_equal(cell(pixels, n, 0), prepared(source))
    for n, name in enumerate(rows["picture"]):
        np.testing.assert_array_equal(
            cell(pixels, n // 2 + 1, n % 2 + 1), contact_sheets.read_picture(Place.parse(str(out)), name)
        )


def cell(pixels: np.ndarray, row: int, column: int) -> np.ndarray:
    """The picture of a cell, at its own size."""
    y, x = (TITLE + row * CELL + 6 * (row > 0), ASIDE + column * CELL + 6 * (column > 0))
    larger = pixels[y : y + 96, x : x + 96]
    small = larger[::LARGER, ::LARGER]
    np.testing.assert_array_equal(small.repeat(LARGER, 0).repeat(LARGER, 1), larger)
    return small


def prepared(source: str) -> np.ndarray:
    with Image.open(source) as image:
        return np.asarray(prepare(image, 32))


def test_sheets_come_in_the_order_of_their_names(tmp_path):
    """Twenty recipes, listed in another order: the first twelve by name are drawn, whatever their digests are."""
    out = Place.parse(str(tmp_path))
    (out / "pictures" / "one.png").write_bytes((CONTENTS / "adventurer-00025.png").read_bytes())
    keys = {"content_key": "c", "content_image": "c", "style_key": "s", "style_image": "s"}
    rows = [
        {
            "status": "ok",
            "gamma": n / 20,
            "settings": digest(f"settings {n}"),
            "picture": "pictures/one.png",
            "width": 32,
            **keys,
        }
        for n in (7, 3, 19, 0, 12, 5, 1, 18, 9, 2, 16, 4, 11, 6, 17, 8, 15, 10, 14, 13)
    ]
    sheets = contact_sheets.contact_sheets(out, sheet_rows(manifest_rows(rows)), [])
    names = sorted(f"gamma-{n / 20:g}-{digest(f'settings {n}')[:8]}" for n in range(20))
    assert [sheet.name for sheet in sheets] == [f"{name}.png" for name in names[:12]]
    assert sorted(path.stem for path in (tmp_path / "contact-sheets").iterdir()) == names[:12]


def test_large_jobs_show_a_part(out, monkeypatch, tmp_path):
    monkeypatch.setattr(contact_sheets, "MAX_ROWS", 2)
    monkeypatch.setattr(contact_sheets, "MAX_COLUMNS", 1)
    monkeypatch.setattr(contact_sheets, "MAX_SHEETS", 1)
    place = Place.parse(str(out))
    (sheet,) = contact_sheets.contact_sheets(place, sheet_rows(Manifest(place)), [])
    with Image.open(str(sheet)) as image:
        assert image.size == (ASIDE + 2 * CELL + 6, TITLE + 20 + 3 * CELL + 6)  # two lines: it says what it shows
        assert (np.asarray(image)[TITLE + 20 :, ASIDE : ASIDE + 96] == 255).all()  # no shards, so no sources to show


@pytest.fixture
def written_on_sheets(monkeypatch):
    """Every text that is drawn."""
    from PIL import ImageDraw

    texts = []
    for name in ("text", "multiline_text"):
        draw = getattr(ImageDraw.ImageDraw, name)

        def noting(pen, at, text, *rest, draw=draw, **more):
            texts.append(text.replace("\n", ""))
            return draw(pen, at, text, *rest, **more)

        monkeypatch.setattr(ImageDraw.ImageDraw, name, noting)
    return texts


def test_names_are_on_both_axes_and_the_settings_in_the_title(out, written_on_sheets):
    place = Place.parse(str(out))
    contact_sheets.contact_sheets(place, sheet_rows(Manifest(place)), [])
    assert {"gamma 0.3, t_edit 200", "gamma {linear: [0.6, 0.2]}, t_edit 200"} <= set(written_on_sheets)
    rows = manifest(out)
    for side in ("content", "style"):
        assert {key.rpartition("-")[0] for key in rows[f"{side}_key"]} <= set(written_on_sheets)


def test_a_sheet_says_what_part_it_shows(tmp_path, written_on_sheets):
    out = made_up_run(tmp_path / "out", [f"content {n:02}" for n in range(24)], [f"style {n}" for n in range(3)])
    place = Place.parse(str(out))
    contact_sheets.contact_sheets(place, sheet_rows(Manifest(place)), [])
    assert "12 of 24 contents shown" in written_on_sheets
    assert "content 11" in written_on_sheets
    assert "content 12" not in written_on_sheets


def test_a_name_that_is_too_long_is_cut(tmp_path, written_on_sheets):
    out = made_up_run(tmp_path / "out", ["a very long name of a picture" * 9], ["x" * 200])
    place = Place.parse(str(out))
    contact_sheets.contact_sheets(place, sheet_rows(Manifest(place)), [])
    assert sum(text.endswith("...") for text in set(written_on_sheets)) == 2


def test_prune_leaves_no_sheet_of_settings_that_are_gone(tmp_path):
    out = made_up_run(tmp_path / "out", ["a", "b"], ["x"], (0.25, 0.75))
    place = Place.parse(str(out))
    written = Manifest(place)
    contact_sheets.contact_sheets(place, sheet_rows(written), [])
    (out / "contact-sheets" / "mine.png").write_bytes(b"a note of somebody")
    rows = manifest(out)
    wanted = Wanted(PairIds.of(rows.loc[rows["gamma"] == 0.75, "pair"]))
    leavings = find_leavings(written, wanted)
    drop_leavings(written, leavings, wanted)
    left = sorted(path.name.rpartition("-")[0] or path.name for path in (out / "contact-sheets").iterdir())
    assert left == ["gamma-0.75", "mine.png"]
    assert not find_leavings(written, wanted).parts
