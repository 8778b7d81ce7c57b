from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures

from pipeline.storage.differences import differences
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.stored_description import DescriptionError

SCHEMA = pa.schema([("key", pa.string()), ("n", pa.int64())])


@pytest.fixture(params=["disk", "s3"])
def store(request, tmp_path) -> PartStore:
    if request.param == "disk":
        return PartStore(Place.parse(tmp_path))
    return PartStore(Place.parse(request.getfixturevalue("s3_bucket")) / "store")


def rows(*pairs: tuple[str, int]) -> pa.Table:
    return pa.Table.from_pylist([{"key": key, "n": n} for key, n in pairs], SCHEMA)


def test_rows_come_in_the_order_of_the_parts_names_whatever_the_order_of_commits(store):
    assert store.parts() == []
    assert store.rows(SCHEMA).to_pylist() == []
    store.commit("b", rows(("x", 3)))
    store.commit("a", rows(("y", 1), ("z", 2)))
    assert store.parts() == ["a", "b"]
    assert store.rows(SCHEMA).column("n").to_pylist() == [1, 2, 3]
    assert store.rows(SCHEMA, ["key"]).column_names == ["key"]
    store.commit("a", rows())
    assert store.rows(SCHEMA).to_pylist() == [{"key": "x", "n": 3}]


def test_a_column_that_old_parts_lack_reads_as_null(store):
    store.commit("a", rows(("x", 1)).select(["key"]))
    store.commit("b", rows(("y", 2)))
    assert store.rows(SCHEMA).to_pylist() == [{"key": "x", "n": None}, {"key": "y", "n": 2}]


def test_payloads_without_an_index_part_are_removed_and_no_others(store):
    store.data("a", "tar").write_bytes(b"payload")
    store.data("b", "tar").write_bytes(b"payload")
    store.commit("a", rows())
    assert store.remove_uncommitted() == ["b.tar"]
    assert [entry.place.name for entry in store.data_folder.list()] == ["a.tar"]
    assert store.remove_uncommitted() == []


def test_an_unfinished_index_part_is_no_commit(tmp_path):
    store = PartStore(Place.parse(tmp_path))
    store.commit("a", rows(("x", 1)))
    (tmp_path / "index" / ".b.parquet.12345678.part").write_bytes(b"PAR1")
    assert store.parts() == ["a"]
    assert len(store.rows(SCHEMA)) == 1
    store.remove_uncommitted()
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["a.parquet"]


def test_other_settings_are_refused_by_name(store):
    assert not store.exists()
    store.describe({"size": 64, "crop": {"kind": "centre"}, "list": (1, 2)}, {"version": "1"})
    store.describe({"list": [1, 2], "crop": {"kind": "centre"}, "size": 64}, {"version": "2"})
    assert store.exists()
    assert store.description()["about"] == {"version": "1"}
    with pytest.raises(DescriptionError, match=r"size is 64 there, 32 asked.*another output folder"):
        store.describe({"size": 32, "crop": {"kind": "centre"}, "list": [1, 2]}, {})
    with pytest.raises(DescriptionError, match=r'crop.kind is "centre" there, null asked'):
        store.describe({"size": 64, "crop": {}, "list": [1, 2]}, {})


def test_a_missing_or_broken_description_is_one_clear_line(store):
    with pytest.raises(DescriptionError, match=r"no description.json here; is this the right folder"):
        store.description()
    (store.root / "description.json").write_bytes(b"{")
    with pytest.raises(DescriptionError, match=r"description.json: not readable \("):
        store.description()


def test_an_index_is_plain_parquet(tmp_path):
    PartStore(Place.parse(tmp_path)).commit("a", rows(("x", 1)))
    assert pq.read_table(tmp_path / "index").to_pylist() == [{"key": "x", "n": 1}]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)
mappings = st.dictionaries(st.text("ab", max_size=2), values, max_size=3)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mappings, mappings)
def test_differences_are_empty_for_equals_and_for_no_others(one, other):
    assert differences(one, one) == []
    # null and absent mean the same: an older description lacks what a newer version leaves at null.
    assert bool(differences(one, other)) == (_without_nulls(one) != _without_nulls(other))


def _without_nulls(value):
    if not isinstance(value, dict):
        return value
    return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
