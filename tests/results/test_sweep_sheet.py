"""The sheet of a sweep, the names of sheets, and that none outlives what it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.whole_jobs import SIX_PAIRS, job_file, manifest, run_job

from pipeline.cli.prune import prune
from pipeline.results import contact_sheets, sweep_sheet
from pipeline.results.manifest import Manifest
from pipeline.results.sheet_rows import sheet_rows
from pipeline.shards.store import open_shards
from pipeline.storage.place import Place

CELL, ASIDE = 96 + 2, 112
SWEEP = {**SIX_PAIRS["injection"], "gamma": [0.6, 0.3], "mask": [{"rectangle": [0.5, 0, 1, 1]}, None]}


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    run_job(folder, **{**SIX_PAIRS, "injection": SWEEP})
    return folder / "out"


def draw(out: Path) -> tuple[np.ndarray, int]:
    """The sheet's pixels, and where its first row begins."""
    (file,) = sweep_sheet.sweep_sheet(
        Place.parse(out),
        sheet_rows(Manifest(out)),
        [Place.parse(out / "shards" / side) for side in ("content", "style")],
    )
    with Image.open(str(file)) as image:
        pixels = np.asarray(image)
    rows = [y for y in range(len(pixels)) if (pixels[y : y + 4, ASIDE : ASIDE + 96] != 255).any(-1).all()]
    return pixels, rows[0]


def test_pairs_down_settings_across(out):
    pixels, top = draw(out)
    rows = manifest(out)
    contents, styles = (sorted(rows[f"{side}_key"].unique()) for side in ("content", "style"))
    order = [(contents[0], styles[0]), (contents[1], styles[1]), (contents[2], styles[0])]
    order += [(contents[0], styles[1]), (contents[1], styles[0]), (contents[2], styles[1])]
    columns = [(0.3, False), (0.3, True), (0.6, False), (0.6, True)]
    sources = {}
    for side in ("content", "style"):
        store = open_shards(str(out / "shards" / side))
        sources |= {row["key"]: store.read(row) for row in store.unique()}
    for y, (content, style) in enumerate(order):
        shown = [sources[content], sources[style]]
        of_pair = rows[(rows["content_key"] == content) & (rows["style_key"] == style)]
        for gamma, masked in columns:
            (picture,) = of_pair[(of_pair["gamma"] == gamma) & (of_pair["mask"].notna() == masked)]["picture"]
            shown.append(contact_sheets.read_picture(Place.parse(out), picture))
        for x, picture in enumerate(shown):
            left, upper = ASIDE + x * CELL + 6 * (x > 1), top + y * CELL
            drawn = pixels[upper : upper + 96, left : left + 96]
            np.testing.assert_array_equal(drawn, picture.repeat(3, 0).repeat(3, 1), err_msg=f"row {y}, column {x}")


def test_settings_are_said_above_their_columns(out, monkeypatch):
    from PIL import ImageDraw

    texts: dict[str, None] = {}  # those of several lines are drawn line by line as well
    for name in ("text", "multiline_text"):
        plain = getattr(ImageDraw.ImageDraw, name)

        def noting(pen, at, text, *rest, plain=plain, **more):
            texts[text] = None
            return plain(pen, at, text, *rest, **more)

        monkeypatch.setattr(ImageDraw.ImageDraw, name, noting)
    draw(out)
    assert "4 settings side by side, all with t_edit 400" in " ".join(texts)
    joined = [text.replace("\n", "") for text in texts]
    order = ("gamma 0.3, no mask", "gamma 0.3, mask rectangle 0.5, 0, 1, 1", "gamma 0.6, no mask")
    assert "omega" not in " ".join(joined)
    assert [text for text in joined if text in order] == list(order)
    monkeypatch.setattr(sweep_sheet, "MAX_ROWS", 2)
    monkeypatch.setattr(sweep_sheet, "MAX_COLUMNS", 3)
    draw(out)
    assert "2 of 6 pairs and 3 of 4 settings shown" in texts


def test_names_tell_what_differs_and_the_plain_ones_come_first(out):
    names = sorted(path.name for path in (out / "contact-sheets").iterdir())
    assert [name.rpartition("-")[0] for name in names[:-1]] == [
        "gamma-0.3",
        "gamma-0.3-masked-0.5-0-1-1",
        "gamma-0.6",
        "gamma-0.6-masked-0.5-0-1-1",
    ]
    assert names[-1] == "sweep.png"
    assert {path.name for path in (out / "pictures").iterdir()} == {name.removesuffix(".png") for name in names[:-1]}


def test_an_output_of_before_goes_on_under_the_names_that_its_rows_have(tmp_path):
    """Folders and sheets were named by gamma alone: pairs there count, and their sheets don't stay beside the new."""
    run_job(tmp_path, **{**SIX_PAIRS, "injection": SWEEP})
    out = tmp_path / "out"
    store = Manifest(out).store
    for part in store.parts():
        rows = store.part_rows(part, contact_sheets.pa.schema(Manifest(out).table().schema))
        pictures = [one.replace("-masked-0.5-0-1-1", "") for one in rows["picture"].to_pylist()]
        store.commit(part, rows.set_column(rows.schema.get_field_index("picture"), "picture", [pictures]))
    for path in [*(out / "pictures").iterdir(), *(out / "contact-sheets").iterdir()]:
        path.rename(path.with_name(path.name.replace("-masked-0.5-0-1-1", "")))
    before = {path: path.read_bytes() for path in (out / "pictures").rglob("*.png")}
    result = run_job(tmp_path, **{**SIX_PAIRS, "injection": SWEEP, "content": {**SIX_PAIRS["content"], "limit": 4}})
    assert (result.counts.pairs_there, result.counts.pairs_made) == (24, 8)
    assert {path: path.read_bytes() for path in before} == before
    assert len(list((out / "contact-sheets").glob("gamma-*.png"))) == 4


def test_nothing_is_left_over(tmp_path):
    run_job(tmp_path, **{**SIX_PAIRS, "injection": SWEEP})
    sheets = tmp_path / "out" / "contact-sheets"
    assert (sheets / "sweep.png").is_file()
    one = job_file(tmp_path, **{**SIX_PAIRS, "injection": SWEEP, "output": "out"})
    one.write_text(one.read_text().replace("  - 0.3\n", ""))
    prune.main([str(one), "--yes"], standalone_mode=False)
    assert sorted(path.name.rpartition("-")[0] for path in sheets.iterdir()) == [
        "gamma-0.6",
        "gamma-0.6-masked-0.5-0-1-1",
    ]
    run_job(tmp_path, **{**SIX_PAIRS, "injection": {**SWEEP, "gamma": 0.6}})
    assert (sheets / "sweep.png").is_file()


def test_one_setting_is_no_sweep(tmp_path):
    result = run_job(tmp_path, **SIX_PAIRS)
    assert len(result.contact_sheets) == 1
    assert not (tmp_path / "out" / "contact-sheets" / "sweep.png").exists()
