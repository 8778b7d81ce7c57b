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
    def drawn_by(seed, *numbers):
        unit = SampleUnit(bank.root, bank.description, seed, numbers)
        tensors, pixels, _ = unit.compute(LoadedModel(unet, "cpu", 2), None)
        return tensors["x_t"], pixels

    (x_T, pixels), (x_T_again, pixels_again) = drawn_by(7, 0, 1), drawn_by(7, 1, 2)
    np.testing.assert_array_equal(x_T[1], x_T_again[0])
    assert np.abs(pixels[1].astype(int) - pixels_again[0]).max() <= 1
    assert (x_T[0] != x_T[1]).any()
    assert (x_T[0] != drawn_by(8, 0)[0][0]).any()


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
    tensors, pixels, finite = unit.compute(LoadedModel(unet, "cpu", 2), None)
    broken = {**tensors, "h": tensors["h"].copy()}
    broken["h"][1, 0, 0] = np.nan
    table, failures = unit.save((broken, pixels, finite))
    assert len(table) == 1
    assert [row["source"] for row in failures] == [sample_source(7, 1)]
    assert failures[0]["error"].endswith("h has values that are not finite")
    assert unit.save((broken, pixels, np.array([False, False])))[0] is None
    assert torch.is_grad_enabled()  # the walks leave torch as they found it
