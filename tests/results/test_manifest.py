"""The manifest: one row a pair, whatever happens in between."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest, manifest_rows
from pipeline.storage.pair_ids import PairIds
from pipeline.storage.parts import now
from pipeline.storage.place import Place
from pipeline.storage.stored_description import DescriptionError


@pytest.fixture
def manifest(tmp_path):
    manifest = Manifest(Place.parse(tmp_path / "out"))
    manifest.open()
    return manifest


def row(pair: str, status: str = "ok", **more) -> dict:
    return {"pair": pair, "status": status, "created": now(), **more}


def known(manifest: Manifest) -> tuple[set[str], set[str]]:
    """Which pairs of one letter are done, and which failed."""
    said = manifest.known()
    done, failed = ({letter for letter in "abcd" if letter in ids} for ids in (said.done, said.failed))
    assert (len(done), len(failed)) == (len(said.done), len(said.failed)) == manifest.counts()
    return done, failed


def test_rows_by_pandas_and_by_name(manifest):
    import pandas as pd

    manifest.commit("tile-1", [row("a", gamma=0.3), row("b", gamma=0.4)])
    manifest.commit("tile-2", manifest_rows([row("c")]))
    assert pd.read_parquet(f"{manifest.output}/manifest").pair.tolist() == ["a", "b", "c"]
    assert manifest.table().schema == MANIFEST_SCHEMA
    assert manifest.table(["gamma", "pair"]).to_pydict() == {"gamma": [0.3, 0.4, None], "pair": ["a", "b", "c"]}
    assert known(manifest) == ({"a", "b", "c"}, set())
    assert manifest.counts() == (3, 0)


def test_a_tile_committed_again_replaces_itself(manifest):
    for _ in range(2):
        manifest.commit("tile-1", [row("a"), row("b")])
    assert manifest.counts() == (2, 0)


def test_nothing_yet(manifest):
    assert known(manifest) == (set(), set())
    assert manifest.counts() == (0, 0)
    assert manifest.seconds_per_call("f", "float32") is None


def test_failures_are_known_and_can_be_dropped_for_a_retry(manifest):
    manifest.commit("tile-1", [row("a")])
    manifest.commit_failures([row("b", "failed", error="too dark"), row("c", "failed")])
    manifest.commit_failures([row("d", "failed")])
    assert known(manifest) == ({"a"}, {"b", "c", "d"})
    assert manifest.counts() == (1, 3)
    manifest.drop_failures(PairIds.of(["b", "d"]))
    assert known(manifest) == ({"a"}, {"c"})
    assert len(manifest.store.parts()) == 2


def test_a_pair_that_failed_and_was_made_counts_as_made(manifest):
    manifest.commit_failures([row("a", "failed")])
    manifest.commit("tile-1", [row("a")])
    assert known(manifest) == ({"a"}, set())
    assert len(manifest.table()) == 1


def test_columns_that_an_older_part_lacks_are_null(manifest):
    manifest.commit("tile-1", [row("a")])
    old = pa.table({"pair": ["b"], "status": ["ok"]})
    manifest.store.commit("tile-0", old)
    assert manifest.table(["pair", "gamma"]).to_pydict() == {"pair": ["b", "a"], "gamma": [None, None]}


def test_the_speed_of_the_last_parts(manifest):
    same = {"model_fingerprint": "f", "precision": "float32", "network_calls": 50}
    manifest.commit("tile-1", [row("a", seconds=1.0, **same), row("b", seconds=2.0, **same)])
    manifest.commit(
        "tile-2", [row("c", seconds=1.5, **same), row("d", seconds=99.0, **same | {"precision": "float16"})]
    )
    assert manifest.seconds_per_call("f", "float32") == pytest.approx(1.5 / 50)
    assert manifest.seconds_per_call("other", "float32") is None


def test_another_kind_of_folder_is_refused(tmp_path):
    (tmp_path / "output.json").write_text('{"identity": {"kind": "something else"}}')
    with pytest.raises(DescriptionError, match="kind"):
        Manifest(Place.parse(tmp_path)).open()


def test_what_killed_writers_left_is_removed(manifest, tmp_path):
    out = tmp_path / "out"
    manifest.commit("tile-1", [row("a")])
    pictures = out / "pictures" / "gamma-0.3-12345678"
    pictures.mkdir(parents=True)
    (pictures / "a.png").write_bytes(b"whole")
    (out / "pictures" / "tile-1.tar").write_bytes(b"whole")
    rubbish = [
        out / ".output.json.0a1b2c3d.part",
        out / ".job.yaml.0a1b2c3d.part",
        out / "manifest" / ".tile-2.parquet.0a1b2c3d.part",
        pictures / ".b.png.0a1b2c3d.part",
        out / "pictures" / ".tile-2.tar.0a1b2c3d.part",
        out / "pictures" / "tile-2.tar",
    ]
    for file in rubbish:
        file.write_bytes(b"half")
    manifest.store.remove_uncommitted()
    assert not any(file.exists() for file in rubbish)
    assert (pictures / "a.png").exists()
    assert (out / "pictures" / "tile-1.tar").exists()


def test_a_pair_in_two_parts_counts_once_and_is_dropped_from_the_second(manifest):
    """Two runs that wrote at once, as they could before outputs had a fence."""
    for part, pairs in (("a", "12"), ("b", "23"), ("c", "3")):
        manifest.commit(part, [{"pair": pair, "status": "ok", "error": part} for pair in pairs])
    assert manifest.known().repeated == 2
    assert manifest.counts() == (3, 0)
    kept = sorted(zip(*manifest.table(["pair", "error"]).to_pydict().values(), strict=True))
    assert kept == [("1", "a"), ("2", "a"), ("3", "b")]
    assert manifest.drop_repeated() == 2
    assert manifest.known().repeated == manifest.drop_repeated() == 0
    assert manifest.store.parts() == ["a", "b"]
    assert sorted(zip(*manifest.table(["pair", "error"]).to_pydict().values(), strict=True)) == kept
