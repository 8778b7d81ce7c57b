"""Results kept in the cache folder: found again, and never in the way where the file is damaged or can't be written."""

from __future__ import annotations

import json
import logging

import pytest

from pipeline.storage.cache_table import CacheTable

TABLE = CacheTable("sums.json", without="sums are made again")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DIFFSTYLE_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.WARNING)
    return tmp_path / "cache"


def test_entries_are_kept_beside_each_other_and_another_jobs_too(cache):
    assert TABLE.get("a") is None
    TABLE.put("a", {"sum": 1})
    known = json.loads((cache / "sums.json").read_text())
    (cache / "sums.json").write_text(json.dumps({**known, "another job's": {"sum": 2}}))
    TABLE.put("b", {"sum": 3})
    assert [TABLE.get(key) for key in ("a", "another job's", "b")] == [{"sum": 1}, {"sum": 2}, {"sum": 3}]
    assert [file.name for file in cache.iterdir()] == ["sums.json"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [(b"{", "can't be read"), (b"\xff", "can't be read"), (b"[]", "no table"), (b'{"a": 1}', "")],
)
def test_a_damaged_file_is_told_and_written_anew(cache, caplog, damage, told):
    cache.mkdir()
    (cache / "sums.json").write_bytes(damage)
    assert TABLE.get("a") is None
    assert (told in caplog.text and "sums are made again" in caplog.text) if told else not caplog.text
    TABLE.put("a", {"sum": 1})
    assert TABLE.get("a") == {"sum": 1}


def test_a_cache_that_cannot_be_written_is_told(cache, caplog):
    cache.touch()
    TABLE.put("a", {"sum": 1})
    assert "can't be written" in caplog.text
    assert "next time sums are made again" in caplog.text


def test_without_a_cache_folder_nothing_is_kept(monkeypatch):
    for name in ("DIFFSTYLE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError))
    TABLE.put("a", {"sum": 1})
    assert TABLE.place is None
    assert TABLE.get("a") is None
