"""A picture does not depend on what else was in its batch, bit for bit; and what becomes of memory and of NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.places import DATA

from diffstyle.injection import Injection, grid_plan
from diffstyle.sampling import inject
from pipeline.models.config import load_model_config
from pipeline.models.load import load_model
from pipeline.models.session import LoadedModel
from pipeline.stages.walk import Walk

PAIRS = 7


@pytest.fixture(scope="module")
def unet():
    return load_model(load_model_config(DATA / "tiny-model.yaml"), None)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plan():
    grid = Walk(6).grid
    return grid_plan(Injection(tuple(grid[-3:]), 400, 0, 1.0, 950, calibrate=True), grid, 6, 999)


def made(unet, plan, batch: int, order: list[int]) -> dict[int, np.ndarray]:
    """Pair -> its float32 result, when the pairs of ``order`` go through in batches of ``batch``."""
    context = LoadedModel(unet, "cpu", batch)
    draw = np.random.default_rng(0)
    x_T = torch.from_numpy(draw.standard_normal((PAIRS, 3, 32, 32), np.float32))
    h = torch.from_numpy(draw.standard_normal((PAIRS, len(plan.content_timesteps), *unet.h_shape), np.float32))

    def one(indices):
        chosen = [order[i] for i in indices]
        return list(inject(unet, x_T[chosen], h[chosen], plan.content_timesteps, plan, 0.5, omega=0.3).numpy())

    return dict(zip(order, context.in_batches(len(order), one), strict=True))


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_the_same_bits_in_any_company_and_place(unet, plan, batch):
    whole = made(unet, plan, batch, list(range(PAIRS)))
    shuffled = made(unet, plan, batch, [6, 2, 5, 0, 3, 1, 4])
    for pair in range(PAIRS):
        alone = made(unet, plan, batch, [pair])[pair]
        np.testing.assert_array_equal(alone, whole[pair])
        np.testing.assert_array_equal(alone, shuffled[pair])


def test_another_number_of_threads_or_size_of_batch_is_about_the_same(unet, plan):
    """What may change the last bits is fixed by the job: the batch, and the threads of a worker."""
    one = made(unet, plan, 1, [0])[0]
    np.testing.assert_allclose(made(unet, plan, 4, [0])[0], one, atol=1e-4)
    torch.set_num_threads(2)
    np.testing.assert_allclose(made(unet, plan, 1, [0])[0], one, atol=1e-4)


# ---- out of memory ----


class Device(LoadedModel):
    """A context on a device with room for ``room`` items."""

    def __init__(self, batch: int, room: int) -> None:
        super().__init__(None, "cuda", batch)  # type: ignore[arg-type]
        self.room = room
        self.sizes: list[int] = []

    def results(self, n: int) -> list[int]:
        return self.in_batches(n, self._run)

    def _run(self, indices):
        self.sizes.append(len(indices))
        if len(indices) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [i * i for i in indices]


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def test_out_of_memory_halves_the_batch_and_remembers_it():
    device = Device(batch=16, room=5)
    assert device.results(20) == [i * i for i in range(20)]
    assert device.sizes == [16, 8, 4, 4, 4, 4, 4]
    assert device.results(3) == [0, 1, 4]
    assert device.sizes[7:] == [4]  # filled up, and not 16 again


def test_a_single_item_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        Device(batch=4, room=0).results(4)
