"""Identities: pinned, so that a change of what they are made of can't pass unnoticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage import identity
from pipeline.storage.identity import (
    digest,
    digest_of,
    image_hash,
    pair_id,
    pair_seed,
    picture_key,
    source_name,
    source_stem,
)

CONTENT, STYLE, SETTINGS, MASK = (letter * 32 for letter in "abcd")


def test_a_pair_id_is_pinned():
    """Another id here means that every pair of every existing output would be made again: then say so in CHANGELOG."""
    assert pair_id(CONTENT, STYLE, SETTINGS) == "ace61d11ff7f288897d43f7f74e55cee"
    assert pair_id(CONTENT, STYLE, SETTINGS, MASK) == "be2037810b0129aa415d0febc868b94c"


def test_a_pair_id_is_of_everything_that_decides_the_pixels(monkeypatch):
    ids = {
        pair_id(CONTENT, STYLE, SETTINGS),
        pair_id(STYLE, CONTENT, SETTINGS),
        pair_id("e" * 32, STYLE, SETTINGS),
        pair_id(CONTENT, "e" * 32, SETTINGS),
        pair_id(CONTENT, STYLE, "e" * 32),
        pair_id(CONTENT, STYLE, SETTINGS, MASK),
        pair_id(CONTENT, STYLE, SETTINGS, "e" * 32),
    }
    monkeypatch.setattr(identity, "ALGORITHM_VERSION", identity.ALGORITHM_VERSION + 1)
    ids |= {pair_id(CONTENT, STYLE, SETTINGS), pair_id(CONTENT, STYLE, SETTINGS, MASK)}
    assert len(ids) == 9


def test_a_pairs_seed_is_pinned_and_of_job_content_and_style():
    assert pair_seed(0, CONTENT, STYLE) == 4130582361968030465
    seeds = {
        pair_seed(0, CONTENT, STYLE),
        pair_seed(1, CONTENT, STYLE),
        pair_seed(0, "e" * 32, STYLE),
        pair_seed(0, CONTENT, "e" * 32),
        pair_seed(0, STYLE, CONTENT),
    }
    assert len(seeds) == 5


@given(st.integers(0, 2**31), st.text("0123456789abcdef", min_size=32, max_size=32))
def test_a_pairs_seed_fits_63_bits(seed, image):
    assert 0 <= pair_seed(seed, image, STYLE) < 2**63


def test_half_of_the_seeds_have_the_highest_bit():
    """Otherwise a digit was lost on the way from the hash."""
    high = sum(pair_seed(0, CONTENT, f"{n:032x}") >= 2**62 for n in range(200))
    assert 70 < high < 130


def test_pieces_do_not_run_together():
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a") != digest("a", "")
    assert digest("é") == digest("é".encode())
    assert len(digest()) == 32


def test_the_order_of_a_mapping_does_not_matter_and_that_of_a_list_does():
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": [1, 2]}) != digest_of({"a": [2, 1]})
    assert digest_of({"a": 1}) != digest_of({"a": 1.5})
    assert digest_of({"name": "é"}) == "dd9b8e07505d75c736fa6ec7e40f55a5"


def test_an_images_hash_is_of_its_shape_and_values():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert image_hash(pixels) == "b15d52da29cb856dd478ec3b4906426b"
    assert image_hash(pixels) == image_hash(np.asfortranarray(pixels))
    others = [pixels.reshape(4, 2, 3), pixels.reshape(8, 1, 3), pixels[::-1], pixels[:, ::-1], pixels + 1]
    assert len({image_hash(pixels), *map(image_hash, others)}) == 6
    for wrong in (pixels.astype(np.float32), pixels[0]):
        with pytest.raises(ValueError, match="expected uint8 pixels"):
            image_hash(wrong)


def test_keys():
    image = "0123456789abcdef" * 2
    assert picture_key("a/b/Ünder the söa.v2.png", image) == "Under_the_soa_v2-0123456789ab"
    assert picture_key("C:\\photos\\dog.JPG", image) == "dog-0123456789ab"
    assert picture_key(".hidden", image) == "hidden-0123456789ab"
    assert picture_key("日本.png", image) == "picture-0123456789ab"
    assert picture_key("x" * 300, image) == "x" * 80 + "-0123456789ab"
    assert picture_key("a-b_c.png", image) == "a-b_c-0123456789ab"


def test_names_of_sources():
    assert source_name("s3://bucket/a/b.png") == source_name("set.tar#b.png") == "b.png"
    assert source_name("set.tar#deep/b.png") == "b.png"
    assert source_stem("a/b.v2.png") == "b.v2"
    assert source_stem("a/.png") == ".png"
    assert source_stem("a/plain") == "plain"
