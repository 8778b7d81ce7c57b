"""The table of a network's scores, on a disk and on an object store."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
from support.s3 import s3_bucket, s3_endpoint  # noqa: F401 - fixtures
from support.scoring_networks import Embedding, network_file
from support.synthetic_runs import pair_row, synthetic_run

from pipeline.models.network_spec import load_network_spec
from pipeline.results.all_scores import AllScores
from pipeline.results.frechet import frechet_distances
from pipeline.results.manifest import Manifest
from pipeline.results.network_scores import SOURCES_SCHEMA, NetworkScores, networks_of, vectors
from pipeline.results.prune import drop_leavings, find_leavings
from pipeline.results.retention import Wanted
from pipeline.results.scores import ScoreColumn, Scores
from pipeline.stages.score_networks import NetworkScoreUnit
from pipeline.storage.pair_ids import PairIds
from pipeline.storage.parts import now
from pipeline.storage.place import Place

COLUMNS = {"look_content": (True, "how alike"), "look_style": (False, "how far")}


def identity(hashed: str = "a" * 64) -> dict[str, object]:
    return {"network": "look", "hash": hashed, "gives": "embedding", "compare": ["content", "style"]}


@pytest.fixture(params=["disk", "s3"])
def output(request, tmp_path):
    return Place.parse(tmp_path if request.param == "disk" else f"{request.getfixturevalue('s3_bucket')}/out")


def row(pair: str, value: float | None, error: str | None = None) -> dict[str, object]:
    return {"pair": pair, "look_content": value, "look_style": value, "error": error, "created": now()}


def test_rows_are_kept_until_the_network_changes(output):
    scores = NetworkScores(output, "look")
    assert networks_of(output) == []
    assert scores.open(identity(), COLUMNS) == []
    scores.store.commit("one", scores.rows([row("a", 0.5), row("b", None, "it is missing")]))
    scores.sources.commit("one", pa.Table.from_pylist([{"image": "i", "embedding": b"\0" * 8}], SOURCES_SCHEMA))
    scores.write_frechet([{"settings": "s", "style": 1.5}])
    again = NetworkScores(output, "look")
    assert again.open(identity(), COLUMNS) == []
    assert again.scored() == PairIds.of(["a"])
    assert again.columns["look_style"] == ScoreColumn(False, "how far", "look", "a" * 64)
    assert again.frechet() == [{"settings": "s", "style": 1.5}]
    assert [one.name for one in networks_of(output)] == ["look"]
    (difference,) = again.open(identity("b" * 64), COLUMNS)
    assert difference.startswith("hash is ")
    assert (len(again.table()), len(again.sources.rows(SOURCES_SCHEMA)), again.frechet()) == (0, 0, [])
    assert again.columns["look_style"].hash == "b" * 64


def test_a_kill_while_scores_are_dropped_leaves_the_rest_for_the_next_run(output, monkeypatch):
    scores = NetworkScores(output, "look")
    scores.open(identity(), COLUMNS)
    for part in ("one", "two"):
        scores.store.commit(part, scores.rows([row(part, 0.5)]))
    drop = type(scores.store).drop

    def killed(store, part):
        drop(store, part)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(scores.store), "drop", killed)
    with pytest.raises(KeyboardInterrupt):
        scores.open(identity("b" * 64), COLUMNS)
    monkeypatch.undo()
    again = NetworkScores(output, "look")
    assert again.open(identity("b" * 64), COLUMNS) != []
    assert len(again.table()) == 0


def test_scores_of_several_networks_side_by_side(tmp_path):
    rows = [pair_row(name, "x", content_kept=n / 10) for n, name in enumerate("abc")]
    output = synthetic_run(tmp_path, rows)
    pairs = [one["pair"] for one in rows]
    scores = NetworkScores(output, "look")
    scores.open(identity(), COLUMNS)
    scores.store.commit("one", scores.rows([row(pairs[2], 0.25), row(pairs[0], None, "missing"), row("gone", 1.0)]))
    scores.store.commit("two", scores.rows([row(pairs[0], 0.75)]))  # once it could be read
    both = AllScores(output)
    wanted = ["content_kept", "look_style", "phash"]
    columns = {field.name: values.to_pylist() for field, values in both.of(pa.chunked_array([pairs]), wanted)}
    assert columns["content_kept"] == pytest.approx([0, 0.1, 0.2])
    assert columns["look_style"] == [0.75, None, 0.25]
    assert list(both.columns)[-2:] == ["look_content", "look_style"]


def test_what_is_pruned_leaves_the_scores_of_networks_and_their_distances(tmp_path):
    made_with = [("a", "one"), ("b", "one"), ("c", "two"), ("d", "two")]
    rows = [pair_row(name, "x", settings=of * 10, gamma=0.5, network_calls=1) for name, of in made_with]
    output = synthetic_run(tmp_path, rows)
    scores, vector = NetworkScores(output, "look"), np.arange(2, dtype="<f4")
    scores.open(identity(), COLUMNS)
    seen = [row(one["pair"], 0.5) | {"embedding": (vector + n).tobytes()} for n, one in enumerate(rows)]
    scores.store.commit("one", scores.rows(seen))
    manifest = Manifest(output)
    scores.write_frechet(frechet_distances(manifest, scores))
    assert [one["pictures"] for one in scores.frechet()] == [2, 2]
    rule = Wanted(PairIds.of(one["pair"] for one in rows[:2]))
    leavings = find_leavings(manifest, rule)
    assert (leavings.pairs, leavings.scores) == (2, 4)  # those of the model and of the network
    drop_leavings(manifest, leavings, rule)
    assert scores.scored() == Scores(output).scored() == rule.pairs
    assert [one["settings"] for one in scores.frechet()] == ["one" * 10]
    assert not find_leavings(manifest, rule)


def test_embeddings_come_back():
    rows = np.arange(6, dtype="<f4").reshape(2, 3)
    column = pa.chunked_array([pa.array([rows[0].tobytes(), None, rows[1].tobytes()], pa.binary())])
    np.testing.assert_array_equal(vectors(column), rows)


def test_a_unit_travels_to_a_worker(tmp_path):
    spec = load_network_spec(network_file(tmp_path, "look", Embedding(), frechet=True))
    unit = NetworkScoreUnit(Place.parse(tmp_path), ({"pair": "a"},), (), spec, spec.hash())
    there = pickle.loads(pickle.dumps(unit))
    assert there == unit
    assert there.spec.hash() == spec.hash()
