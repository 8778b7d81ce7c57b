"""How near each inversion comes to the x_T that a picture was sampled from, and what that does to results.

    python benchmarks/inversions.py [--golden FOLDER --golden FOLDER --pictures PHOTOGRAPHS] --write docs/notes/speed.md

Models and pictures as in preset_settings.py. x_T: four pictures are sampled from seeded noise in 1000 steps and
inverted; the noise is known, so no error is hidden as in a reconstruction. Round trip: sampled again by 100
second-order calls. Results: pairs of pictures, inverted so, against the same inverted in 1000 steps, all with the plan
`balanced`. Of both, the lowest of all. A run with ``--keep`` that is cut short goes on where it was.

``leapfrog`` is the symmetric two-step scheme y(k+1) = y(k-1) + (sigma(k+1) - sigma(k-1)) e(k) of y = x / sqrt(a), of
the kind of BDIA (arXiv 2307.10829); ``three-point`` is O-BELM's (arXiv 2410.07273), exact for a straight line of e.
Both are trials: no job takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import TypeVar

import torch
from preset_settings import Pairs, cases, lowest_psnr, option_parser
from torch import Tensor

from diffstyle.injection import Injection, aligned_plan, event_timesteps
from diffstyle.networks.unet import UNet
from diffstyle.noise import seeded_noise
from diffstyle.plan import inversion_plan, sampling_plan
from diffstyle.sampling import ddim_invert, ddim_sample, inject
from diffstyle.schedule import a_at, sigma_at, timesteps
from pipeline.bench.pages import publish
from pipeline.storage.identity import digest

MARKERS = ("<!-- inversions: begin -->", "<!-- inversions: end -->")
# A scheme: network, pictures -> x_T, h at its timesteps, those, and its network calls.
Scheme = Callable[[UNet, Tensor], tuple[Tensor, Tensor, tuple[int, ...], int]]


def library(steps: int, order: int) -> Scheme:
    """An inversion that a job may ask for."""

    def run(unet: UNet, pictures: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...], int]:
        plan = inversion_plan(steps, order=order)
        return *ddim_invert(unet, pictures, plan), plan.kept, plan.encodes

    return run


def two_step(steps: int, *, exact_line: bool) -> Scheme:
    """The symmetric schemes: leapfrog, or with ``exact_line`` O-BELM's three points."""

    @torch.inference_mode()
    def run(unet: UNet, pictures: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...], int]:
        grid = timesteps(steps)
        kept = []
        before, y, gap_before = None, pictures / sqrt(a_at(grid[0])), 0.0
        for t, t_next in pairwise(grid):
            gap = sigma_at(t_next) - sigma_at(t)
            encoded = unet.encode(y * sqrt(a_at(t)), torch.full((len(y),), t))
            kept.append(encoded.h.float())
            e = unet.decode(*encoded)
            if before is None:
                moved = y + gap * e
            elif exact_line:
                ratio = gap / gap_before
                moved = ratio**2 * before + (1 - ratio**2) * y + gap * (1 + ratio) * e
            else:
                moved = before + (gap + gap_before) * e
            before, y, gap_before = y, moved, gap
        return y * sqrt(a_at(grid[-1])), torch.stack(kept, 1), grid[:-1], len(kept)

    return run


SCHEMES: dict[str, Scheme] = {
    f"{words}, {steps} steps": scheme
    for steps in (26, 50)
    for words, scheme in (
        ("`grid`", library(steps, 1)),
        ("`second-order`", library(steps, 2)),
        ("leapfrog", two_step(steps, exact_line=False)),
        ("three-point", two_step(steps, exact_line=True)),
    )
}


def result(pairs: Pairs, scheme: Scheme) -> Tensor:
    """The pairs' results (n, 3, H, W), both sides inverted by a scheme."""
    x_T, *_ = scheme(pairs.unet, pairs.styles)
    _, h, kept, _ = scheme(pairs.unet, pairs.contents)
    return inject(pairs.unet, x_T, h, kept, aligned_plan(Injection(event_timesteps(50)), kept))


Values = TypeVar("Values")


def kept(keep: Path | None, pairs: Pairs, words: str, make: Callable[[], Values]) -> Values:
    """What ``make`` gives, or gave an earlier run of this file with the same model, pictures and torch."""
    if keep is None:
        return make()
    pictures = digest(pairs.contents.numpy().tobytes(), pairs.styles.numpy().tobytes())
    code = digest(Path(__file__).read_bytes())
    file = keep / f"inversions-{digest(pairs.unet.fingerprint, pictures, code, torch.__version__, words)}.pt"
    if not file.exists():
        keep.mkdir(parents=True, exist_ok=True)
        torch.save(make(), file)
    return torch.load(file)


def main() -> None:
    options = option_parser(__doc__.splitlines()[0]).parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    calls: dict[str, int] = {}
    measured: dict[str, list[tuple[float, float, float]]] = {words: [] for words in SCHEMES}
    names = []
    for pairs in cases(options.golden, options.pictures, options.pairs):
        names.append(pairs.name)
        noise = seeded_noise(range(4), 0, pairs.x_T.shape[1:])
        sampled = kept(
            options.keep, pairs, "sampled", lambda p=pairs, z=noise: ddim_sample(p.unet, z, sampling_plan(1000))[0]
        )
        wanted = kept(options.keep, pairs, "wanted", lambda p=pairs: result(p, library(1000, 1)))
        for words, scheme in SCHEMES.items():

            def figures(scheme=scheme, pairs=pairs, noise=noise, sampled=sampled, wanted=wanted) -> tuple[float, ...]:
                x_T, *_, n = scheme(pairs.unet, sampled)
                back, _ = ddim_sample(pairs.unet, x_T, sampling_plan(100, order=2))
                error = float((x_T - noise).norm() / noise.norm())
                return n, error, lowest_psnr(back, sampled), lowest_psnr(result(pairs, scheme), wanted)

            calls[words], *values = kept(options.keep, pairs, words, figures)
            measured[words].append(tuple(values))
            print(pairs.name, words, *(f"{value:.4f}" for value in values), flush=True)
    header = [*(f"x_T error, {name}" for name in names), "round trip, dB", "results, dB"]
    lines = [f"| inversion | calls | {' | '.join(header)} |", "| --- " * (2 + len(header)) + "|"]
    for words, values in measured.items():
        errors, *lowest = zip(*values, strict=True)
        cells = [*(f"{error:.4f}" for error in errors), *(f"{min(dB):.1f}" for dB in lowest)]
        lines.append(f"| {words} | {calls[words]} | {' | '.join(cells)} |")
    publish(lines, options.write, MARKERS)


if __name__ == "__main__":
    main()
