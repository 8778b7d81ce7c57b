"""Principal components of many long vectors in one pass and bounded memory: a sketch of few rows.

Centred vectors are stacked as rows of a matrix. When it is full, its singular value decomposition (by the Gram matrix
of its rows, which is small) keeps the upper half: fewer rows with nearly the same products. Until it is full for the
first time nothing is lost, and the components are exact. The mean moves as vectors come in; the exact correction for
that is one row more a batch. See incremental PCA, Ross et al. 2008 (IJCV 77), and the sketches of Liberty 2013
(arXiv 1206.0594).
"""

from __future__ import annotations

import numpy as np

#: The sketch's size in memory, unless so many components are asked for that it can't be enough.
BUDGET = 512 << 20
_MOST_ROWS = 512
_COLUMNS = 16384  # multiplied at a time, in float64


class Sketch:
    """Mean, variance and principal components of vectors that are added batch by batch.

    Args:
        size: Values of a vector.
        components: How many components will be asked for.
        batch: The most vectors added at once.
        budget: Bytes that the sketch may take; more where the components need it: four rows each.
    """

    def __init__(self, size: int, components: int, batch: int, budget: int = BUDGET) -> None:
        affordable = min(_MOST_ROWS, budget // (4 * size))
        capacity = max(affordable, 4 * components + batch + 1, 2 * (batch + 1))
        self.rows = np.zeros((capacity, size), np.float32)
        self.used = 0
        self.count = 0
        self.mean = np.zeros(size)
        self.square_sums = np.zeros(size)  # of the deviations from the mean, for each value

    def add(self, vectors: np.ndarray) -> None:
        """Add vectors, (n, size) float32, at most ``batch`` of them."""
        n = len(vectors)
        if not n:
            return
        mean = vectors.mean(0, dtype=np.float64)
        moved = mean - self.mean
        moved *= np.sqrt(self.count * n / (self.count + n))
        centred = vectors - mean.astype(np.float32)
        if self.used + n + 1 > len(self.rows):
            self._compress(len(self.rows) // 2)
        self.rows[self.used : self.used + n] = centred
        self.rows[self.used + n] = moved
        self.used += n + 1
        self.square_sums += np.square(centred, dtype=np.float64).sum(0) + np.square(moved)
        self.mean += (mean - self.mean) * n / (self.count + n)
        self.count += n

    def variances(self) -> np.ndarray:
        """Of each value, (size,), exact; unbiased."""
        return self.square_sums / max(self.count - 1, 1)

    def components(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The first ``n`` principal components: unit vectors (n, size), and the variance along each (n,)."""
        squares, mixtures = self._decompose(n)
        vectors = np.zeros((len(squares), self.rows.shape[1]))
        for columns in self._chunks():
            vectors[:, columns] = mixtures.T @ self.rows[: self.used, columns].astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        return vectors, squares / max(self.count - 1, 1)

    def _compress(self, keep: int) -> None:
        """Replace the rows by ``keep`` orthogonal ones with nearly the same products."""
        _, mixtures = self._decompose(keep)
        for columns in self._chunks():
            self.rows[: mixtures.shape[1], columns] = mixtures.T @ self.rows[: self.used, columns].astype(np.float64)
        self.used = mixtures.shape[1]

    def _decompose(self, keep: int) -> tuple[np.ndarray, np.ndarray]:
        """The largest squared singular values of the rows, and as columns what mixes the rows to singular vectors."""
        gram = np.zeros((self.used, self.used))
        for columns in self._chunks():
            part = self.rows[: self.used, columns].astype(np.float64)
            gram += part @ part.T
        squares, mixtures = np.linalg.eigh(gram)
        largest = slice(None, -min(keep, self.used) - 1, -1)
        return np.maximum(squares[largest], 0), mixtures[:, largest]

    def _chunks(self) -> list[slice]:
        size = self.rows.shape[1]
        return [slice(start, start + _COLUMNS) for start in range(0, size, _COLUMNS)]
