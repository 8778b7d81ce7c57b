"""The benchmark with known answers: its measures, its pairs, and a whole small run."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from support.places import DATA, ROOT

from diffstyle.checkpoint import load_unet
from diffstyle.errors import ConfigError
from pipeline.bench import quality
from pipeline.bench.bootstrap import Interval, interval, mean_interval, ratio_interval
from pipeline.bench.comparison import METHOD, RECOLOURED, Target, compare, targets
from pipeline.bench.heldout import Pairs, load_groups, load_pairs
from pipeline.bench.quality_page import markers, write_page
from pipeline.cli.quality import quality as command
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
            inside = (y - 16 - 4 * n) ** 2 + (x - 48 + 4 * n) ** 2 < 120 + 15 * n
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


def test_a_ratio_is_resampled_as_any_statistic():
    generator = np.random.default_rng(1)
    above, below = generator.normal(1, 1, 30), generator.normal(3, 1, 30)
    drawings = [str(n % 11) for n in range(30)]
    slow = interval(lambda chosen: float(above[chosen].sum() / below[chosen].sum()), drawings)
    fast = ratio_interval(above, below, drawings)
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high))


def test_groups_share_the_pairs(heldout, tmp_path):
    groups = load_groups(heldout, 9, 32)
    assert [len(pairs) for pairs in groups.values()] == [5, 4]
    seen, unseen = groups.values()
    assert set(seen.paintings) == {"style01"}
    assert set(unseen.paintings) == {"style02"}
    assert len(seen.first(2)) == 2
    assert seen.first(2).drawings == seen.drawings[:2]
    # All in one group where the file has only one kind of paintings.
    table = pq.read_table(heldout)
    only = tmp_path / "only.parquet"
    pq.write_table(table.filter(pc.not_equal(table["painting"], "style01")), only)
    assert {name: len(pairs) for name, pairs in load_groups(only, 9, 32).items()} == {
        "paintings that training never saw": 9
    }
    pq.write_table(table.filter(pc.equal(table["painting"], "plain")), only)
    with pytest.raises(ConfigError, match="has no paintings"):
        load_groups(only, 9, 32)


def without(rows, drawing, painting):
    return [row for row in rows if (row["drawing"], row["painting"]) != (drawing, painting)]


def changed(rows, number, **values):
    return [row | (values if n == number else {}) for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: without(rows, "disc-3", "style01"), "lacks drawing disc-3 in painting style01;"),
        (
            lambda rows: without(without(rows, "disc-3", "plain"), "disc-4", "plain"),
            "disc-3 in painting plain, and 1 m",
        ),
        (lambda rows: [row for row in rows if row["drawing"] == "disc-0"], "has one drawing alone"),
        (lambda rows: [*rows, rows[4]], "has 2 pictures of drawing disc-1 in painting style01"),
        (lambda rows: changed(rows, 7, painting=None), "the column painting is empty in row 7, counted from 0"),
        (lambda rows: changed(rows, 7, unseen_painting=True), "both true and false of painting style01"),
        (
            lambda rows: [row | {"image": {"bytes": row["image"]}} for row in rows],
            "image holds struct<bytes: binary>, not",
        ),
        (lambda rows: [row | {"unseen_painting": "perhaps"} for row in rows], "unseen_painting holds string, not bool"),
        (lambda rows: [row | {"image": b"no picture"} for row in rows], r"in painting \w+ can't be read: not an image"),
        (lambda rows: [{"drawing": row["drawing"]} for row in rows], "lacks the columns"),
    ],
)
def test_heldout_pictures_that_make_no_pairs_are_one_line(heldout, tmp_path, change, message):
    path = tmp_path / "own.parquet"
    pq.write_table(pa.Table.from_pylist(change(pq.read_table(heldout).to_pylist())), path)
    with pytest.raises(ConfigError, match=message):
        load_groups(path, 16, 32)


def test_heldout_pictures_may_say_true_in_words(heldout, tmp_path):
    """As a CSV does that became Parquet; it went on with no pairs, and no target missed."""
    rows = [row | {"unseen_painting": str(row["unseen_painting"])} for row in pq.read_table(heldout).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")
    groups = load_groups(tmp_path / "own.parquet", 9, 32)
    assert [set(pairs.paintings) for pairs in groups.values()] == [{"style01"}, {"style02"}]


def test_sides_of_a_comparison(heldout):
    """Returning B is where the way begins, the truth where it ends; halfway in pixels is half of the way."""
    pairs = load_pairs(heldout, 16, 32)
    halfway = (pairs.style + pairs.truth) / 2
    comparison = compare(pairs, {RECOLOURED: pairs.content, METHOD: halfway}, None)
    for measure in comparison.measures:
        assert comparison.way("return B", measure.name).value == 0
        assert comparison.way("the truth", measure.name).value == pytest.approx(1)
    assert comparison.way(METHOD, "pixels").value == pytest.approx(0.5)
    assert comparison.scores["return B"]["edges"] == pytest.approx(edge_correlation(pairs.style, pairs.content).numpy())
    verdicts = {target.text: target for target in targets(comparison)}
    assert verdicts["dB to the truth, minus those of A in B's colours"].reached
    worse = compare(pairs, {RECOLOURED: pairs.truth, METHOD: pairs.content}, None)
    verdicts = {target.text: target for target in targets(worse)}
    assert verdicts["dB to the truth, minus those of A in B's colours"].verdict.startswith("missed by")
    assert verdicts["style: distance to A minus distance to B"].verdict.startswith("missed by")


def test_verdicts():
    assert Target("", Interval(0.7, 0.62, 0.8), 0.6).verdict == "reached, by 0.1"
    assert Target("", Interval(0.46, 0.4, 0.5), 0.6).verdict == "missed by 0.14"
    unclear = Target("", Interval(0.7, 0.5, 0.8), 0.6)
    assert unclear.verdict.startswith("not clear: above by 0.1")
    assert not unclear.reached


def test_the_whole_command_writes_its_page(heldout, tmp_path, monkeypatch):
    """The whole command in one process: both groups, the tables and the exit code."""

    def none() -> None:
        raise MissingExtraError("not here")

    monkeypatch.setattr(quality, "VGGFeatures", none)
    page = tmp_path / "page.md"
    begin, end = markers("faces")
    page.write_text(f"before\n{begin}\nlast month\n{end}\nafter\n")
    given = ["demo", "--data", str(heldout), "--pairs", "4", "--tried", "2", "--page", str(page), "--section", "faces"]
    given += ["--set", "model=shipped:demo/tiny/tiny-model.yaml", "--set", "injection.plan={grid: 4}"]
    given += ["--set", "injection.events=4", "--set", "inversion.steps=4"]
    given += ["--set", "compute.precision=bfloat16"]
    ran = CliRunner().invoke(command, given, standalone_mode=False)
    assert ran.exception is None, ran.output
    assert ran.return_value == 3  # an untrained model reaches no target
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "last month" not in text
    for words in ("### Paintings that training saw", "### Paintings that training never saw", "### What was tried"):
        assert words in text
    assert text.count("| **DiffStyle** |") == 5  # measured and on the way, twice; and beside what was tried
    assert "missed by" in text
    assert "plan {'grid': 4}, bfloat16; content is injected from t_start 400 down. Taken" in text  # the job's own words
    assert "nan" not in text
    assert "| start_from_content 0.2, colours then made B's |" in text
    page.write_text("no markers")
    with pytest.raises(ConfigError, match="has no lines"):
        write_page(page, "x")


def test_a_drawing_in_many_pairs_is_inverted_once(heldout, monkeypatch):
    inverted = []
    original = quality.ddim_invert

    def counted(unet, x, plan):
        inverted.append(len(x))
        return original(unet, x, plan)

    monkeypatch.setattr(quality, "ddim_invert", counted)
    unet = load_unet(DATA / "tiny-ddpm.safetensors", None)
    pairs = load_pairs(heldout, 16, 32)
    contents = quality.Inverted(unet, 4)
    bench = quality.Bench(unet, pairs, 4, contents)
    styles = len({picture.numpy().tobytes() for picture in pairs.style})
    assert sum(inverted) == 8 + styles
    quality.Bench(unet, pairs, 4, contents)  # the other group has the same drawings
    assert sum(inverted) == 8 + 2 * styles
    # And each pair has its own: the same as by itself.
    monkeypatch.undo()
    job = load_job(ROOT / "jobs" / "demo.yaml", ["injection.plan={grid: 4}", "injection.events=4"])
    settings = quality.one_setting(job.settings())
    together = bench.inject(settings)
    alone = Pairs(pairs.content[9:10], pairs.style[9:10], pairs.truth[9:10], ["x"], ["y"])
    torch.testing.assert_close(quality.Bench(unet, alone, 4).inject(settings), together[9:10], atol=1e-4, rtol=1e-3)
