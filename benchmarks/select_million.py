"""How long `diffstyle select` takes to look at a million pairs, from the start of the command to its last line.

    python benchmarks/select_million.py [--pairs N] [--write docs/select.md]

A run of that size without pictures is made first: a manifest and scores in parts of 10,000 rows, as tiles make them.
Each command is then run twice, in a process of its own, and the faster one counts.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.bench.pages import publish
from pipeline.results.manifest import MANIFEST_SCHEMA, Manifest
from pipeline.results.scores import SCORES, SCORES_SCHEMA, Scores
from pipeline.storage.place import Place

MARKERS = ("<!-- million: begin -->", "<!-- million: end -->")
PART = 10_000
COMMANDS = (
    ["--where", "content_kept > 0.5 AND style_gram < 0.5"],
    ["--where", "style_label = 'label 3' AND content_kept > (SELECT median(content_kept) FROM pairs)"],
    ["--where", "content_kept > 0.5", "--best", "style_gram", "--per-style", "100"],
    ["--where", "content_kept > 0.5", "--licence", "cc0", "--splits", "train=0.8,test=0.2"],
    ["--where", "COLUMNS('^(edges|dark)$') > 0.5"],
)


def make(output: Place, n: int) -> None:
    """A run of n pairs, of a thousand styles."""
    manifest, scores = Manifest(output), Scores(output)
    manifest.open()
    scores.open({"of": "nothing"})
    generator = np.random.default_rng(0)
    for part, start in enumerate(range(0, n, PART)):
        numbers = range(start, min(n, start + PART))
        pairs = [hashlib.blake2b(str(k).encode(), digest_size=16).hexdigest() for k in numbers]
        columns: dict[str, list[object]] = {
            "pair": list(pairs),
            "status": ["ok"] * len(pairs),
            "picture": [f"pictures/gamma-1-0123456789ab/{pair}.png" for pair in pairs],
            "picture_hash": pairs[::-1],
            "format": ["png"] * len(pairs),
            "gamma": [0.3] * len(pairs),
            "settings": ["0123456789abcdef" * 2] * len(pairs),
        }
        for side, of in (("content", [k // 1000 for k in numbers]), ("style", [k % 1000 for k in numbers])):
            names = [hashlib.blake2b(f"{side}{k}".encode(), digest_size=16).hexdigest() for k in of]
            columns |= {
                f"{side}_key": [f"picture-{k:06}-{name[:12]}" for k, name in zip(of, names, strict=True)],
                f"{side}_image": list(names),
                f"{side}_source": [f"/data/{side}/{k:06}.jpg" for k in of],
                f"{side}_label": [f"label {k % 50}" for k in of],
                f"{side}_meta": [f'{{"licence": "cc0", "number": {k}}}' for k in of],
            }
        manifest.commit(f"tile-{part:05}", _table(columns, MANIFEST_SCHEMA, len(pairs)))
        values: dict[str, object] = {name: generator.random(len(pairs), np.float32) for name in SCORES}
        hashes = [row.tobytes() for row in generator.integers(0, 256, (len(pairs), 8), np.uint8)]
        scores.commit(f"score-{part:05}", _table({**values, "pair": pairs, "phash": hashes}, SCORES_SCHEMA, len(pairs)))


def _table(columns: dict[str, object], schema: pa.Schema, n: int) -> pa.Table:
    arrays = [pa.array(columns[one.name], one.type) if one.name in columns else pa.nulls(n, one.type) for one in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def measured(output: Path, options: list[str]) -> tuple[float, float, float, str]:
    """Seconds by the clock, seconds of all cores, gigabytes and the last line of a command: of two runs the faster."""
    best = (float("inf"), 0.0, 0.0, "")
    for _ in range(2):
        begun = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "select", str(output), *options], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        text = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        assert status == 0, text
        seconds = time.perf_counter() - begun
        cpu, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6
        best = min(best, (seconds, cpu, memory, text.strip().splitlines()[-1]))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    head = ("`diffstyle select RUN ...`", "seconds", "of all cores", "memory", "chosen")
    busy = f"{os.cpu_count()} cores, on which {os.getloadavg()[0]:.0f} other programs wanted to run"
    lines = [f"{arguments.pairs:,} pairs; {busy}.", ""]
    lines += [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        make(Place.parse(output), arguments.pairs)
        for options in COMMANDS:
            seconds, cpu, memory, last = measured(output, options)
            words = " ".join(f'"{option}"' if " " in option else option for option in options).replace("|", "\\|")
            chosen = last.partition(" of ")[0]
            lines.append(f"| `{words}` | {seconds:.1f} | {cpu:.1f} | {memory:.1f} GB | {chosen} |")
            print(lines[-1], flush=True)
    publish(lines, arguments.write, MARKERS)


if __name__ == "__main__":
    main()
