"""The parity scenarios: two tiny random networks, three pictures, the method's knobs one by one, and frozen numbers.

The numbers in ``tests/data/parity.npz`` were computed by the plain float64 transcription in ``by_the_book`` and
``networks_by_the_book``, not by the library. To write the file again, from the project's root:

    PYTHONPATH=tests python -m support.parity
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffstyle.injection import Injection, aligned_plan, grid_plan
from diffstyle.networks.architecture import ADMArchitecture, DDPMArchitecture
from diffstyle.networks.unet import UNet
from diffstyle.plan import Plan, inversion_plan
from pipeline.models.load import random_unet
from support import by_the_book, networks_by_the_book

FILE = Path(__file__).parents[1] / "data" / "parity.npz"
FAMILIES = ("ddpm", "adm")
N_INVERSION, N_GENERATION, N_EVENTS = 8, 12, 6
EVENTS = tuple(by_the_book.seq(N_EVENTS))  # 0, 199, 399, 599, 799, 999
PAIRS = ((0, 2), (1, 2), (0, 1))  # (content, style) of the three pictures
#: Of the networks' last layer: an untrained network is no denoiser, and a loud one drives the state out of its range.
CALM = 0.02

#: What each scenario changes. Thresholds lie exactly on events, where "at or above" and "above" differ.
SCENARIOS: dict[str, dict[str, Any]] = {
    "base": {},
    "masked": {"gamma": 0.8, "masked": True},
    "boosted": {"t_edit": 399, "t_boost": 399, "dt_lambda": 0.9, "dt_end": 799},
    "calibrated": {"gamma": 0.6, "omega": 0.3, "t_edit": 399, "t_boost": 399, "dt_lambda": 0.9, "dt_end": 799},
    "by_injection": {"gamma": (0.9, 0.1, 0.5), "t_edit": 599},
    "aligned": {"aligned": True, "t_boost": 199},
}


def network(family: str) -> UNet:
    """A network of 16 px with random weights; its h is 8 x 8."""
    if family == "ddpm":
        unet = random_unet(DDPMArchitecture(16, 32, (1, 2), 1, (8,)))
        last = unet.conv_out
    else:
        unet = random_unet(ADMArchitecture(16, 32, (1, 2), 1, (8,), 16, learn_sigma=True))
        last = unet.out[-1]
    with torch.no_grad():
        last.weight.mul_(CALM)  # type: ignore[operator, union-attr]
        last.bias.mul_(CALM)  # type: ignore[operator, union-attr]
    return unet


def transcribed(unet: UNet) -> by_the_book.Calls:
    """The same network, written out."""
    kind = networks_by_the_book.DDPM if hasattr(unet, "conv_out") else networks_by_the_book.ADM
    return kind(unet.state_dict(), unet.architecture)


def some_weights(unet: UNet) -> np.ndarray:
    """Of the first and the last tensor, to tell other weights from other arithmetic."""
    tensors = list(unet.state_dict().values())
    return np.concatenate([tensor.flatten()[:50].numpy() for tensor in (tensors[0], tensors[-1])])


def pictures() -> np.ndarray:
    """(3, 3, 16, 16) in [-1, 1]."""
    return np.clip(np.random.RandomState(0).standard_normal((3, 3, 16, 16)), -1, 1).astype(np.float32)


def noise(pair: int) -> Callable[[int], np.ndarray]:
    """t -> (3, 16, 16) standard normal, for a pair."""
    return lambda t: np.random.RandomState(1000 * pair + t).standard_normal((3, 16, 16))


def mask() -> np.ndarray:
    """The reference's own, (1, 8, 8): rows 4 to 6, columns 3 and 4."""
    grid = np.zeros((1, 8, 8))
    grid[:, 4:7, 3:5] = 1
    return grid


def library_plan(name: str) -> Plan:
    """A scenario's plan, as the library writes it."""
    knobs = SCENARIOS[name]
    injection = Injection(
        EVENTS,
        t_edit=knobs.get("t_edit", 400),
        t_boost=knobs.get("t_boost", 0),
        dt_lambda=knobs.get("dt_lambda", 1.0),
        dt_end=knobs.get("dt_end", 950),
        calibrate=bool(knobs.get("omega")),
    )
    kept = inversion_plan(N_INVERSION).kept
    if knobs.get("aligned"):
        return aligned_plan(injection, kept, between=2, tail=4, order=1)
    return grid_plan(injection, kept, N_GENERATION)


def by_book(
    family_network: by_the_book.Calls, inverted: list[tuple[np.ndarray, dict[int, np.ndarray]]], name: str, pair: int
) -> np.ndarray:
    """A pair's result (3, 16, 16) in a scenario, by the transcription."""
    knobs = dict(SCENARIOS[name])
    grid, events = by_the_book.seq(N_GENERATION), EVENTS
    if knobs.pop("aligned", False):  # which steps the aligned grid takes is the library's own; what they do is not
        grid = [step.t for step in library_plan(name).steps]
        events = tuple(t for t in EVENTS if t in grid)  # one that would do nothing is no step of it
    if knobs.pop("masked", False):
        knobs["mask"] = mask()
    gamma = knobs.pop("gamma", 0.3)
    if isinstance(gamma, tuple):
        gamma = dict(zip(sorted((t for t in EVENTS if t >= knobs["t_edit"]), reverse=True), gamma, strict=True))
    content, style = PAIRS[pair]
    return by_the_book.inject(
        family_network,
        inverted[style][0],
        inverted[content][1],
        grid=grid,
        events=events,
        gamma=gamma,
        noise=noise(pair),
        **knobs,
    )


def write() -> None:
    """Compute all numbers by the transcription and write ``FILE``."""
    arrays: dict[str, np.ndarray] = {"pictures": pictures()}
    for family in FAMILIES:
        unet = network(family)
        arrays[f"{family}/weights"] = some_weights(unet)
        calls = transcribed(unet)
        inverted = [by_the_book.invert(calls, picture, N_INVERSION) for picture in pictures()]
        arrays[f"{family}/x_T"] = np.stack([x_T for x_T, _ in inverted])
        first, *_, last = sorted(inverted[0][1])
        arrays[f"{family}/h"] = np.stack([[h[first], h[last]] for _, h in inverted])
        for name in SCENARIOS:
            results = [by_book(calls, inverted, name, pair) for pair in range(len(PAIRS))]
            arrays[f"{family}/{name}"] = np.stack(results)
    np.savez_compressed(FILE, **{name: array.astype(np.float32) for name, array in arrays.items()})


if __name__ == "__main__":
    write()
