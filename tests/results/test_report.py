"""Contact sheets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support.whole_jobs import CONTENTS, manifest, run_job

from diffstyle.images import prepare
from pipeline.results import contact_sheets
from pipeline.results.manifest import manifest_rows
from pipeline.storage.identity import digest
from pipeline.storage.place import Place

CELL = 32 + 2


@pytest.fixture(scope="module", params=["folder", "webdataset"])
def out(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    run = run_job(
        folder,
        f"pictures.to={request.param}",
        "injection.gamma=[0.3, {linear: [0.6, 0.2]}]",
        content={"folder": str(CONTENTS), "limit": 3},
    )
    assert len(run.contact_sheets) == 2
    return folder / "out"


def test_a_sheet_for_each_recipe_named_as_its_folder(out):
    rows = manifest(out).drop_duplicates("settings")
    names = {path.stem for path in (out / "contact-sheets").glob("*.png")}
    assert {name.rpartition("-")[2] for name in names} == {settings[:8] for settings in rows["settings"]}
    assert {name.rpartition("-")[0] for name in names} == {"gamma-0.3", "gamma-linear"}
    folders = {path.name for path in (out / "pictures").iterdir() if path.is_dir()}
    assert not folders or folders == names


def test_contents_down_styles_across_results_between(out):
    rows = manifest(out)
    rows = rows[rows["gamma"] == 0.3].sort_values(["content_key", "style_key"])
    (sheet,) = (out / "contact-sheets").glob("gamma-0.3-*.png")
    with Image.open(sheet) as image:
        assert image.size == (3 * CELL + 6, 4 * CELL + 6)
        pixels = np.asarray(image)
    assert (pixels[:32, :32] == 255).all()
    for n, source in enumerate(rows["style_source"].unique(), 1):
        np.testing.assert_array_equal(cell(pixels, 0, n), prepared(source))
    for n, source in enumerate(rows["content_source"].unique(), 1):
        np.testing.assert_array_equal(cell(pixels, n, 0), prepared(source))
    for n, name in enumerate(rows["picture"]):
        np.testing.assert_array_equal(
            cell(pixels, n // 2 + 1, n % 2 + 1), contact_sheets.read_picture(Place.parse(str(out)), name)
        )


def cell(pixels: np.ndarray, row: int, column: int) -> np.ndarray:
    y, x = (place * CELL + 6 * (place > 0) for place in (row, column))
    return pixels[y : y + 32, x : x + 32]


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
    sheets = contact_sheets.contact_sheets(out, manifest_rows(rows), [])
    names = sorted(f"gamma-{n / 20:g}-{digest(f'settings {n}')[:8]}" for n in range(20))
    assert [sheet.name for sheet in sheets] == [f"{name}.png" for name in names[:12]]
    assert sorted(path.stem for path in (tmp_path / "contact-sheets").iterdir()) == names[:12]


def test_large_jobs_show_a_part(out, monkeypatch, tmp_path):
    from pipeline.results.manifest import Manifest

    monkeypatch.setattr(contact_sheets, "MAX_ROWS", 2)
    monkeypatch.setattr(contact_sheets, "MAX_COLUMNS", 1)
    monkeypatch.setattr(contact_sheets, "MAX_SHEETS", 1)
    place = Place.parse(str(out))
    (sheet,) = contact_sheets.contact_sheets(place, Manifest(place).table(), [])
    with Image.open(str(sheet)) as image:
        assert image.size == (2 * CELL + 6, 3 * CELL + 6)
        assert (np.asarray(image)[:, :32] == 255).all()  # no shards, so no sources to show
