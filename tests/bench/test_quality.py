"""The benchmark with known answers: its measures, its pairs, and a whole small run."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support.places import DATA, ROOT

from diffstyle.checkpoint import load_unet
from diffstyle.errors import ConfigError
from pipeline.bench import quality
from pipeline.bench.bootstrap import interval, mean_interval
from pipeline.bench.heldout import load_pairs
from pipeline.bench.quality_page import BEGIN, END, tables, write_page
from pipeline.jobfile.load import load_job
from pipeline.measures.pixels import colour_distance, edge_correlation, matched_colours, psnr
from pipeline.measures.vgg import MissingExtraError


@pytest.fixture(scope="module")
def heldout(tmp_path_factory) -> Path:
    """Eight drawings (a disc somewhere), each plain and in two paintings (other colours), one of them unseen."""
    rows = []
    for n in range(8):
        for painting, background, ink in (
            ("plain", (255, 255, 255), (0, 0, 0)),
            ("style01", (200, 80, 40), (40, 20, 90)),
            ("style02", (30, 120, 60), (240, 230, 80)),
        ):
            y, x = np.mgrid[:64, :64]
            inside = (y - 16 - 4 * n) ** 2 + (x - 48 + 4 * n) ** 2 < 150
            pixels = np.where(inside[..., None], ink, background).astype(np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            rows.append(
                {
                    "image": stream.getvalue(),
                    "drawing": f"disc-{n}",
                    "painting": painting,
                    "unseen_painting": painting == "style02",
                }
            )
    path = tmp_path_factory.mktemp("heldout") / "heldout.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_pairs_know_their_truth(heldout):
    pairs = load_pairs(heldout, 16, 32)
    assert pairs.content.shape == pairs.style.shape == pairs.truth.shape == (16, 3, 32, 32)
    assert all(pairs.drawings.count(drawing) == 2 for drawing in set(pairs.drawings))
    # The truth has A's shapes in B's colours.
    assert edge_correlation(pairs.truth, pairs.content).min() > 0.9
    assert edge_correlation(pairs.style, pairs.content).max() < 0.9
    assert colour_distance(pairs.truth, pairs.style).max() < 0.1
    other = load_pairs(heldout, 4, 32, unseen=True)
    assert colour_distance(other.style, pairs.style[:4]).min() > 0.5
    again = load_pairs(heldout, 16, 32)
    torch.testing.assert_close(again.style, pairs.style)


def test_a_wrong_file_is_named(tmp_path, heldout):
    with pytest.raises(
        ConfigError,
        match=r"none.parquet: no such file; .* are demo/heldout.parquet in the source tree",
    ):
        load_pairs(tmp_path / "none.parquet", 4, 32)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"image": [b""]}), other)
    with pytest.raises(ConfigError, match="lacks the columns"):
        load_pairs(other, 4, 32)


def test_measures_at_their_ends():
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    y = torch.rand(3, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(edge_correlation(x, x), torch.ones(3))
    assert edge_correlation(x, y).abs().max() < 0.3
    assert colour_distance(x, x).max() == 0
    assert colour_distance(torch.ones(1, 3, 8, 8), -torch.ones(1, 3, 8, 8)) == 1
    assert psnr(x, x).min() > 90
    assert colour_distance(matched_colours(x, y), y).max() < colour_distance(x, y).min() + 0.5
    torch.testing.assert_close(matched_colours(x, y).flatten(2).sort(2).values, y.flatten(2).sort(2).values)


def test_intervals_resample_whole_drawings():
    generator = np.random.default_rng(0)
    values = generator.normal(1.0, 1.0, 40)
    single = mean_interval(values, [str(n) for n in range(40)])
    assert single.low < 1 < single.high
    # Forty copies of the same four values are four drawings, not a hundred and sixty.
    few = mean_interval(np.repeat(values[:4], 40), [str(n) for n in range(4) for _ in range(40)])
    assert few.high - few.low > single.high - single.low
    assert interval(lambda chosen: 2.0, ["a", "b"]).low == 2


def test_a_whole_run_writes_its_page(heldout, tmp_path, monkeypatch):
    def none() -> None:
        raise MissingExtraError("not here")

    monkeypatch.setattr(quality, "VGGFeatures", none)
    unet = load_unet(DATA / "tiny-ddpm.safetensors", None)
    small = ["injection.plan={grid: 8}", "injection.events=8", f"output={tmp_path}"]
    job = load_job(ROOT / "jobs" / "demo.yaml", small)
    settings = quality.one_setting(job.settings())
    assert settings.mask is None
    found = quality.measure(unet, load_pairs(heldout, 4, 32), settings, inversion_steps=8)
    assert found.way["return B"].value == 0
    assert found.way["the truth"].value == pytest.approx(1)
    assert found.scores["return A"].edges_a.min() > 0.99
    assert found.nearer_b["return B"].low > 0 > found.nearer_b["return A"].high
    assert set(found.sweep) == set(quality.GAMMAS)
    assert all(np.isfinite(claim.measured.value) for claim in found.claims)

    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nlast month\n{END}\nafter\n")
    write_page(page, tables(found, "tiny", "a few steps"))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "last month" not in text
    assert "| **DiffStyle** |" in text
    page.write_text("no markers")
    with pytest.raises(ConfigError, match="has no lines"):
        write_page(page, "x")
