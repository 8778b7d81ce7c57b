"""Sets of ids in 16 bytes an id answer as Python's sets of strings do."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage.identity import digest
from pipeline.storage.pair_ids import PairIds, PairValues, from_bytes, packed

# Few different halves, so that many ids begin or end alike.
halves = st.sampled_from(["0" * 16, "f" * 16, "0" * 15 + "1", "8" + "0" * 15, "7" + "f" * 15])
ids = st.one_of(st.builds(str.__add__, halves, halves), st.integers(0, 2**128 - 1).map("{:032x}".format))
texts = st.one_of(ids, st.sampled_from(["", "a", "A" * 32, " " * 32, "0" * 31, "0" * 33, "é" * 16, "é" * 32]))


@given(st.lists(texts), st.lists(texts))
def test_it_answers_as_a_set_of_texts_does(inside, asked):
    known = PairIds.of(inside)
    assert len(known) == len(set(inside))
    assert known.contains(packed(asked)).tolist() == [text in set(inside) for text in asked]
    assert all((text in known) == (text in set(inside)) for text in asked)


@given(st.lists(ids), st.lists(ids))
def test_texts_go_in_and_come_out_sorted(one, other):
    assert list(PairIds.of(one)) == sorted(set(one))
    assert list(PairIds(packed(one), packed(other))) == sorted({*one, *other})
    assert list(PairIds.of(one).without(PairIds.of(other))) == sorted(set(one) - set(other))
    assert (PairIds.of(one) == PairIds.of(other)) == (set(one) == set(other))


@given(st.lists(texts, min_size=1), st.data())
def test_any_slice_of_a_column_is_read(column, data):
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(column))] * 2)))
    array = pa.array(column, pa.string())
    assert packed(array[start:stop]).tolist() == packed(column[start:stop]).tolist()
    chunked = pa.chunked_array([array[start:stop], array[:start]], pa.string())
    assert packed(chunked).tolist() == packed(column[start:stop] + column[:start]).tolist()


def test_an_id_is_its_sixteen_bytes_and_another_text_its_hash():
    one = digest("one")
    assert packed([one]).tolist() == from_bytes(bytes.fromhex(one)).tolist()
    assert packed(["a path"]).tolist() == from_bytes(bytes.fromhex(digest("a path"))).tolist()
    assert packed(pa.array([None, one], pa.string())).tolist() == packed(["", one]).tolist()


def test_a_hundred_thousand_ids_take_16_bytes_each():
    rng = np.random.default_rng(0)
    known = PairIds(rng.integers(0, 2**64, (100_000, 2), np.uint64))
    held = sum(value.nbytes for value in vars(known).values())
    assert (len(known), held) == (100_000, 1_600_000)
    assert known.contains(known.ids()).all()
    assert not known.contains(rng.integers(0, 2**64, (1000, 2), np.uint64)).any()


def test_a_set_is_no_key_of_a_dictionary():
    with pytest.raises(TypeError):
        hash(PairIds())


@given(st.dictionaries(ids, st.floats(-9, 9, width=32)), st.lists(ids), st.integers(0, 9))
def test_numbers_of_ids_are_kept_as_in_a_mapping(numbers, asked, cut):
    known = [(packed(list(some)), np.array(list(some.values()), np.float32)) for some in _halves(numbers, cut)]
    values = PairValues([ids for ids, _ in known], [each for _, each in known])
    assert len(values) == len(numbers)
    wanted = [numbers.get(text, np.nan) for text in asked]
    np.testing.assert_array_equal(values.of(packed(asked)), np.array(wanted, np.float32))


def _halves(numbers: dict[str, float], cut: int) -> list[dict[str, float]]:
    items = list(numbers.items())
    return [dict(items[:cut]), dict(items[cut:])]
