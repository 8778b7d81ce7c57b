"""`diffstyle again`: a row makes its picture again, to the byte, or says in one line why it can't."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from support.whole_jobs import SIX_PAIRS, manifest, paint, run_job

from diffstyle.errors import ConfigError
from pipeline.cli.again import again as command
from pipeline.cli.main import main
from pipeline.results.select.choose import Rules, choose
from pipeline.results.select.dataset import write_dataset
from pipeline.results.select.splits import parse_splits
from pipeline.runner.again import Again, again
from pipeline.storage.identity import digest
from pipeline.storage.place import Place

ALL = Rules()
FORMS = ("imagefolder", "parquet", "webdataset")


def make_run(folder: Path, **changes: Any) -> Path:
    """A run over own pictures at two gammas, without a mask and with two kinds of them."""
    for n in range(3):
        paint(folder / "contents" / "deep" / f"c{n}.png", n)
        paint(folder / "masks" / f"c{n}.png", n + 50)
    for n in range(2):
        paint(folder / "styles" / f"s{n}.png", n + 100)
    sources = {"content": str(folder / "contents"), "style": str(folder / "styles")}
    masks = [None, {"rectangle": [0.5, 0, 1, 1]}, {"folder": str(folder / "masks")}]
    injection = {**SIX_PAIRS["injection"], "gamma": [0.3, 0.6], "mask": masks}
    run_job(folder, **{**SIX_PAIRS, **sources, "injection": injection, **changes})
    return folder / "out"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with the run and a data set of each form."""
    folder = tmp_path_factory.mktemp("made")
    run = make_run(folder)
    for form in FORMS:
        select(run, folder / form, form, Rules(splits=parse_splits("train=0.6,test=0.4"), splits_by="style", seed=1))
    return folder


@pytest.fixture
def own(made, tmp_path) -> Path:
    """A copy that a test may damage; its job still names the first one's sources, so they are given."""
    return Path(shutil.copytree(made, tmp_path / "own"))


def select(run: Path, target: Path, form: str, rules: Rules = ALL, triplets: bool = False) -> Path:
    place = Place.parse(run)
    write_dataset(
        place, choose(place, rules), Place.parse(target), form, triplets=triplets, overwrite=False, command="select"
    )
    return target


def rows_of(dataset: Path, form: str) -> dict[str, pd.DataFrame]:
    """Split -> its rows, as pandas reads them."""
    if form == "imagefolder":
        return {file.parent.name: pd.read_json(file, lines=True) for file in dataset.glob("*/metadata.jsonl")}
    if form == "parquet":
        return {f.name.partition("-")[0]: pd.read_parquet(f) for f in sorted((dataset / "data").glob("*.parquet"))}
    import webdataset as wds

    splits = {}
    for file in sorted((dataset / "data").glob("*.tar")):
        samples = wds.WebDataset(str(file), shardshuffle=False)
        splits[file.name.partition("-")[0]] = pd.DataFrame([json.loads(sample["json"]) for sample in samples])
    return splits


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_a_data_set_make_their_pictures_again(made, form):
    splits = rows_of(made / form, form)
    assert set(splits) == {"train", "test"}
    there = manifest(made / "out").set_index("pair")
    masks = set()
    for split, rows in splits.items():
        for number in (0, 4, len(rows) - 1):
            row = rows.iloc[number]
            result = again(made / form, str(number), split=split)
            assert result.same
            assert result.psnr == np.inf
            assert result.row["pair"] == row["pair"]
            assert result.data == (made / "out" / there.loc[row["pair"], "picture"]).read_bytes()
            masks.add(str(row["mask"] or None)[:8])
    assert len(masks) > 1


def test_a_row_by_its_id_its_file_and_its_names(made):
    row = manifest(made / "out").iloc[7]
    dataset_name = f"{row.content_key}__{row.style_key}__{row.pair[:12]}.png"
    for folder, name in (
        (made / "out", row.pair),
        (made / "out", row.pair[:8]),
        (made / "out", row.picture),
        (made / "out", row.picture.removeprefix("pictures/")),
        (made / "parquet", row.pair[:10]),
        (made / "parquet", dataset_name),
    ):
        result = again(folder, name)
        assert (result.row["pair"], result.same) == (row.pair, True)


def test_a_run_of_one_setting_is_asked_by_content_and_style(tmp_path):
    run = make_run(tmp_path, injection=SIX_PAIRS["injection"])
    result = again(run, content="c1", style="s0.png")
    assert result.same
    assert Path(result.row["content_source"]).name == "c1.png"
    with pytest.raises(ConfigError, match=r"2 rows fit content c1: .*say which, by its id$"):
        again(run, content="c1")


def test_several_that_fit_are_told_apart_by_their_settings(made):
    with pytest.raises(ConfigError, match=r"6 rows fit content c1 with style s0: ") as told:
        again(made / "out", content="c1", style="s0")
    pair = re.search(r"(\w{12}) \(c1 in s0, gamma 0.6, mask rectangle 0.5, 0, 1, 1\)", str(told.value))
    assert pair is not None
    result = again(made / "out", pair[1], content="c1")
    assert result.same
    assert (result.row["gamma"], "rectangle" in result.row["mask"]) == (0.6, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "99"}, "no row 99; rows are counted from 0, and there are train"),
        ({"name": "0"}, r"2 rows fit row 0: .*; say which: --split train or test$"),
        ({"content": "c1", "style": "s0"}, r"6 rows fit .*; say which, by its number and --split$"),
        (
            {"name": "abcdef123"},
            "no row abcdef123; give the pair's id, its picture's file, or --content NAME and --style",
        ),
        ({"name": "c1.png"}, "no row c1.png; that is the name of a content: give it as --content c1.png$"),
        ({"name": "my c1"}, r"no row my c1; did you mean --content c1"),
        ({"name": "s7"}, r"no row s7; did you mean .*--style s"),
        ({"content": "c9", "style": "s0"}, r"no content c9 with style s0; no content is called c9; did you mean c"),
        ({"name": "0", "split": "validation"}, "--split validation: .* has train, test"),
        ({}, "which pair"),
    ],
)
def test_rows_that_are_not_there(made, arguments, message):
    with pytest.raises(ConfigError, match=message):
        again(made / "webdataset", **arguments)


def test_a_name_that_no_pair_of_a_run_has(made):
    with pytest.raises(ConfigError, match=r"no row s0; that is the name of a style: give it as --style s0$"):
        again(made / "out", "s0")


def test_a_folder_that_is_neither(tmp_path):
    with pytest.raises(ConfigError, match=r"neither a data set of `diffstyle select` nor the output folder of a run"):
        again(tmp_path, "0")


# ---- what is left of a run ----


def test_from_banks_then_shards_then_sources(own):
    run, sources = own / "out", {"contents": str(own / "contents"), "styles": str(own / "styles")}
    row = manifest(run).query("gamma == 0.6 and mask.notna() and mask.str.contains('folder')").iloc[0]

    def make(origin: str) -> Again:
        result = again(run, row.pair, **sources)
        assert result.same
        assert origin in result.content.origin
        assert origin in result.style.origin
        return result

    make("from the bank")
    shutil.rmtree(run / "banks")
    make("inverted again, from the shards")
    shutil.rmtree(run / "shards")
    result = make("inverted again, from ")
    assert result.content.origin.endswith(f"contents/deep/{Path(row.content_source).name}")


def test_a_data_set_alone(own):
    """Without its run: results alone need the sources, triplets need nothing but the model."""
    triplets = select(own / "out", own / "triplets", "webdataset", triplets=True)
    shutil.rmtree(own / "out")
    by_itself = again(triplets, "11")
    assert by_itself.same
    assert "the data set's own picture" in by_itself.content.origin
    result = again(own / "imagefolder", "3", split="train", run=own / "out")
    assert result.same
    assert "inverted again, from " in result.style.origin


def test_a_damaged_bank_is_told_and_not_used(own):
    for payload in (own / "out" / "banks" / "content" / "data").iterdir():
        payload.write_bytes(payload.read_bytes()[:-100])
    result = again(own / "out", manifest(own / "out").pair[0])
    assert result.same
    assert any("not used" in note and str(payload.parent) in note for note in result.notes)
    assert "from the shards" in result.content.origin


def test_a_changed_source_is_refused(own):
    run, row = own / "out", manifest(own / "out").iloc[0]
    shutil.rmtree(run / "banks")
    shutil.rmtree(run / "shards")
    file = own / "contents" / "deep" / Path(row.content_source).name
    paint(file, 77)
    given = {"contents": str(own / "contents"), "styles": str(own / "styles")}
    with pytest.raises(ConfigError, match=f"{file} has changed: it is not the picture .*--contents"):
        again(run, row.pair, **given)
    file.unlink()
    with pytest.raises(ConfigError, match=r"contents has no such picture; put it back, or name its data set"):
        again(run, row.pair, **given)


def test_a_changed_mask_is_refused(made, tmp_path):
    run = make_run(tmp_path)
    row = manifest(run).query("mask.notna() and mask.str.contains('folder')").iloc[0]
    mask = tmp_path / "masks" / Path(row.content_source).name
    paint(mask, 99)
    with pytest.raises(ConfigError, match=f"no longer has the mask that c. was made with: {mask} is another one now"):
        again(run, row.pair)
    mask.unlink()
    with pytest.raises(ConfigError, match=r"there is none of that name; put it back"):
        again(run, row.pair)


def test_other_weights_are_refused(made):
    pair = manifest(made / "out").pair[0]
    with pytest.raises(ConfigError, match=r"was made with tiny.* of fingerprint .* name the right ones with --model"):
        again(made / "out", pair, model="shipped:demo/model/demo-64.yaml")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("recipe", lambda text: text.replace('"gamma":0.', '"gamma":0.1'), "is not the one that its settings are"),
        ("recipe", lambda text: "", "made before rows said all that is needed"),
        ("content_image", lambda text: text[::-1], "its pair id is not that of its pictures and settings"),
        ("algorithm", lambda number: number + 1, "this release has 1; install the diffstyle that made it"),
    ],
)
def test_rows_that_were_changed_are_refused(own, column, value, message):
    change_row(own / "imagefolder", {column: value})
    with pytest.raises(ConfigError, match=message):
        again(own / "imagefolder", "0", split="train")


def change_row(dataset: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Change the first row of the split train, one without a mask; returns it."""
    file = dataset / "train" / "metadata.jsonl"
    rows = sorted((json.loads(line) for line in file.read_text().splitlines()), key=lambda row: row["mask"])
    for column, change in changes.items():
        rows[0][column] = change(rows[0][column])
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows[0]


# ---- other jobs ----


def test_a_job_from_banks(made, tmp_path):
    banks = {"content": {"bank": str(tmp_path / "c")}, "style": {"bank": str(tmp_path / "s")}}
    for side, letter in (("content", "c"), ("style", "s")):
        shutil.copytree(made / "out" / "banks" / side, tmp_path / letter)
    run = make_run(tmp_path, **banks, injection=SIX_PAIRS["injection"])
    pair = manifest(run).pair[2]
    assert again(run, pair).same
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(ConfigError, match=r"in no bank and no shards any more; the job takes the bank .*--styles"):
        again(run, pair)
    result = again(run, pair, styles=str(made / "styles"))
    assert result.same
    assert "inverted again" in result.style.origin


@pytest.mark.parametrize(
    "changes",
    [
        {"pictures": {"to": "webdataset", "format": "jpeg", "quality": 71}, "bank": {"h": "float16"}},
        {"style": {"sample": 2, "seed": 5}, "injection": {"t_boost": 300, "omega": 0.5}, "seed": [3, 4]},
        {"bank": {"h": "float16", "x_t": "float16"}},
        {"inversion": {"plan": "second-order", "steps": 5}, "compute": {"precision": "bfloat16"}},
    ],
    ids=["jpeg", "samples", "half", "second-order"],
)
def test_other_settings(tmp_path, changes):
    injection = {**SIX_PAIRS["injection"], **changes.get("injection", {})}
    run = make_run(tmp_path, **{**changes, "injection": injection})
    row = manifest(run).iloc[1]
    assert again(run, row.pair).same
    shutil.rmtree(run / "banks")
    result = again(run, row.pair)
    assert result.same, str(result)
    assert ("drawn again" in result.style.origin) == ("sample" in str(changes))


# ---- the command ----


def run_command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    return result.return_value, result.output


def test_the_command(made, tmp_path):
    code, text = run_command(
        str(made / "parquet"), "1", "--split", "test", "--out", f"{tmp_path}/a.png", "--strip", f"{tmp_path}/b.png"
    )
    assert code == 0
    assert "the same" in text.splitlines()[-3]
    digests = rows_of(made / "parquet", "parquet")["test"]["picture_hash"]
    assert digest((tmp_path / "a.png").read_bytes()) == digests[1]
    with Image.open(tmp_path / "b.png") as image:
        assert image.width > 3 * image.height


def test_a_name_that_does_not_say_the_format_is_told(tmp_path):
    run = make_run(tmp_path, pictures={"format": "jpeg"}, injection=SIX_PAIRS["injection"])
    pair = manifest(run).iloc[0].pair
    assert f"wrote {tmp_path}/a.jpeg\n" in run_command(str(run), pair, "--out", f"{tmp_path}/a.jpeg")[1]
    text = run_command(str(run), pair, "--out", f"{tmp_path}/a.png")[1]
    assert "a.png; it holds a JPEG, as the row's picture does, and not a PNG" in text


@pytest.mark.parametrize("option", ["--out", "--strip"])
def test_a_target_that_is_no_picture_by_its_name_is_refused_before_the_row_is_made(made, tmp_path, option):
    card = tmp_path / "README.md"
    card.write_text("a data card")
    result = CliRunner().invoke(main, ["again", str(made / "parquet"), "1", option, str(card)])
    assert (result.exit_code, card.read_text()) == (2, "a data card")
    assert f"{option} {card}: must end in one of .png" in result.output


def test_a_picture_that_is_not_the_same_is_measured(own):
    row = change_row(own / "imagefolder", {"picture_hash": lambda text: text[::-1]})
    file = own / "imagefolder" / "train" / row["file_name"]
    code, text = run_command(str(own / "imagefolder"), "0", "--split", "train")
    assert code == 3
    assert "not the same: the same pixels, encoded to other bytes" in text
    with Image.open(io.BytesIO(file.read_bytes())) as image:
        pixels = np.asarray(image).astype(int)
    Image.fromarray(np.where(pixels > 127, pixels - 10, pixels + 10).astype(np.uint8)).save(file)
    code, text = run_command(str(own / "imagefolder"), "0", "--split", "train")
    assert code == 3
    assert "not the same: 28.1 dB to the row's picture, no value further than 10 of 255 from it" in text


def test_another_batch_is_told(own):
    """What decides the last bits is in the row, and named where it differs."""
    change_row(
        own / "imagefolder",
        {
            "picture_hash": lambda text: text[::-1],
            "made_with": lambda text: text.replace('"torch":"', '"torch":"1.').replace(
                '"device":"cpu"', '"device":"cuda"'
            ),
        },
    )
    _, text = run_command(str(own / "imagefolder"), "0", "--split", "train")
    assert "note: the row was made on cuda, which is not there" in text
    assert "made then with batch 2" in text.splitlines()[-1]
    assert "torch 1." in text.splitlines()[-1]
