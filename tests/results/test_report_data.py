"""What ``diffstyle report`` writes: the data, the thumbnails, the folder."""

from __future__ import annotations

import datetime
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from support.report_runs import WHEN, key, made_up_picture, made_up_run, with_frechet
from support.synthetic_runs import pair_row, synthetic_run
from support.whole_jobs import CONTENTS, manifest, psnr, run_job

from diffstyle.errors import ConfigError
from pipeline.cli.main import main
from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest, manifest_rows
from pipeline.results.report import tables, write
from pipeline.results.scores import SCORES, Scores, score_rows
from pipeline.runner.verify import verify_run
from pipeline.storage.place import Place

HOSTILE = ['</script><script>alert("1")</script>', 'it\'s "quoted" & <b>bold</b>', "\U0001f600 \u2028 \\ x", "<!--"]


def place(folder: Path) -> Place:
    return Place.parse(str(folder))


def read(script: Path) -> dict:
    """The value that a script of the report sets."""
    name, _, text = script.read_text().partition(" = ")
    assert name.startswith("diffstyle.")
    assert text.endswith(";\n")
    return json.loads(text[:-2])


def facts(report: Path) -> dict:
    return read(report / "data" / "facts.js")


def pairs(report: Path) -> pd.DataFrame:
    """All chunks as a table, with the names of what their numbers mean."""
    said = facts(report)
    tables = []
    for n, name in enumerate(said["chunks"]):
        assert (report / name).read_text().startswith(f"diffstyle.pairs[{n * write._CHUNK}] = ")
        chunk = read(report / name)
        scores = chunk.pop("scores")
        troubles = chunk.pop("troubles")
        own = chunk.pop("own")
        table = pd.DataFrame({**chunk, **scores, **own})
        table["trouble"] = [troubles.get(str(n)) for n in range(len(table))]
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    for column, side in (("content", "contents"), ("style", "styles")):
        table[column] = [said[side][n]["key"] for n in table[column]]
    table["settings"] = [said["settings"][n]["id"] for n in table["setting"]]
    return table


def shown(report: Path, kind: str, number: int) -> np.ndarray:
    """The pixels of a cell of a sheet."""
    sheets = facts(report)[kind]
    cell, across = sheets["cell"], sheets["across"]
    sheet, at = divmod(number, across * across)
    y, x = divmod(at, across)
    with Image.open(report / sheets["files"][sheet]) as image:
        return np.asarray(image.convert("RGB"))[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell]


@pytest.fixture(scope="module", params=["folder", "webdataset"])
def real(request, tmp_path_factory):
    """A job of three contents, two styles, two gammas, and its report."""
    folder = tmp_path_factory.mktemp("job")
    content = {"folder": str(CONTENTS), "limit": 3}
    run_job(folder, f"pictures.to={request.param}", injection={"gamma": [0.3, 0.6]}, content=content)
    write.write_report(place(folder / "out"))
    return folder / "out"


def test_every_pair_once_with_its_sources_and_setting(real):
    said, rows = pairs(real / "report"), manifest(real)
    assert sorted(said["pair"]) == sorted(rows["pair"])
    joined = said.merge(rows, on="pair", suffixes=("", "_of_manifest"))
    for name, column in (("content", "content_key"), ("style", "style_key"), ("settings", "settings_of_manifest")):
        assert joined[name].tolist() == joined[column].tolist()
    assert [setting["words"] for setting in facts(real / "report")["settings"]] == ["gamma 0.3", "gamma 0.6"]
    for setting in facts(real / "report")["settings"]:
        (plan,) = rows.loc[rows["settings"] == setting["id"], "plan"].unique()
        assert setting["parameters"]["plan"] == plan


def test_thumbnails_are_of_the_results_and_of_their_sources(real):
    from pipeline.results.contact_sheets import read_picture
    from pipeline.shards.store import open_shards

    report = real / "report"
    rows = manifest(real).set_index("pair")
    for row in pairs(report).itertuples():  # small ones are kept as they are
        pixels = read_picture(place(real), rows.loc[row.pair, "picture"])
        np.testing.assert_array_equal(shown(report, "thumbnails", row.thumbnail), pixels)
    for side in ("content", "style"):
        store = open_shards(place(real / "shards" / side))
        prepared = {row["key"]: store.read(row) for row in store.unique()}
        for source in facts(report)[f"{side}s"]:
            np.testing.assert_array_equal(shown(report, "sources", source["thumbnail"]), prepared[source["key"]])


def test_a_report_harms_no_output(real):
    assert verify_run(place(real), lambda line: None).ok


def test_scores_are_joined_by_pair_and_the_newest_counts(tmp_path):
    out = made_up_run(tmp_path / "out", ["a", "b"], ["x", "y"])
    rows = manifest(out)
    newer = dict.fromkeys(SCORES, 0.75)
    again = {"pair": rows["pair"][2], **newer, "created": WHEN + datetime.timedelta(days=1)}
    Scores(place(out)).commit("a-later-part", score_rows([again]))
    write.write_report(place(out))
    table = pairs(out / "report").set_index("pair")
    expected = pd.read_parquet(out / "scores").sort_values("created").drop_duplicates("pair", keep="last")
    expected = expected.set_index("pair")
    for name in SCORES:
        assert table[name].to_dict() == pytest.approx(expected[name].astype(float).to_dict(), rel=1e-4)
    assert (table.loc[rows["pair"][2], list(SCORES)] == 0.75).all()
    assert [(score["name"], score["better"]) for score in facts(out / "report")["scores"]] == [
        (name, better) for name, (better, _) in SCORES.items()
    ]


def test_frechet_distances_are_told_by_setting(tmp_path):
    out = made_up_run(tmp_path / "out", ["a", "b"], ["x"], (0.25, 0.75))
    with_frechet(out)
    said = facts(write.write_report(place(out)).page.parent)
    gamma = {one["id"]: one["gamma"] for one in said["settings"]}
    assert [
        (one["network"], said["settings"][one["setting"]]["gamma"], one["content"], one["style"])
        for one in said["frechet"]
    ] == [("look", 0.25, 1.5, None), ("look", 0.75, 2.5, None)]
    assert sorted(gamma.values()) == [0.25, 0.75]
    assert all(
        (one["content_pictures"], one["style_pictures"], one["pictures"]) == (2, 1, 2) for one in said["frechet"]
    )


def test_a_run_without_scores_says_how_to_get_them(tmp_path):
    out = made_up_run(tmp_path / "out", ["a"], ["x"], scored=False)
    result = CliRunner().invoke(main, ["report", str(out)])
    assert result.exit_code == 0
    assert "1 pair has no scores; `diffstyle score" in result.stdout
    assert facts(out / "report")["scores"] == []


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_can_end_a_script_or_the_page(tmp_path, name):
    out = made_up_run(tmp_path / "<img src=x> &", [name], [name])
    write.write_report(place(out))
    report = out / "report"
    for script in (report / "data").iterdir():
        text = script.read_bytes()
        assert b"<" not in text
        assert text.isascii()
    (content,) = facts(report)["contents"]
    assert content["key"] == key(name)
    assert content["name"] == name
    assert content["caption"] == f"a drawing of {name}"
    page = (report / "index.html").read_text()
    assert "<img" not in page
    assert "<title>&lt;img src=x&gt; &amp;" in page


def test_the_output_of_a_new_job_is_called_after_its_folder(tmp_path):
    out = made_up_run(tmp_path / "faces" / "results", ["a"], ["x"])
    write.write_report(place(out))
    assert facts(out / "report")["title"] == "faces"
    assert "<title>faces" in (out / "report" / "index.html").read_text()


def test_what_has_no_picture_says_why(tmp_path):
    out = made_up_run(tmp_path / "out", ["a", "b"], ["x", "y"], pictures=4)
    rows = manifest(out).to_dict("records")
    failed = {**{name: rows[0][name] for name in MANIFEST_SCHEMA.names}, "pair": "failed", "status": "failed"}
    failed |= {"error": "the device ran out of memory", "picture": None, "picture_hash": None}
    failed = {name: None if isinstance(value, float) and value != value else value for name, value in failed.items()}
    Manifest(place(out)).commit("failed-one", manifest_rows([failed]))
    missing, changed = rows[1]["picture"], rows[2]["picture"]
    (out / missing).unlink()
    (out / changed).write_bytes(made_up_picture(99, 32))
    result = CliRunner().invoke(main, ["report", str(out), "--quiet"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("2 pictures are missing or damaged")
    table = pairs(out / "report").set_index("pair")
    assert table.loc["failed", "trouble"] == ["failed", "the device ran out of memory"]
    for row, word in ((rows[1], "missing"), (rows[2], "bytes have changed")):
        kind, why = table.loc[row["pair"], "trouble"]
        assert kind == "damaged"
        assert why.startswith(row["picture"])
        assert word in why
    assert table.loc[["failed", rows[1]["pair"], rows[2]["pair"]], "thumbnail"].tolist() == [-1, -1, -1]
    assert table.loc[[rows[0]["pair"], rows[3]["pair"]], "trouble"].isna().all()


def test_rejects_are_listed_with_their_reasons(tmp_path):
    broken = tmp_path / "contents"
    broken.mkdir()
    for file in sorted(CONTENTS.iterdir())[:1]:
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    run_job(tmp_path, content={"folder": str(broken)})
    write.write_report(place(tmp_path / "out"))
    (reject,) = facts(tmp_path / "out" / "report")["rejects"]
    assert reject["side"] == "content"
    assert reject["source"].endswith("broken.png")
    assert reject["reason"]


def test_pictures_in_tars_are_shown_large_from_sheets(tmp_path):
    out = made_up_run(tmp_path / "out", ["a", "b", "c"], ["x"], tar=True, side=160, pictures=3)
    write.write_report(place(out))
    for n, row in enumerate(pairs(out / "report").itertuples()):
        with Image.open(io.BytesIO(made_up_picture(n, 160))) as image:
            assert psnr(shown(out / "report", "large", row.large), np.asarray(image)) > 30
            small = np.asarray(image.resize((96, 96), Image.Resampling.BICUBIC))
        assert psnr(shown(out / "report", "thumbnails", row.thumbnail), small) > 30


def test_a_lost_tar_costs_its_own_pictures(tmp_path):
    out = made_up_run(tmp_path / "out", ["a"], ["x", "y"], tar=True)
    (out / "pictures" / "all.tar").unlink()
    report = write.write_report(place(out))
    assert report.unreadable == 2
    assert pairs(out / "report")["trouble"].tolist() == [["damaged", "pictures/all.tar: missing"]] * 2


@pytest.mark.parametrize("pool_from", [0, 2000], ids=["processes", "alone"])
def test_many_pictures_are_cut_into_sheets_and_chunks(tmp_path, monkeypatch, pool_from):
    from pipeline.results.report import sheets

    monkeypatch.setattr(sheets, "_POOL_FROM", pool_from)
    monkeypatch.setattr(sheets, "SHEET_SIDE", 96)  # nine cells of 32
    monkeypatch.setattr(write, "_CHUNK", 7)
    out = made_up_run(tmp_path / "out", [f"c{n}" for n in range(5)], [f"s{n}" for n in range(4)], pictures=20)
    write.write_report(place(out))
    said = facts(out / "report")
    assert (len(said["thumbnails"]["files"]), len(said["chunks"])) == (3, 3)
    table = pairs(out / "report")
    assert len(table) == 20
    for n, row in enumerate(table.itertuples()):
        with Image.open(io.BytesIO(made_up_picture(n, 32))) as image:
            assert psnr(shown(out / "report", "thumbnails", row.thumbnail), np.asarray(image)) > 25


def test_cost_is_of_the_pairs_made(tmp_path):
    out = made_up_run(tmp_path / "out", ["a", "b"], ["x", "y"], (0.1, 0.2))
    write.write_report(place(out))
    assert facts(out / "report")["cost"] == {"seconds": 4.0, "calls": 8 * 68}


def test_another_report_replaces_the_first_and_nothing_else_is_replaced(tmp_path):
    out = made_up_run(tmp_path / "out", ["a"], ["x"])
    elsewhere = tmp_path / "a page" / "of it"
    write.write_report(place(out), elsewhere)
    (elsewhere / "thumbnails" / "left-over.webp").write_bytes(b"old")
    written = write.write_report(place(out), elsewhere)
    assert not (elsewhere / "thumbnails" / "left-over.webp").exists()
    files = [file for file in elsewhere.rglob("*") if file.is_file()]
    assert (written.files, written.size) == (len(files), sum(file.stat().st_size for file in files))
    assert facts(elsewhere)["pictures"] == "../../out/"

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    result = CliRunner().invoke(main, ["report", str(out), "--out", str(mine)])
    assert result.exit_code == 2
    assert result.stderr == f"error: --out: {mine} holds files that are no report; name another folder\n"
    assert [file.name for file in mine.iterdir()] == ["thesis.txt"]


def test_where_nothing_was_run(tmp_path):
    with pytest.raises(ConfigError, match="no results here; run a job first"):
        write.write_report(place(tmp_path))
    assert not (tmp_path / "report").exists()


def test_more_pairs_than_a_page_can_show_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    out = made_up_run(tmp_path / "out", ["a", "b"], ["x"])
    monkeypatch.setattr(tables, "MOST_PAIRS", 1)
    result = CliRunner().invoke(main, ["report", str(out)])
    assert result.exit_code == 2
    assert "2 pairs are more than a page can show (1 at most)" in result.output
    assert "`diffstyle select`" in result.output
    assert not (out / "report").exists()


def test_a_report_of_a_store_needs_a_folder(monkeypatch):
    with pytest.raises(ConfigError, match="name a folder of its disk by --out"):
        write.write_report(Place.parse("s3://bucket/run"))


def test_settings_come_in_order_and_the_plain_one_opens_first(tmp_path):
    """The page shows its first setting: without a mask before with one, and omega 2 before 10."""
    mask = '{"rectangle":[0.5,0.0,1.0,1.0]}'
    varied = [{"mask": mask}, {"omega": 10.0}, {"omega": 2.0}, {}]
    rows = [
        {**pair_row("a", "x"), "pair": f"{n}" * 32, "settings": f"{9 - n}" * 32, "omega": 0.0, "mask": None, **one}
        for n, one in enumerate(varied)
    ]
    words = [one["words"] for one in tables.read_tables(synthetic_run(tmp_path, rows)).settings]
    assert words == [
        "omega 0, no mask",
        "omega 0, mask rectangle 0.5, 0, 1, 1",
        "omega 2, no mask",
        "omega 10, no mask",
    ]
