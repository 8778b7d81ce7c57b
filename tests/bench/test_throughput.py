"""The table of whole jobs against their number of pairs. What it measured is in docs/notes/speed.md."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.places import DATA

from pipeline.bench import throughput


@pytest.mark.parametrize(
    ("pairs", "sides"), [(1, (1, 1)), (7, (7, 1)), (10, (5, 2)), (100, (10, 10)), (1000, (40, 25))]
)
def test_sides(pairs, sides):
    assert throughput.sides(pairs) == sides


def test_pictures_are_distinct_and_the_same_every_time(tmp_path):
    source = DATA / "pictures" / "styles"
    for name in ("one", "other"):
        throughput.turned_pictures(source, tmp_path / name, 30)
    one, other = ([path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in ("one", "other"))
    assert one == other
    assert len({np.asarray(Image.open(path)).tobytes() for path in (tmp_path / "one").iterdir()}) == 30


def test_a_process_is_not_charged_with_its_parents_memory():
    held = np.ones(50_000_000)  # 400 MB, all of it touched
    code = "from pipeline.bench.peak import peak_mib; print(peak_mib())"
    child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 0 < float(child.stdout) < held.nbytes / 2**20


@pytest.mark.long
def test_the_table(monkeypatch):
    monkeypatch.setattr(throughput, "STEPS", 3)
    measure, jobs = throughput.measure, []
    monkeypatch.setattr(throughput, "measure", lambda *job: jobs.append(measure(*job)) or jobs[-1])
    counts = (2, 4)
    said, empty, head, rule, *rows = throughput.throughput("cpu", counts)
    assert "3 network calls a pair" in said
    assert empty == ""
    assert head.count("|") == rule.count("|")
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[:2] for row in cells] == [["2", "2 x 1"], ["4", "2 x 2"]]
    for n, row, job in zip(counts, cells, jobs, strict=True):
        assert min(job.start_up, job.banks, job.injection, job.end) > 0
        times = (job.whole, job.start_up, job.banks, job.injection, job.end)
        assert row[2:7] == [f"{seconds:.1f}" for seconds in times]
        assert row[7:] == [f"{n / job.injection:.2f}", f"{n / job.whole:.2f}", f"{job.peak:.0f}"]
        assert 50 < job.peak < 5000
