"""Samples as a source."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.whole_jobs import MODEL

from diffstyle.noise import seeded_noise
from diffstyle.plan import sampling_plan
from diffstyle.sampling import ddim_sample
from pipeline.banks.description import BankDescription
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import role_tensors
from pipeline.jobfile.schema import SampleSpec
from pipeline.models.config import load_model_config
from pipeline.models.load import load_model
from pipeline.models.session import LoadedModel
from pipeline.stages.invert import missing_samples, open_bank
from pipeline.stages.sample import SampleUnit, sample_source
from pipeline.stages.walk import Walk
from pipeline.storage.identity import digest
from pipeline.storage.place import Place

STEPS = 4


@pytest.fixture(scope="module")
def unet():
    return load_model(load_model_config(str(MODEL)))


@pytest.fixture
def bank(unet, tmp_path):
    description = BankDescription(
        model_fingerprint=unet.fingerprint,
        model_name="tiny",
        image_size=32,
        format="parquet",
        inversion=Walk(STEPS, sample_seed=7).to_dict(),
        preprocessing={},
        tensors=role_tensors("both", 32, unet.h_shape, (333, 999), h_dtype="float32"),
    )
    return open_bank(Place.parse(str(tmp_path / "bank")), description, {})


def drawn(bank, unet, *numbers: int, batch: int = 2) -> SampleUnit:
    unit = SampleUnit(bank.root, bank.description, 7, numbers)
    table, failures = unit.save(unit.compute(LoadedModel(unet, "cpu", batch), unit.load()))
    assert not failures
    bank.commit(unit.name, table)
    return unit


def test_a_sample_is_plain_sampling_from_its_own_noise(bank, unet):
    drawn(bank, unet, 0, 1, 2)
    opened = LatentBank.open(bank.root)
    by_source = {row["source"]: row["image"] for row in opened.index.to_pylist()}
    for number in range(3):
        entry = opened[by_source[sample_source(7, number)]]
        noise = seeded_noise([int(digest("7", str(number))[:16], 16) >> 1], 999, (3, 32, 32))
        np.testing.assert_array_equal(entry.x_t, noise[0])
        _, h = ddim_sample(unet, noise, sampling_plan(STEPS, 999, keep=(333, 999)))
        # The walk goes down, a bank's timesteps go up.
        np.testing.assert_allclose(entry.h, h[0].flip(0), atol=1e-4 * float(h.abs().max()))
        assert entry.key.startswith(f"sample-{number:06d}-")


def test_samples_differ_and_depend_on_seed_and_number_alone(bank, unet):
    one = SampleUnit(bank.root, bank.description, 7, (0, 1)).compute(LoadedModel(unet, "cpu", 2), None)
    again = SampleUnit(bank.root, bank.description, 7, (1, 2)).compute(LoadedModel(unet, "cpu", 2), None)
    np.testing.assert_array_equal(one[0][1], again[0][0])  # x_T
    assert np.abs(one[2][1].astype(int) - again[2][0]).max() <= 1  # pixels
    assert (one[0][0] != one[0][1]).any()
    other = SampleUnit(bank.root, bank.description, 8, (0,)).compute(LoadedModel(unet, "cpu", 2), None)
    assert (one[0][0] != other[0][0]).any()


def test_only_what_the_bank_lacks_is_drawn(bank, unet):
    spec = SampleSpec(sample=4, seed=7)
    assert missing_samples(bank, spec) == [0, 1, 2, 3]
    drawn(bank, unet, 0, 2)
    assert missing_samples(bank, spec) == [1, 3]
    assert missing_samples(bank, SampleSpec(sample=2, seed=8)) == [0, 1]


def test_a_unit_splits_down_to_single_samples(bank):
    unit = SampleUnit(bank.root, bank.description, 7, (3, 4, 5))
    assert [piece.numbers for piece in unit.split()] == [(3,), (4, 5)]
    assert unit.split()[0].split() == []
    assert len({piece.name for piece in (unit, *unit.split())}) == 3
    assert [row["source"] for row in unit.rows] == [sample_source(7, n) for n in (3, 4, 5)]


def test_a_sample_that_is_not_finite_is_a_failure(bank, unet):
    unit = SampleUnit(bank.root, bank.description, 7, (0, 1))
    x_T, h, pixels, finite = unit.compute(LoadedModel(unet, "cpu", 2), None)
    broken = h.copy()
    broken[1, 0, 0] = np.nan
    table, failures = unit.save((x_T, broken, pixels, finite))
    assert len(table) == 1
    assert [row["source"] for row in failures] == [sample_source(7, 1)]
    assert failures[0]["error"].endswith("h has values that are not finite")
    assert unit.save((x_T, broken, pixels, np.array([False, False])))[0] is None
    assert torch.is_grad_enabled()  # the walks leave torch as they found it
