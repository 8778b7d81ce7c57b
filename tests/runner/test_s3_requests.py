"""How many requests a run on S3 makes: no listing for a tile, and no more of any kind than a tile reads and writes."""

from __future__ import annotations

from support.s3 import s3_bucket, s3_endpoint, s3_store  # noqa: F401 - fixtures
from support.s3_requests import SIDE, requests, upload

from pipeline.results.manifest import Manifest
from pipeline.storage.place import Place


def test_requests_grow_with_what_is_read_and_written_and_listings_not_at_all(s3_bucket, s3_store, tmp_path):  # noqa: F811
    bucket = Place.parse(s3_bucket)
    upload(bucket)
    few, many = (requests(s3_store, bucket, tmp_path, pairs_a_tile) for pairs_a_tile in (SIDE, 1))
    tiles = [len(Manifest(bucket / f"out-{n}").store.parts()) for n in (SIDE, 1)]
    assert tiles == [SIDE, SIDE * SIDE]
    more = tiles[1] - tiles[0]
    for what, most in (
        # A tile is a file of the manifest, beside its pictures, which are as many in both, and reads its own h and x_T.
        ("run", {"LIST": 0, "HEAD": 0, "PUT": 1, "GET": 3, "DELETE": 0}),
        ("nothing to do", {"LIST": 0, "HEAD": 0, "PUT": 0, "GET": 3, "DELETE": 0}),
        ("status", {"LIST": 0, "HEAD": 0, "PUT": 0, "GET": 2, "DELETE": 0}),
    ):
        for kind, each in most.items():
            assert many[what][kind] - few[what][kind] <= each * more, (what, kind, few[what], many[what])
    # What does not grow: two data sets, two stores of shards, two banks, the manifest.
    assert few["run"]["LIST"] <= 90
    assert few["nothing to do"]["LIST"] <= 90
    assert few["nothing to do"]["PUT"] <= 10
    assert few["status"]["LIST"] <= 35
    assert few["status"]["PUT"] == few["status"]["DELETE"] == 0
