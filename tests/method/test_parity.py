"""The whole method against numbers that another implementation computed: a plain float64 transcription of the papers.

These come with the project (``tests/data/parity.npz``, see ``support/parity.py``); the official implementation's own
numbers are ``test_golden.py``'s, where ../shared is there. The networks here are untrained and the pictures noise, so
they say nothing of style; they say whether the arithmetic is right.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import by_the_book, parity

from diffstyle.plan import inversion_plan, sampling_plan
from diffstyle.sampling import ddim_invert, ddim_sample, inject

#: Of the largest value in the expected numbers. The library computes in float32; measured, it is off by 3e-6 to 2e-5.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def frozen() -> dict[str, np.ndarray]:
    with np.load(parity.FILE) as numbers:
        return dict(numbers)


@pytest.fixture(scope="module", params=parity.FAMILIES)
def family(request, frozen):
    """(name, network, x_T and h of the three pictures)."""
    unet = parity.network(request.param)
    drawn = parity.some_weights(unet)
    np.testing.assert_allclose(drawn, frozen[f"{request.param}/weights"], atol=1e-6, err_msg="other weights are drawn")
    walk = inversion_plan(parity.N_INVERSION)
    return request.param, unet, *ddim_invert(unet, torch.from_numpy(frozen["pictures"]), walk)


def near(found: torch.Tensor | np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=tolerance * float(np.abs(expected).max()))


def test_inversion(family, frozen):
    name, _, x_T, h = family
    near(x_T, frozen[f"{name}/x_T"])
    near(h[:, [0, -1]], frozen[f"{name}/h"])


@pytest.mark.parametrize("scenario", parity.SCENARIOS)
def test_injection(family, frozen, scenario):
    name, unet, x_T, h = family
    knobs = parity.SCENARIOS[scenario]
    contents, styles = (list(side) for side in zip(*parity.PAIRS, strict=True))
    draws = [parity.noise(pair) for pair in range(len(parity.PAIRS))]
    results = inject(
        unet,
        x_T[styles],
        h[contents],
        inversion_plan(parity.N_INVERSION).kept,
        parity.library_plan(scenario),
        torch.tensor([knobs["gamma"]]) if isinstance(knobs.get("gamma"), tuple) else knobs.get("gamma", 0.3),
        omega=knobs.get("omega", 0.0),
        mask=torch.from_numpy(parity.mask())[None].float() if knobs.get("masked") else None,
        noise=lambda t: torch.from_numpy(np.stack([draw(t) for draw in draws])).float(),
    )
    near(results, frozen[f"{name}/{scenario}"])


def test_each_scenario_tells_on_its_knobs(frozen):
    """What a scenario changes moves its results by far more than the tolerance."""
    for family in parity.FAMILIES:
        base = frozen[f"{family}/base"]
        for scenario in parity.SCENARIOS.keys() - {"base"}:
            other = frozen[f"{family}/{scenario}"]
            assert np.abs(other - base).max() > 100 * TOLERANCE * np.abs(base).max(), scenario


def test_the_frozen_numbers_are_still_those_of_the_transcription(family, frozen):
    name, unet, *_ = family
    calls = parity.transcribed(unet)
    inverted = [by_the_book.invert(calls, picture, parity.N_INVERSION) for picture in frozen["pictures"]]
    near(np.stack([x_T for x_T, _ in inverted]), frozen[f"{name}/x_T"], 1e-6)
    for scenario in ("calibrated", "masked"):
        near(parity.by_book(calls, inverted, scenario, 0), frozen[f"{name}/{scenario}"][0], 1e-6)


def test_plain_sampling_is_injection_without_events(family):
    _name, unet, x_T, _ = family
    back, _ = ddim_sample(unet, x_T, sampling_plan(parity.N_GENERATION))
    calls = parity.transcribed(unet)
    grid = by_the_book.seq(parity.N_GENERATION)
    expected = [by_the_book.inject(calls, x.numpy(), {}, grid=grid, events=(), gamma=0) for x in x_T]
    near(back, np.stack(expected))
