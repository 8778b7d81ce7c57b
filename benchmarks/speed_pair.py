"""One pair at the network's own size on a CPU: the reference's loop, cut short and scaled, against a plan really run.

    python benchmarks/speed_pair.py --threads 1 --write docs/speed.md

Both in one process, one after the other, with random weights, which cost what trained ones do. The loop is the official
code's: float32, PyTorch's own layout, both decodes at each of its 1000 steps; of these the first ``--loop-steps`` are
run and the time is scaled. Seconds are given by the clock and of the processor: where other programs are at work, the
second tells what the pair takes. Inverting the two pictures, which a bank does once, is in neither.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffstyle.plan import inversion_plan
from diffstyle.sampling import inject
from pipeline.bench.calls import use_plain_norms
from pipeline.bench.machine import machine
from pipeline.bench.pages import publish
from pipeline.bench.pairs import GAMMA, preset_plan, reference_loop
from pipeline.models.accelerate import tuned
from pipeline.models.config import load_model_config
from pipeline.models.load import random_unet

MARKERS = ("<!-- pair: begin -->", "<!-- pair: end -->")


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock and of the processor, all its threads together."""
    begun, of_processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - begun, time.process_time() - of_processor


def pair(model: str, loop_steps: int, plans: list[str], precision: str) -> list[str]:
    """The table's lines, each printed when it is ready."""
    config = load_model_config(model)
    unet = random_unet(config.unet_architecture)
    use_plain_norms(unet, True)
    kept = inversion_plan(50).kept
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(1, 3, config.size, config.size, generator=generator)
    h = torch.randn(1, len(kept), *unet.h_shape, generator=generator)
    grid = preset_plan("reference", kept)
    lines = [
        f"{machine('cpu')} {config.name}, {config.size} px, random weights, one pair. Of the loop's {grid.encodes} "
        f"steps the first {loop_steps} were run, and the time is scaled; all else was run whole.",
        "",
        "| plan | arithmetic | network calls | decodes | s by the clock | s of the processor | times less |",
        "| --- " * 7 + "|",
    ]
    print("\n".join(lines), flush=True)
    reference_loop(unet, x_T, h, kept, grid, GAMMA, 1)
    scale = len(grid.steps) / loop_steps
    clock, of_processor = (
        scale * seconds for seconds in timed(lambda: reference_loop(unet, x_T, h, kept, grid, GAMMA, loop_steps))
    )
    loop = of_processor

    def row(name: str, arithmetic: str, calls: int, decodes: int, clock: float, of_processor: float) -> None:
        cells = f"{calls} | {decodes} | {clock:.0f} | {of_processor:.0f} | {loop / of_processor:.1f}"
        lines.append(f"| {name} | {arithmetic} | {cells} |")
        print(lines[-1], flush=True)

    # The official code decodes twice at every step, whether it injects there or not.
    row("the official code's loop", "float32", grid.encodes, 2 * grid.encodes, clock, of_processor)
    use_plain_norms(unet, False)
    unet = tuned(unet.cast(getattr(torch, precision)), "cpu")
    unet.encode(x_T, torch.zeros(1))
    for name in plans:
        plan = preset_plan(name, kept)
        row(name, precision, plan.encodes, plan.decodes, *timed(lambda p=plan: inject(unet, x_T, h, kept, p, GAMMA)))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="afhq-dog")
    parser.add_argument("--loop-steps", type=int, default=60)
    parser.add_argument("--plan", action="append", default=[], help="`fast` by default")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the page's markers")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with torch.inference_mode():
        lines = pair(options.model, options.loop_steps, options.plan or ["fast"], options.precision)
    if options.write:
        publish(lines, options.write, MARKERS)


if __name__ == "__main__":
    main()
