"""Does content travel, does style stay? Injections of held-out drawings against their true paintings.

All that is reported is measured here, on one model and the settings of one job; ``quality_page.py`` writes it up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from diffstyle.extensions import start_from_content
from diffstyle.networks.unet import UNet
from diffstyle.noise import seeded_noise
from diffstyle.sampling import ddim_invert, ddim_sample, inject
from pipeline.bench.batches import over_batches
from pipeline.bench.comparison import METHOD, RECOLOURED, Comparison, Target, compare, targets
from pipeline.bench.heldout import Pairs
from pipeline.bench.peers import linear_transport, sliced_transport, statistics_transfer
from pipeline.jobfile.injection import InjectionSettings
from pipeline.measures.pixels import matched_colours, psnr
from pipeline.measures.vgg import MissingExtraError, VGGFeatures
from pipeline.stages.recipe import injection_plan
from pipeline.stages.walk import Walk

log = logging.getLogger(__name__)


@dataclass
class Group:
    """What was measured on one group of pairs; ``reconstruction``: dB at which the styles come back."""

    n_drawings: int
    n_paintings: int
    reconstruction: float
    comparison: Comparison
    targets: list[Target]

    def __len__(self) -> int:
        return len(self.comparison.drawings)


@dataclass
class Quality:
    """All that a run of the benchmark measured: the groups by name, and the seconds that each part took."""

    groups: dict[str, Group] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether every target is reached in every group."""
        return all(target.reached for group in self.groups.values() for target in group.targets)


class Inverted:
    """Inverted pictures: one is in several pairs, a drawing in pairs of both groups too, and each is inverted once.

    Attributes:
        x_T: (n, 3, S, S), of those met so far.
        h: (n, timesteps, C, h, w); empty where it isn't kept.
    """

    def __init__(self, unet: UNet, steps: int, keeps_h: bool = True) -> None:
        self._unet, self._plan, self._keeps_h = unet, Walk(steps).plan(), keeps_h
        self._numbers: dict[bytes, int] = {}
        self.x_T = self.h = torch.empty(0)

    def numbers(self, pictures: Tensor) -> Tensor:
        """The rows of ``x_T`` and ``h`` that belong to N pictures, (N,); those not met before are inverted."""
        keys = [picture.numpy().tobytes() for picture in pictures]
        new = {key: n for n, key in enumerate(keys) if key not in self._numbers}
        if new:
            chosen = pictures[list(new.values())]
            inverted = over_batches(lambda i: self._inverted(chosen[i]), len(chosen))
            x_T, h = (torch.cat(parts) for parts in zip(*inverted, strict=True))
            self._numbers |= {key: len(self._numbers) + n for n, key in enumerate(new)}
            self.x_T, self.h = torch.cat([self.x_T, x_T]), torch.cat([self.h, h])
        return torch.tensor([self._numbers[key] for key in keys])

    def _inverted(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        x_T, h = ddim_invert(self._unet, pictures, self._plan)
        return x_T, h if self._keeps_h else torch.empty(0)


class Bench:
    """The model and the inverted pictures of a set of pairs; every measurement starts from these.

    Args:
        unet: The model.
        pairs: The pairs.
        inversion_steps: Of DDIM, for contents and styles.
        contents: Drawings inverted before by the same model and steps; those that are missing are added.
    """

    def __init__(self, unet: UNet, pairs: Pairs, inversion_steps: int, contents: Inverted | None = None) -> None:
        self.unet, self.pairs = unet, pairs
        self.walk = Walk(inversion_steps)
        self.grid = self.walk.grid
        contents = contents or Inverted(unet, inversion_steps)
        self._content = contents.numbers(pairs.content)
        self._content_x_T, self._h = contents.x_T, contents.h
        styles = Inverted(unet, inversion_steps, keeps_h=False)
        self._style = styles.numbers(pairs.style)
        self._style_x_T = styles.x_T

    @cached_property
    def returns(self) -> Tensor:
        """The dB at which each pair's style comes back from its x_T, (N,)."""
        walk, x_T = self.walk.back(), self._style_x_T
        back = torch.cat(over_batches(lambda i: ddim_sample(self.unet, x_T[i], walk)[0], len(x_T)))
        return psnr(back[self._style], self.pairs.style)

    def inject(self, settings: InjectionSettings, mask: Tensor | None = None, count: int | None = None) -> Tensor:
        """The results of the first ``count`` pairs (None: all), (count, 3, S, S) in [-1, 1]."""
        plan = injection_plan(settings, self.walk)
        gamma = float(settings.gamma)  # type: ignore[arg-type]

        def one(i: Tensor) -> Tensor:
            def noise(t: int) -> Tensor:
                return seeded_noise([int(n) for n in i], t, self.pairs.style.shape[1:])

            x_T, h = self._style_x_T[self._style[i]], self._h[self._content[i]]
            if settings.start_from_content:
                x_T = start_from_content(x_T, self._content_x_T[self._content[i]], settings.start_from_content)
            return inject(self.unet, x_T, h, self.grid, plan, gamma, omega=settings.omega, mask=mask, noise=noise)

        return torch.cat(over_batches(one, len(self.pairs) if count is None else count)).clamp(-1, 1)


def measure(
    bench: Bench, settings: InjectionSettings, vgg: VGGFeatures | None, slow_peer: bool, seconds: dict[str, float]
) -> Group:
    """Compare the method with its peers and with plain baselines on one group of pairs.

    Args:
        bench: The pairs, inverted.
        settings: One point of a sweep, without a mask, noise or calibration.
        vgg: None leaves out the measures of features, and the peer that needs them.
        slow_peer: Whether to run that peer.
        seconds: What each part took is added here.
    """
    pairs = bench.pairs
    a, b = pairs.content, pairs.style
    with timed(seconds, "injections"):
        results = bench.inject(settings)
    methods = {
        "return A": a,
        "mean of A and B": (a + b) / 2,
        RECOLOURED: matched_colours(a, b),
        "A by sliced transport": sliced_transport(a, b),
        "A by linear transport": linear_transport(a, b),
        METHOD: results,
        f"{METHOD}, then in B's colours": matched_colours(results, b),
    }
    if vgg is not None and slow_peer:
        with timed(seconds, "the slow peer"):
            methods["VGG statistics, 100 steps"] = statistics_transfer(vgg.cast(bench.unet.dtype), a, b)
    with timed(seconds, "measures"):
        comparison = compare(pairs, methods, vgg)
    with timed(seconds, "reconstructions"):
        reconstruction = float(bench.returns.mean())
    n_drawings, n_paintings = len(set(pairs.drawings)), len(set(pairs.paintings))
    return Group(n_drawings, n_paintings, reconstruction, comparison, targets(comparison))


def vgg_if_there() -> VGGFeatures | None:
    """The network that the measures of features need; without its packages None, and a warning that says so."""
    try:
        return VGGFeatures()
    except MissingExtraError as error:
        log.warning("%s; going on without the measures of features and without the slow peer", error)
        return None


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Adds the seconds of its block to one entry of ``seconds``, and logs them."""
    begun = time.perf_counter()
    yield
    took = time.perf_counter() - begun
    seconds[part] = seconds.get(part, 0.0) + took
    log.info("%s: %.0f s", part, took)


def one_setting(settings: Sequence[InjectionSettings]) -> InjectionSettings:
    """The first point of a job's sweep without mask, edit, noise, calibration and extensions.

    Most of these are measured on their own.
    """
    first = settings[0]
    off = {"mask": None, "edit": None, "t_boost": 0, "omega": 0.0, "seed": None}
    return first.model_copy(update={**off, "start_from_content": 0.0, "match_colours": None})


def machine() -> dict[str, Any]:
    """What the numbers were taken with."""
    import platform

    return {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
