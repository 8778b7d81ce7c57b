"""The Fréchet distance of two sets of embeddings, each taken as a normal distribution (Dowson and Landau 1982)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class Moments:
    """Mean and covariance of embeddings that come block by block, in memory for the D x D of them."""

    def __init__(self) -> None:
        self.n = 0
        self._mean = np.zeros(0)
        self._scatter = np.zeros((0, 0))

    @classmethod
    def of(cls, blocks: Iterable[np.ndarray]) -> Moments:
        """Of all rows of some blocks (N, D)."""
        moments = cls()
        for block in blocks:
            moments.add(block)
        return moments

    def add(self, block: np.ndarray) -> None:
        """Count the rows of (N, D) in (Chan et al. 1979: exact also where the mean is large)."""
        if not len(block):
            return
        block = block.astype(np.float64)
        mean, n = block.mean(0), len(block)
        if not self.n:
            self._mean, self._scatter = np.zeros_like(mean), np.zeros((len(mean), len(mean)))
        step, total = mean - self._mean, self.n + n
        centred = block - mean
        self._scatter += centred.T @ centred + np.outer(step, step) * (self.n * n / total)
        self._mean = self._mean + step * (n / total)
        self.n = total

    @property
    def mean(self) -> np.ndarray:
        """(D,)."""
        return self._mean

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), unbiased; needs two rows or more."""
        return self._scatter / (self.n - 1)


def frechet_distance(x: Moments, y: Moments) -> float:
    """Squared distance of the means plus Tr(Cx + Cy - 2 (Cx Cy)^(1/2)); 0 for the same mean and covariance.

    Sets of at most D rows have a covariance that is not whole; the distance is then too large, and comparable only
    between sets of equal size.
    """
    root = _root(x.covariance)
    eigenvalues = np.linalg.eigvalsh(root @ y.covariance @ root)
    both = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    apart = np.square(x.mean - y.mean).sum() + np.trace(x.covariance) + np.trace(y.covariance) - 2 * both
    return max(0.0, float(apart))


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
