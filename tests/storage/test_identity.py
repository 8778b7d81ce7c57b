"""The text form of where a picture came from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.identity import source_name, source_parts, source_stem, source_text

NAMES = st.text(st.sampled_from("ab#%2537/. "), min_size=1)


@given(NAMES, st.none() | NAMES)
def test_a_source_is_read_back_as_it_was_written(file, member):
    assert source_parts(source_text(file, member)) == (file, member)


@given(st.tuples(NAMES, st.none() | NAMES), st.tuples(NAMES, st.none() | NAMES))
def test_different_pictures_have_different_sources(one, other):
    assert (source_text(*one) == source_text(*other)) == (one == other)


@pytest.mark.parametrize(
    ("source", "name", "stem"),
    [
        (source_text("/c/a#1.png"), "a#1.png", "a#1"),
        (source_text("/c/a.tar", "dogs/b#2.png"), "b#2.png", "b#2"),
        (source_text("/c/run #3/a.tar", "b.png"), "b.png", "b"),
        (source_text("/c/100%.png"), "100%.png", "100%"),
        (source_text("/c/x.parquet", "7"), "7", "7"),
    ],
)
def test_the_name_of_a_picture_is_its_own(source, name, stem):
    assert (source_name(source), source_stem(source)) == (name, stem)


def test_plain_paths_stay_as_they_are():
    assert source_text("/c/100% a+b.png") == "/c/100% a+b.png"
    assert source_text("/c/a.tar", "b.png") == "/c/a.tar#b.png"
