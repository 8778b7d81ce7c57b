"""Scores side by side, found part by part: of each pair the newest row without an error, whatever part it is in."""

from __future__ import annotations

import datetime
import tempfile

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.results.all_scores import AllScores
from pipeline.results.manifest import Manifest, manifest_rows
from pipeline.results.scores import Scores, score_rows
from pipeline.storage.identity import digest
from pipeline.storage.pair_ids import PairIds
from pipeline.storage.place import Place

DAY = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
PAIRS = [digest(name) for name in "abcde"]

score = st.fixed_dictionaries(
    {
        "pair": st.sampled_from(PAIRS),
        "edges": st.none() | st.floats(0, 1, width=32),
        "phash": st.none() | st.binary(min_size=8, max_size=8),
        "error": st.none() | st.sampled_from(["it is missing", "not finite"]),
    }
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(score, max_size=5), max_size=4), st.lists(st.sampled_from(PAIRS)))
def test_of_several_rows_the_newest_without_an_error_counts(parts, asked):
    with tempfile.TemporaryDirectory() as folder:
        scores = Scores(Place.parse(folder))
        scores.open({"model_fingerprint": "of a stand-in"})
        order = np.random.default_rng(len(asked)).permutation(sum(map(len, parts))).tolist()
        rows = [row | {"created": DAY + datetime.timedelta(seconds=order.pop())} for part in parts for row in part]
        left = iter(rows)
        for n, part in enumerate(parts):
            scores.commit(f"part-{n}", score_rows([next(left) for _ in part]))
        wanted = []
        for pair in asked:
            own = [row for row in rows if row["pair"] == pair]
            wanted.append(max(own, key=lambda row: (row["error"] is None, row["created"]), default={}))
        pairs = pa.chunked_array([asked], pa.string())
        for field, values in AllScores(Place.parse(folder)).of(pairs, ["edges", "phash", "error"]):
            assert values.to_pylist() == [row.get(field.name) for row in wanted]


row = st.fixed_dictionaries({"pair": st.sampled_from(PAIRS), "status": st.sampled_from(["ok", "failed"])})


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(row, min_size=1, max_size=4), max_size=4), st.none() | st.sets(st.sampled_from(PAIRS)))
def test_a_manifest_has_a_row_for_each_pair_made_before_failed(parts, some):
    with tempfile.TemporaryDirectory() as folder:
        manifest = Manifest(Place.parse(folder))
        manifest.open()
        rows = [one | {"error": str(n)} for n, one in enumerate(each for part in parts for each in part)]
        left = iter(rows)
        for n, part in enumerate(parts):
            manifest.commit(f"tile-{n}", manifest_rows([next(left) for _ in part]))
        wanted = {}
        for status in ("ok", "failed"):
            for one in rows:
                if one["status"] == status and (some is None or one["pair"] in some):
                    wanted.setdefault(one["pair"], one)
        table = manifest.table(["pair", "status", "error"], None if some is None else PairIds.of(some))
        names = ("pair", "status", "error")
        assert sorted(tuple(one.values()) for one in table.to_pylist()) == sorted(
            tuple(one[name] for name in names) for one in wanted.values()
        )
        made = [one["pair"] for one in wanted.values() if one["status"] == "ok"]
        each = manifest.made(["pair", "error"], None if some is None else PairIds.of(some))
        numbers = [(one["pair"], one["error"]) for rows in each for one in rows.to_pylist()]
        assert sorted(numbers) == sorted((pair, wanted[pair]["error"]) for pair in made)
