"""Encoding results and writing them."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import webdataset as wds
from PIL import Image
from support.whole_jobs import psnr

from pipeline.jobfile.schema import Pictures
from pipeline.results.contact_sheets import read_picture
from pipeline.results.pictures import Encoded, encode, picture_settings, write_pictures
from pipeline.storage.identity import digest
from pipeline.storage.place import Place


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("format", "kind", "least"), [("png", "PNG", 200), ("jpeg", "JPEG", 38), ("webp", "WEBP", 32)])
def test_formats(format, kind, least, pixels):
    spec = Pictures(format=format)
    data = encode(pixels, spec)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size, image.mode) == (kind, (48, 48), "RGB")
        assert psnr(np.asarray(image), pixels) >= least
    assert encode(pixels.copy(), spec) == data  # the same pixels give the same bytes


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_quality(format, pixels):
    sizes = [len(encode(pixels, Pictures(format=format, quality=quality))) for quality in (20, 60, 95)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


def test_quality_is_part_of_a_result_where_it_counts():
    assert picture_settings(Pictures(quality=3)) == {"format": "png"}
    assert picture_settings(Pictures(format="webp", quality=3)) == {"format": "webp", "quality": 3}


def encoded(name: str, pixels: np.ndarray, spec: Pictures) -> Encoded:
    return Encoded(
        name, encode(pixels, spec), {"pair": name, "gamma": 0.3, "error": None, "seconds": 1.5, "created": 1}
    )


def test_a_folder(tmp_path, pixels):
    spec = Pictures(format="jpeg")
    out = Place.parse(str(tmp_path))
    rows = write_pictures(
        out, spec, "gamma-0.3-ab", "tile-1", [encoded("a__b", pixels, spec), encoded("a__c", pixels, spec)]
    )
    assert [row["picture"] for row in rows] == ["pictures/gamma-0.3-ab/a__b.jpg", "pictures/gamma-0.3-ab/a__c.jpg"]
    for row in rows:
        data = (tmp_path / row["picture"]).read_bytes()
        assert (row["picture_bytes"], row["picture_hash"], row["format"]) == (len(data), digest(data), "jpeg")
        assert row["pair"] in row["picture"]
        assert psnr(read_picture(out, row["picture"]), pixels) > 38


def test_a_tar_that_webdataset_reads(tmp_path, pixels):
    spec = Pictures(to="webdataset", format="webp")
    out = Place.parse(str(tmp_path))
    rows = write_pictures(
        out, spec, "gamma-0.3-ab", "tile-1", [encoded("a__b", pixels, spec), encoded("a__c", pixels, spec)]
    )
    assert [row["picture"] for row in rows] == [f"pictures/tile-1.tar#a__{name}.webp" for name in "bc"]
    samples = list(wds.WebDataset(str(tmp_path / "pictures" / "tile-1.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["a__b", "a__c"]
    for sample, row in zip(samples, rows, strict=True):
        said = json.loads(sample["json"])
        assert said["pair"] == sample["__key__"]
        assert not {"seconds", "created", "error"} & set(said)  # what a second run would say otherwise, what is null
        assert digest(sample["webp"]) == row["picture_hash"] == said["picture_hash"]
        np.testing.assert_array_equal(
            read_picture(out, row["picture"]), np.asarray(Image.open(io.BytesIO(sample["webp"])))
        )


def test_tars_are_the_same_bytes_for_everyone(tmp_path, pixels):
    spec = Pictures(to="webdataset")
    for name in ("one", "other"):
        write_pictures(Place.parse(str(tmp_path / name)), spec, "s", "tile-1", [encoded("a__b", pixels, spec)])
    one, other = ((tmp_path / name / "pictures" / "tile-1.tar").read_bytes() for name in ("one", "other"))
    assert one == other
    with tarfile.open(fileobj=io.BytesIO(one)) as tar:
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}


def test_pictures_with_long_names_go_into_a_tar(tmp_path, pixels):
    """A key has up to 93 characters, and a pair two of them: more than a plain tar header takes."""
    spec, name = Pictures(to="webdataset"), f"{'c' * 80}-{'0' * 12}__{'s' * 80}-{'1' * 12}"
    (row,) = write_pictures(Place.parse(str(tmp_path)), spec, "gamma-1-ab", "tile-1", [encoded(name, pixels, spec)])
    assert np.array_equal(read_picture(Place.parse(str(tmp_path)), row["picture"]), pixels)
    (sample,) = wds.WebDataset(str(tmp_path / "pictures" / "tile-1.tar"), shardshuffle=False)
    assert sample["__key__"] == name
