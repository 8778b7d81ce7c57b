"""Count the requests that a job makes to S3, on moto's server, and write the table into a page.

python benchmarks/store_requests.py --write docs/running.md
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests")]

from support.s3_faults import KINDS  # noqa: E402

MARKERS = ("<!-- store_requests: begin -->", "<!-- store_requests: end -->")


def table() -> str:
    """The table, in Markdown."""
    import boto3
    from support.s3 import s3_server
    from support.s3_requests import SIDE, WHAT, requests, upload

    from pipeline.storage.place import Place

    lines = [f"| {SIDE * SIDE} pairs of {2 * SIDE} pictures in | | {' | '.join(KINDS)} |"]
    lines.append(f"| --- | --- |{' ---: |' * len(KINDS)}")
    made = {}
    with s3_server() as (address, store), tempfile.TemporaryDirectory() as folder:
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="bucket")
        bucket = Place.parse("s3://bucket")
        upload(bucket)
        for pairs_a_tile in (SIDE, 1):
            counts = made[SIDE * SIDE // pairs_a_tile] = requests(store, bucket, Path(folder), pairs_a_tile)
            for what in WHAT:
                tiles = f"{SIDE * SIDE // pairs_a_tile} tiles" if what == WHAT[0] else ""
                lines.append(f"| {tiles} | {what} | {' | '.join(str(counts[what][kind]) for kind in KINDS)} |")
    words = in_words(made)
    return "\n".join([*lines, "", words, "", "Made by `python benchmarks/store_requests.py --write docs/running.md`."])


def in_words(made: dict[int, dict[str, Counter[str]]]) -> str:
    """What does not grow with the tiles, and what each takes: a straight line through two numbers of tiles."""
    few, many = sorted(made)
    parts = []
    for what in made[few]:
        each = {kind: (made[many][what][kind] - made[few][what][kind]) // (many - few) for kind in KINDS}
        fixed = {kind: made[few][what][kind] - few * n for kind, n in each.items()}
        name = {"run": "a run of this job takes", "status": "`status` takes"}.get(what, f"a run with {what} takes")
        parts.append(f"{name} {_listed(fixed)}, and {_listed(each)} for each tile")
    text = "; ".join(parts)
    return f"So {text}. Among the PUTs of a run is one for each picture."


def _listed(counts: dict[str, int]) -> str:
    words = [f"{n} {kind}" for kind, n in counts.items() if n]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


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
