"""What `diffstyle select` writes: the run's own bytes, loaded as its users load them, whole or not at all."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures
from support.synthetic_runs import pair_row, synthetic_run
from support.whole_jobs import SIX_PAIRS, paint, run_job

from diffstyle.errors import ConfigError, DiffStyleError
from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.results.scores import SCORES_SCHEMA
from pipeline.results.select.choose import Rules, choose
from pipeline.results.select.dataset import Written, write_dataset
from pipeline.results.select.formats import features_of
from pipeline.results.select.licences import allowed_list
from pipeline.results.select.splits import parse_splits
from pipeline.storage.identity import digest
from pipeline.storage.place import Place

LICENCES = ("CC0 1.0", "CC BY 4.0", None)
SPLITS = Rules(splits=parse_splits("train=0.6,test=0.4"), seed=3)
FORMATS = ("imagefolder", "parquet", "webdataset")


def make_run(folder: Path, **changes: Any) -> Path:
    """A scored run of 30 pairs whose sources say their licence, or don't."""
    for side, n in (("contents", 6), ("styles", 5)):
        for i in range(n):
            file = paint(folder / side / f"{side[0]}{i}.png", i + (100 if side == "styles" else 0))
            if LICENCES[i % 3]:
                file.with_suffix(".json").write_text(json.dumps({"license": LICENCES[i % 3], "creator": f"Ada {i}"}))
    sources = {"content": str(folder / "contents"), "style": str(folder / "styles")}
    run_job(folder / "job", stages=("shard", "precompute", "inject", "score"), **{**SIX_PAIRS, **sources, **changes})
    return folder / "job" / "out"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def write(
    run: Path, target: Path | str, form: str = "imagefolder", rules: Rules = SPLITS, triplets: bool = True, **kw: Any
) -> Written:
    place = Place.parse(run)
    options = {"overwrite": False, "command": "diffstyle select ...", **kw}
    return write_dataset(place, choose(place, rules), Place.parse(target), form, triplets=triplets, **options)


def facts(run: Path) -> dict[str, dict[str, Any]]:
    return {row["pair"]: row for row in Manifest(run).table().to_pylist()}


def prepared(run: Path) -> dict[str, bytes]:
    """Key -> the prepared picture's bytes, from the run's shards."""
    found = {}
    for file in (run / "shards").glob("*/data/*.tar"):
        with tarfile.open(file) as tar:
            found |= {m.name[:-4]: tar.extractfile(m).read() for m in tar if m.name.endswith(".png")}  # type: ignore[union-attr]
    return found


def check_rows(run: Path, rows: list[tuple[str, dict[str, Any], dict[str, bytes]]]) -> None:
    """(split, row, pictures) of all rows: the right pairs, each with the bytes that the run has."""
    choice = choose(Place.parse(run), SPLITS)
    wanted = dict(zip(choice.table["pair"].to_pylist(), choice.table["split"].to_pylist(), strict=True))
    assert {row["pair"]: split for split, row, _ in rows} == wanted
    assert len(rows) == len(wanted) > 5
    assert set(wanted.values()) == {"train", "test"}
    there, shards = facts(run), prepared(run)
    for split, row, pictures in rows:
        fact = there[row["pair"]]
        assert row["split"] == split
        assert (row["content_key"], row["style_key"], row["gamma"]) == (fact["content_key"], fact["style_key"], 0.6)
        assert isinstance(row["content_kept"], float)
        assert row["content_source"] == Path(fact["content_source"]).name
        assert row["content_licence"] in ("CC0 1.0", "CC BY 4.0", "", None)
        assert pictures["image"] == (run / fact["picture"]).read_bytes()
        assert pictures["content"] == shards[row["content_key"]]
        assert pictures["style"] == shards[row["style_key"]]


def test_a_folder_of_pictures_in_a_plain_torch_loop(run, tmp_path):
    torch = pytest.importorskip("torch")
    written = write(run, tmp_path / "set")
    rows = []

    class Pictures(torch.utils.data.Dataset):
        def __init__(self, folder: Path) -> None:
            self.folder = folder
            self.rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, n: int) -> Any:
            row = self.rows[n]
            names = {"image": "file_name", "content": "content_file_name", "style": "style_file_name"}
            data = {name: (self.folder / row[column]).read_bytes() for name, column in names.items()}
            rows.append((self.folder.name, row, data))
            return torch.from_numpy(np.array(Image.open(io.BytesIO(data["image"])))), row["content_kept"]

    for split in ("train", "test"):
        for pixels, kept in torch.utils.data.DataLoader(Pictures(tmp_path / "set" / split), batch_size=1):
            assert pixels.shape == (1, 32, 32, 3)
            assert kept.dtype == torch.float64
    check_rows(run, rows)
    assert written.pairs == len(rows)
    assert written.bytes == sum(file.stat().st_size for file in (tmp_path / "set").rglob("*") if file.is_file())
    # A content is one file a split, however many styles it has.
    assert len(list((tmp_path / "set" / "train" / "content").iterdir())) == len(
        {row["content_key"] for split, row, _ in rows if split == "train"}
    )


@pytest.mark.parametrize("to", ["folder", "webdataset"])
def test_webdataset(run, tmp_path, to):
    import webdataset

    if to == "webdataset":
        run = make_run(tmp_path / "tars", pictures={"to": "webdataset"})
    write(run, tmp_path / "set", "webdataset")
    rows = []
    for split in ("train", "test"):
        shards = [str(file) for file in sorted((tmp_path / "set" / "data").glob(f"{split}-*.tar"))]
        for sample in webdataset.WebDataset(shards, shardshuffle=False):
            pictures = {"image": sample["png"], "content": sample["content.png"], "style": sample["style.png"]}
            row = json.loads(sample["json"])
            assert sample["__key__"] == f"{row['content_key']}__{row['style_key']}__{row['pair'][:12]}"
            rows.append((split, row, pictures))
    if to == "folder":
        check_rows(run, rows)
    else:
        there = facts(run)
        for _, row, pictures in rows:
            file, _, member = there[row["pair"]]["picture"].partition("#")
            with tarfile.open(run / file) as tar:
                assert pictures["image"] == tar.extractfile(member).read()  # type: ignore[union-attr]


def test_parquet(run, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.results.select.formats.SHARD_BYTES", 20_000)
    write(run, tmp_path / "set", "parquet")
    files = sorted((tmp_path / "set" / "data").glob("*.parquet"))
    assert [file.name for file in files][:1] == ["test-00000.parquet"]
    assert len(files) > 3
    rows = []
    for file in files:
        for row in pq.read_table(file).to_pylist():
            pictures = {name: row[name]["bytes"] for name in ("image", "content", "style")}
            assert row["image"]["path"].endswith(".png")
            rows.append((file.name.partition("-")[0], row, pictures))
    check_rows(run, rows)


@pytest.mark.slow
def test_load_dataset(run, tmp_path, monkeypatch):
    """Each form, its splits, columns and pictures, by the folder's name alone."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    there = facts(run)
    counts = choose(Place.parse(run), SPLITS).splits
    for form in FORMATS:
        write(run, tmp_path / form, form)
        loaded = datasets.load_dataset(str(tmp_path / form), cache_dir=str(tmp_path / "cache"))
        assert {split: len(rows) for split, rows in loaded.items()} == counts, form
        names = ("png", "content.png") if form == "webdataset" else ("image", "content")
        row = loaded["test"][0]
        said = row["json"] if form == "webdataset" else row
        assert said["style_gram"] > 0
        fact = there[said["pair"]]
        with Image.open(run / fact["picture"]) as picture:
            assert np.array_equal(np.asarray(row[names[0]]), np.asarray(picture))
        assert row[names[1]].size == (32, 32)


@pytest.mark.slow
def test_a_name_that_is_used_again_loads_the_new_choice(run, tmp_path, monkeypatch):
    """`datasets` keeps what it read under the folder's relative name, whatever its files are now."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    for form in FORMATS:
        for number in (2, 3):
            shutil.rmtree(tmp_path / "set", ignore_errors=True)
            write(
                run, tmp_path / "set", form, rules=Rules(best=f"-{('edges', 'style_gram')[number - 2]}", limit=number)
            )
            loaded = datasets.load_dataset("set", cache_dir=str(tmp_path / "cache"))["train"]
            assert len(loaded) == number, form


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_load_dataset_whose_scores_begin_late(tmp_path, monkeypatch, form):
    """Whoever guesses types from the first samples finds a score without any value."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    rows = [pair_row(str(n), "x", picture=f"pictures/{n}.png") for n in range(12)]
    rows.sort(key=lambda row: row["pair"])
    for row in rows:
        data = paint(tmp_path / "run" / row["picture"], int(row["content_key"])).read_bytes()
        row |= {"picture_bytes": len(data), "picture_hash": digest(data)}
    rows[-1] |= {"style_returns": 30.0, "content_label": "late"}
    synthetic_run(tmp_path / "run", rows)
    write(tmp_path / "run", tmp_path / "set", form, Rules(), triplets=False)
    loaded = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))["train"]
    values = [row["json"] if form == "webdataset" else row for row in loaded]
    assert [row["style_returns"] for row in values] == [None] * 11 + [30.0]
    assert values[-1]["content_label"] == "late"


@pytest.mark.parametrize("form", FORMATS)
def test_croissant(run, tmp_path, monkeypatch, form):
    monkeypatch.setenv("CROISSANT_CACHE", str(tmp_path / "cache"))  # read when it is imported
    croissant = pytest.importorskip("mlcroissant")
    write(run, tmp_path / "set", form)
    loaded = croissant.Dataset(jsonld=str(tmp_path / "set" / "croissant.json"))
    assert not loaded.metadata.ctx.issues.errors
    described = json.loads((tmp_path / "set" / "croissant.json").read_text())
    files = [one for one in described["distribution"] if one["@type"] == "cr:FileObject"]
    assert all((tmp_path / "set" / one["contentUrl"]).is_file() for one in files)
    records = list(loaded.records("pairs"))
    if form == "webdataset":
        records = [{f"pairs/{name}": v for name, v in json.loads(record["pairs/json"]).items()} for record in records]
    else:
        records = [{**record, "pairs/pair": record["pairs/pair"].decode()} for record in records]
    pairs = {record["pairs/pair"] for record in records}
    assert pairs == set(choose(Place.parse(run), SPLITS).table["pair"].to_pylist())
    assert all(record["pairs/gamma"] == pytest.approx(0.6) for record in records)


def test_the_card(run, tmp_path):
    write(run, tmp_path / "set", "parquet", command="diffstyle select RUN --splits train=0.6,test=0.4")
    text = (tmp_path / "set" / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert "license" not in head  # some sources state none
    assert [one["split"] for one in head["configs"][0]["data_files"]] == ["train", "test"]
    choice = choose(Place.parse(run), SPLITS)
    assert f"| train | {choice.splits['train']} |" in text
    assert str(choice.left_out[0]) in text
    assert "diffstyle select RUN --splits train=0.6,test=0.4" in text
    assert (run / "job.yaml").read_text().strip() in text
    for words in (
        "CC0 1.0 (",
        "  - the style states no licence: ",
        "Ada 1 (",
        "| content_kept | more |",
        "| gamma | `0.6` |",
    ):
        assert words in text
    selection = json.loads((tmp_path / "set" / "selection.json").read_text())
    assert selection["pairs"] == len(choice.table)
    assert selection["left_out"][0]["pairs"] == 30 - len(choice.table)


@pytest.mark.parametrize(("allowed", "licence"), [("cc0", "cc0-1.0"), ("cc0,cc-by", "other")])
def test_a_licence_is_stated_where_every_source_states_one(run, tmp_path, allowed, licence):
    write(run, tmp_path / "set", rules=Rules(licences=allowed_list(allowed)))
    head = yaml.safe_load((tmp_path / "set" / "README.md").read_text().split("---\n")[1])
    assert head["license"] == licence
    stated = json.loads((tmp_path / "set" / "croissant.json").read_text())["license"]
    assert set(stated) == ({"CC0 1.0"} if allowed == "cc0" else {"CC0 1.0", "CC BY 4.0"})


def test_the_same_choice_is_the_same_bytes(run, tmp_path):
    for form in FORMATS:
        files = []
        for number in range(2):
            write(run, tmp_path / str(number) / form, form)
            folder = tmp_path / str(number) / form
            files.append({file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()})
        assert files[0] == files[1]


def test_a_run_on_an_object_store(run, tmp_path, s3_bucket):  # noqa: F811
    there = Place.parse(f"{s3_bucket}/out")
    for file in sorted(path for path in run.rglob("*") if path.is_file()):
        (there / file.relative_to(run).as_posix()).write_bytes(file.read_bytes())
    rules, sets = Rules(where="edges IS NOT NULL", best="edges", limit=3), []
    for name, place in (("near", Place.parse(run)), ("far", there)):
        options = {"triplets": True, "overwrite": False, "command": "diffstyle select ..."}
        write_dataset(place, choose(place, rules), Place.parse(tmp_path / name), "imagefolder", **options)
        files = (path for path in (tmp_path / name / "train").rglob("*") if path.is_file())
        sets.append({file.relative_to(tmp_path / name): file.read_bytes() for file in files})
    assert sets[0] == sets[1]
    assert len(sets[0]) > 5


def test_every_column_of_a_manifest_has_a_type_for_datasets():
    of_run = {"picture", "picture_bytes", "format", "seconds", "created"}
    schema = pa.schema([field for field in [*MANIFEST_SCHEMA, *SCORES_SCHEMA] if field.name not in {*of_run, "phash"}])
    assert set(features_of(["image"], schema)) == {"image", *schema.names}


def test_results_alone_without_splits(run, tmp_path):
    write(run, tmp_path / "set", rules=Rules(where="content_label IS NULL", best="edges", limit=4), triplets=False)
    lines = (tmp_path / "set" / "train" / "metadata.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 4
    assert "split" not in rows[0]
    assert not {name for name in rows[0] if name.endswith("_file_name")}
    assert {path.name for path in (tmp_path / "set" / "train").iterdir()} == {"00000", "metadata.jsonl"}


def harmed(run: Path, folder: Path, how: str) -> Path:
    shutil.copytree(run, folder / "harmed")
    run = folder / "harmed"
    file = (
        sorted((run / "pictures").rglob("*.png"))[0] if how != "source" else sorted(run.glob("shards/style/data/*"))[0]
    )
    if how == "missing":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[data.index(b"IDAT") + 9] ^= 1
        file.write_bytes(data)
    return run


@pytest.mark.parametrize("how", ["missing", "changed", "source"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_picture_ends_it_and_nothing_is_left(run, tmp_path, how, form):
    broken = harmed(run, tmp_path, how)
    with pytest.raises(DiffStyleError, match=r"run `diffstyle verify RUN --repair` and the job again") as caught:
        write(broken, tmp_path / "out" / "set", form, Rules())
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_there_is_replaced_only_when_asked_and_only_if_ours(run, tmp_path):
    target = tmp_path / "set"
    write(run, target)
    before = {file: file.read_bytes() for file in target.rglob("*") if file.is_file()}
    with pytest.raises(ConfigError, match="is there already; --overwrite replaces it"):
        write(run, target, "parquet")
    broken = harmed(run, tmp_path, "changed")
    with pytest.raises(DiffStyleError):
        write(broken, target, rules=Rules(), overwrite=True)
    assert {file: file.read_bytes() for file in target.rglob("*") if file.is_file()} == before
    write(run, target, "parquet", overwrite=True)
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "croissant.json", "data", "selection.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["harmed", "set"]
    other = tmp_path / "holiday"
    paint(other / "picture.png", 1)
    with pytest.raises(ConfigError, match="replaces only a data set of `diffstyle select`; this is none"):
        write(run, other, overwrite=True)
    assert (other / "picture.png").is_file()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["mine.txt", "train/mine.txt", "train/00000/mine.png", "sub/deep/mine", "empty/"])
def test_overwrite_loses_no_file_of_somebody_else(run, tmp_path, form, name):
    target = tmp_path / "set"
    write(run, target, form)
    write(run, target, form, overwrite=True)  # nothing but its own: replaced
    mine = target / name
    (mine if name.endswith("/") else mine.parent).mkdir(parents=True, exist_ok=True)
    if not name.endswith("/"):
        mine.write_text("mine")
    with pytest.raises(ConfigError, match="is not of the data set, and --overwrite would lose it; move it"):
        write(run, target, form, overwrite=True)
    assert mine.exists()


@pytest.mark.parametrize("name", ["README.md", "train/metadata.jsonl"])
def test_overwrite_loses_nothing_that_was_edited(run, tmp_path, name):
    target = tmp_path / "set"
    write(run, target)
    edited = target / name
    edited.write_text(edited.read_text() + "\n")
    before = edited.read_text()
    with pytest.raises(ConfigError, match=rf"{name} in it was edited since, and --overwrite would lose that; move the"):
        write(run, target, overwrite=True)
    assert edited.read_text() == before
    target.rename(tmp_path / "kept")
    write(run, target, overwrite=True)


def test_overwrite_wants_the_data_set_that_the_selection_describes(run, tmp_path):
    write(run, tmp_path / "set")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "a.txt").write_text("mine")
    shutil.copy(tmp_path / "set" / "selection.json", foreign)
    with pytest.raises(ConfigError, match=r"a\.txt in it is not of the data set"):
        write(run, foreign, overwrite=True)
    assert (foreign / "a.txt").exists()


def test_what_a_killed_command_left_is_cleared_and_another_one_is_not_disturbed(run, tmp_path):
    left = tmp_path / ".set.part"
    paint(left / "train" / "old.png", 1)
    write(run, tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert not list((tmp_path / "set").rglob("old.png"))
    left = tmp_path / ".other.part"
    paint(left / "train" / "new.png", 1)
    held = os.open(left, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match="another `diffstyle select` is writing it"):
        write(run, tmp_path / "other")
    os.close(held)
    assert (left / "train" / "new.png").is_file()


def test_targets_that_will_not_do(run, tmp_path):
    for target, message in {
        "s3://bucket/set": "can't be written to an object store yet",
        run / "set": "lies in the run's own output folder",
        run: "lies in the run's own output folder",
        run.parent: "the run itself lies in it",
    }.items():
        with pytest.raises(ConfigError, match=message):
            write(run, target)
    with pytest.raises(ConfigError, match="no pair is left: 30 left out by --where"):
        write(run, tmp_path / "set", rules=Rules(where="false"))
    assert list(tmp_path.iterdir()) == []


def test_triplets_need_the_prepared_pictures(tmp_path):
    run = synthetic_run(tmp_path / "run", [pair_row("a", "x")])
    with pytest.raises(ConfigError, match=r"1 of 1 content pictures are not in .*use --pictures results"):
        write(Path(run.path), tmp_path / "set", rules=Rules())


def test_a_split_without_a_number_does_not_change_the_columns_type(tmp_path):
    rows = []
    for content in "abcdefgh":
        data = content.encode()
        row = pair_row(content, "x", picture=f"pictures/{content}.png", picture_bytes=1, picture_hash=digest(data))
        (tmp_path / "run" / "pictures").mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / "pictures" / f"{content}.png").write_bytes(data)
        rows.append(row)
    splits = Rules(splits=parse_splits("train=0.5,test=0.5"), splits_by="content")
    table = choose(synthetic_run(tmp_path / "plan", rows, scored=False), splits).table
    test = set(table.filter([split == "test" for split in table["split"].to_pylist()])["pair"].to_pylist())
    assert 0 < len(test) < 8
    for row in rows:
        row |= {"edges": 0.5, "content_label": "l"} if row["pair"] in test else {"edges": None}
    synthetic_run(tmp_path / "run", rows)
    written = write(tmp_path / "run", tmp_path / "set", rules=splits, triplets=False)
    assert written.notes == ("left out the columns edges: empty in one of the splits",)
    for split in ("train", "test"):
        lines = (tmp_path / "set" / split / "metadata.jsonl").read_text().splitlines()
        assert {type(json.loads(line)["content_label"]) for line in lines} == {str}
        assert "edges" not in json.loads(lines[0])


@pytest.mark.parametrize("dates", ["all", "one split", "not all"])
def test_labels_that_read_as_dates_are_omitted_where_readers_guess_types(tmp_path, monkeypatch, dates):
    """Folders of photographs are often called after days; `datasets` could not load them, or changed their type."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    splits = Rules(splits=parse_splits("train=0.5,test=0.5"), splits_by="content")
    rows = [pair_row(content, "x") for content in "abcdefgh"]
    table = choose(synthetic_run(tmp_path / "plan", rows), splits).table
    side = dict(zip(table["pair"].to_pylist(), table["split"].to_pylist(), strict=True))
    run = tmp_path / "run"
    (run / "pictures").mkdir(parents=True)
    for number, row in enumerate(rows):
        picture = io.BytesIO()
        Image.new("RGB", (8, 8), (number, 0, 0)).save(picture, "PNG")
        (run / "pictures" / f"{number}.png").write_bytes(picture.getvalue())
        date = {"all": True, "one split": side[row["pair"]] == "test", "not all": number % 2 == 0}[dates]
        row |= {"content_label": "2024-05-01" if date else "oil", "picture": f"pictures/{number}.png"}
        row |= {"picture_bytes": len(picture.getvalue()), "picture_hash": digest(picture.getvalue())}
    synthetic_run(run, rows)
    for form in ("imagefolder", "parquet"):
        written = write(run, tmp_path / form, form, rules=splits, triplets=False)
        loaded = datasets.load_dataset(str(tmp_path / form), cache_dir=str(tmp_path / "cache"))
        labels = {row["pair"]: row["content_label"] for row in rows}
        omitted = form == "imagefolder" and dates != "not all"
        assert ("content_label: readers of this form take them for dates" in str(written.notes)) == omitted
        for split in ("train", "test"):
            assert len(loaded[split])
            for row in loaded[split]:
                assert row.get("content_label") == (None if omitted else labels[row["pair"]])
