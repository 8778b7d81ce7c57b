from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.measures.frechet import Moments, frechet_distance

seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, n: int = 40, d: int = 5, offset: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) + generator.normal(size=d) + offset


@given(seeds, st.integers(1, 12), st.sampled_from([0.0, 1e4]))
def test_moments_do_not_depend_on_the_blocks(seed, size, offset):
    x = drawn(seed, offset=offset)
    moments = Moments.of(x[start : start + size] for start in range(0, len(x), size))
    assert moments.n == len(x)
    np.testing.assert_allclose(moments.mean, x.mean(0))
    np.testing.assert_allclose(moments.covariance, np.cov(x.T), rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(seeds)
def test_the_definition_with_a_matrix_root(seed):
    linalg = pytest.importorskip("scipy.linalg")
    x, y = drawn(seed), drawn(seed + 1)
    a, b = np.cov(x.T), np.cov(y.T)
    root = linalg.sqrtm(a @ b).real
    wanted = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * root)
    assert frechet_distance(Moments.of([x]), Moments.of([y])) == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@given(seeds)
def test_symmetric_and_nothing_to_itself(seed):
    x, y = Moments.of([drawn(seed)]), Moments.of([drawn(seed + 1)])
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_known_answer_of_one_dimension():
    """Two normal distributions on a line: (difference of means)^2 + (difference of standard deviations)^2."""
    x = np.array([[-1.0], [1.0]])
    distance = frechet_distance(Moments.of([x]), Moments.of([3 * x + 5]))
    assert distance == pytest.approx(25 + (3 * 2**0.5 - 2**0.5) ** 2)
