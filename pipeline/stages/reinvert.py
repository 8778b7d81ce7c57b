"""Invert pictures of a bank once more and compare: the sample that ``bank verify --reinvert`` takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.banks.description import Latents
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import BankError
from pipeline.models.session import LoadedModel
from pipeline.shards.store import open_shards
from pipeline.stages.walk import Walk
from pipeline.storage.place import Place

# Relative error (root mean square) that two honest inversions may differ by. Rounding to float16 is 3e-4. Computing in
# another batch or with other threads changes last bits, which the steps of a walk carry on: 3e-6 was measured over 50
# float32 steps on a CPU. Devices differ more (a GPU may round convolutions to TF32), and the half precisions compute
# with 8 and 11 bits; the room for these is wide, and still far below what another model or picture makes (1 and more).
_STORED = {"float32": 0.0, "float16": 5e-4}
_COMPUTED = {"float32": 2e-3, "float16": 3e-2, "bfloat16": 1e-1}


class Reinvert:
    """Called with an entry, says what is wrong with it or None; the callable that ``banks.verify`` takes.

    ``open_model`` loads the bank's model; ``rows``: image -> row of the shards in ``shards``. ``compared`` counts the
    entries, ``absent`` those without a picture, of which nothing can be said.
    """

    def __init__(self, bank: LatentBank, open_model: Callable[[], LoadedModel], shards: Place, rows: dict[str, Any]):
        description = bank.description
        self._walk = Walk.of_bank(description)
        if self._walk.sampled:
            raise BankError(f"{bank.place}: holds samples of the model, never inverted; omit --reinvert")
        self._description = description
        self._context = open_model()
        self._store, self._rows = open_shards(shards), rows
        self._plan = self._walk.plan(keep=description.h_timesteps)
        self.compared = self.absent = 0
        self.largest = 0.0  # relative error seen

    def __call__(self, entry: Latents) -> str | None:
        from diffstyle.images import to_tensor

        row = self._rows.get(entry.image)
        if row is None:
            self.absent += 1
            return None
        self.compared += 1
        x_T, h = self._context.walk(to_tensor(self._store.read_many([row])), self._plan)
        description = self._description
        precision = _COMPUTED[self._walk.precision]
        wrong = []
        for name, computed in (("x_t", x_T[0]), ("h", h[0])):
            if not description.keeps(name):
                continue
            error = relative_error(entry.tensors[name], computed)
            self.largest = max(self.largest, error)
            if not error <= precision + _STORED[description.tensor(name).dtype]:
                wrong.append(f"{name} differs by {error:.1%} from a new inversion")
        return f"{' and '.join(wrong)}: another model, picture or code made it" if wrong else None


def relative_error(stored: np.ndarray, computed: np.ndarray) -> float:
    """Root mean square of the difference, relative to that of ``computed``."""
    difference = stored.astype(np.float64) - computed.astype(np.float64)
    size = float(np.mean(computed.astype(np.float64) ** 2))
    return math.sqrt(float(np.mean(difference**2)) / max(size, 1e-30))
