"""The arithmetic of the calibration page: rank correlation, AUC, their intervals, over all and style by style."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.places import ROOT

spec = importlib.util.spec_from_file_location("score_calibration", ROOT / "benchmarks" / "score_calibration.py")
calibration = importlib.util.module_from_spec(spec)
spec.loader.exec_module(calibration)

values = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=30)


@given(values)
def test_rank_correlation_is_scipys(pairs):
    stats = pytest.importorskip("scipy.stats")
    x, y = np.array(pairs, float).T
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert calibration.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    else:
        assert calibration.spearman(x, y) == 0


@given(values)
def test_auc_is_the_share_of_pairs_in_the_right_order(pairs):
    score, good = np.array([p[0] for p in pairs], float), np.array([p[1] > 0 for p in pairs])
    orders = [(a > b) + (a == b) / 2 for a in score[good] for b in score[~good]]
    assert calibration.auc(score, good) == pytest.approx(np.mean(orders) if orders else 0.5)


def test_a_score_that_tells_in_one_style_and_turns_in_another():
    generator = np.random.default_rng(0)
    drawings = [f"drawing {n // 2}" for n in range(80)]
    paintings = ["oil", "ink"] * 40
    near = [generator.random(80) for _ in range(3)]
    sign = np.array([1, -1] * 40)
    scores = [{"turning": one * sign, "noise": generator.random(80), "good": one + 0} for one in near]
    styles = calibration.by_style(scores, near, drawings, paintings)
    assert list(styles) == ["ink", "oil"]
    assert styles["oil"]["turning"][0].value == pytest.approx(1)
    assert styles["ink"]["turning"][0].value == pytest.approx(-1)
    over_all = calibration.judged(scores, near, drawings)
    assert over_all["good"][2].value == 1
    text = "\n".join(calibration.page(over_all, styles, {"turning": True, "noise": False, "good": None}))
    rows = {line.split("`")[1]: line for line in text.split("\n\n")[0].splitlines() if "`" in line}
    assert rows["turning"].endswith("| no | 1, the other way round in 1 |")
    assert rows["good"].endswith("| yes | 2 |")
    assert rows["noise"].endswith("| no | 0 |")
    assert text.count("style by style") == 2
    assert "| score | ink | oil |" in text


def test_of_too_few_drawings_no_style_is_judged_by_itself():
    near = [np.arange(8.0)]
    table = calibration.judged([{"good": near[0]}], near, list("abcdefgh"))
    styles = calibration.by_style([{"good": near[0]}], near, list("abcdefgh"), ["oil"] * 4 + ["ink"] * 4)
    assert styles == {}
    assert "Too few drawings" in "\n".join(calibration.page(table, styles, {"good": True}))
