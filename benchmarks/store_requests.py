"""Count the requests that a job makes to S3, on moto's server, and write the table into a page.

python benchmarks/store_requests.py --write docs/running.md
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests")]

MARKERS = ("<!-- store_requests: begin -->", "<!-- store_requests: end -->")


def table() -> str:
    """The table, in Markdown."""
    import boto3
    from support.s3 import s3_server
    from support.s3_faults import KINDS
    from support.s3_requests import SIDE, WHAT, requests, upload

    from pipeline.storage.place import Place

    lines = [f"| {SIDE * SIDE} pairs of {2 * SIDE} pictures in | | {' | '.join(KINDS)} |"]
    lines.append(f"| --- | --- |{' ---: |' * len(KINDS)}")
    with s3_server() as (address, store), tempfile.TemporaryDirectory() as folder:
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="bucket")
        bucket = Place.parse("s3://bucket")
        upload(bucket)
        for pairs_a_tile in (SIDE, 1):
            counts = requests(store, bucket, Path(folder), pairs_a_tile)
            for what in WHAT:
                tiles = f"{SIDE * SIDE // pairs_a_tile} tiles" if what == WHAT[0] else ""
                lines.append(f"| {tiles} | {what} | {' | '.join(str(counts[what][kind]) for kind in KINDS)} |")
    return "\n".join([*lines, "", "Made by `python benchmarks/store_requests.py --write docs/running.md`."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="a page to write the table into")
    page = parser.parse_args().write
    text = table()
    print(text)
    if page is not None:
        from pipeline.bench.pages import write_between

        write_between(page, MARKERS, text)


if __name__ == "__main__":
    main()
