"""Thumbnails of a bank: kept with every part, carried along by what moves entries, not needed where absent."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.whole_jobs import SIX_PAIRS, bank_index, manifest, paint, run_job

from pipeline.banks.copy import export, merge
from pipeline.banks.drop import prune
from pipeline.banks.tensors import BankError
from pipeline.banks.thumbnails import SIDE, bank_thumbnails, thumbnail
from pipeline.banks.verify import repair, verify
from pipeline.runner.again import again
from pipeline.shards.store import open_shards
from pipeline.stages.invert import open_bank
from pipeline.storage.place import Place


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """A run over four contents and two styles; its banks have parts of two pictures."""
    folder = tmp_path_factory.mktemp("job")
    for n in range(4):
        paint(folder / "c" / f"c{n}.png", n)
    for n in range(2):
        paint(folder / "s" / f"s{n}.png", n + 100)
    sources = {"content": str(folder / "c"), "style": str(folder / "s")}
    run_job(folder, **{**SIX_PAIRS, **sources, "bank": {"h": "float32", "part_size": 2}})
    return folder / "out"


@pytest.fixture
def bank(job, tmp_path) -> Path:
    return Path(shutil.copytree(job / "banks" / "content", tmp_path / "bank"))


def expected(job: Path) -> dict[str, np.ndarray]:
    store = open_shards(str(job / "shards" / "content"))
    rows = store.unique()
    return dict(zip([row["image"] for row in rows], store.read_many(rows), strict=True))


def check(bank: Path, job: Path, images: set[str] | None = None) -> None:
    """The bank has these images' thumbnails, and they are the pictures themselves: 32 px are kept without loss."""
    pixels = expected(job)
    kept = bank_thumbnails(bank, pixels.keys())
    assert set(kept) == (set(pixels) if images is None else images)
    for image, shown in kept.items():
        np.testing.assert_array_equal(shown, pixels[image])


def test_a_bank_keeps_its_pictures_small(job, bank):
    check(bank, job)
    assert len(list((bank / "thumbnails").iterdir())) == 2
    assert verify(str(bank)).ok


@pytest.mark.parametrize("size", [(256, 256), (300, 100)])
def test_the_longest_side_is_bounded(size):
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    data = thumbnail(pixels)
    with Image.open(io.BytesIO(data)) as image:
        assert max(image.size) == SIDE
        wanted = np.asarray(Image.fromarray(pixels).resize(image.size, Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(np.asarray(image).astype(int) - wanted).mean() < 8
    assert len(data) < 4000


def test_merge_export_and_prune_carry_them(job, bank, tmp_path):
    images = bank_index(bank)["image"].tolist()
    merge(str(tmp_path / "merged"), [str(bank)])
    check(tmp_path / "merged", job)
    merge(str(tmp_path / "other"), [str(bank)], format="webdataset")
    check(tmp_path / "other", job)
    export(str(bank), str(tmp_path / "less"), dtypes={"h": "float16"})
    check(tmp_path / "less", job)
    for each in (bank, tmp_path / "other"):
        prune(str(each), images[1:])
        check(each, job, set(images[1:]))
        prune(str(each), images[3:])
        check(each, job, set(images[3:]))
        assert len(list((each / "thumbnails").iterdir())) == 1
        assert verify(str(each)).ok


def test_a_bank_without_them_reads_grows_and_merges(job, bank, tmp_path):
    images = set(bank_index(bank)["image"])
    shutil.rmtree(bank / "thumbnails")
    assert bank_thumbnails(bank, images) == {}
    assert verify(str(bank)).ok
    merge(str(tmp_path / "merged"), [str(bank)])
    assert bank_thumbnails(tmp_path / "merged", images) == {}
    prune(str(bank), sorted(images)[:1])
    assert bank_index(bank)["image"].tolist() == sorted(images)[:1]
    merge(str(bank), [str(job / "banks" / "content")])
    check(bank, job, images - {sorted(images)[0]})


def test_damaged_ones_are_named_and_dropped(job, bank):
    file = sorted((bank / "thumbnails").iterdir())[0]
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(BankError, match=rf"{file}.*bank repair"):
        bank_thumbnails(bank, expected(job).keys())
    report = verify(str(bank))
    assert [problem.kind for problem in report.problems] == ["thumbnails"]
    assert f"{file.stem}: thumbnails dropped" in repair(str(bank), report)
    assert verify(str(bank)).ok
    assert len(bank_thumbnails(bank, expected(job).keys())) == 2


def test_those_that_a_killed_writer_left_go(bank):
    left = bank / "thumbnails" / "part-of-nobody.parquet"
    left.write_bytes(b"")
    place = Place.parse(bank)
    from pipeline.banks.reader import LatentBank

    assert left.name in open_bank(place, LatentBank.open(bank).description, {}).remove_uncommitted()
    assert not left.exists()
    assert len(list((bank / "thumbnails").iterdir())) == 2


# ---- where they are shown ----


@pytest.fixture(scope="module")
def from_banks(job, tmp_path_factory) -> Path:
    """A run over the banks alone."""
    folder = tmp_path_factory.mktemp("from-banks")
    banks = {side: {"bank": str(job / "banks" / side)} for side in ("content", "style")}
    run_job(folder, **{**SIX_PAIRS, **banks})
    return folder / "out"


def test_sheets_of_a_job_from_banks_show_its_sources(job, from_banks):
    def sheet(out: Path) -> np.ndarray:
        (file,) = (out / "contact-sheets").glob("gamma-*.png")
        with Image.open(file) as image:
            return np.asarray(image)

    np.testing.assert_array_equal(sheet(from_banks), sheet(job))


def test_a_sample_has_one(tmp_path):
    run_job(tmp_path, **{**SIX_PAIRS, "style": {"sample": 2, "seed": 5}})
    images = set(manifest(tmp_path / "out")["style_image"])
    assert set(bank_thumbnails(tmp_path / "out" / "banks" / "style", images)) == images


def test_the_report_of_a_job_from_banks_shows_its_sources(from_banks):
    from pipeline.results.report.tables import read_tables
    from pipeline.results.report.write import write_report

    place = Place.parse(from_banks)
    assert len(read_tables(place).banks) == 2
    write_report(place)
    with Image.open(next((from_banks / "report" / "thumbnails").glob("sources-*.webp"))) as image:
        assert np.asarray(image.convert("RGB")).std() > 20


def test_again_shows_them_on_its_strip(job, from_banks):
    row = manifest(from_banks).iloc[0]
    result = again(from_banks, row.pair)
    assert result.same
    np.testing.assert_array_equal(result.content.pixels, expected(job)[row.content_image])
