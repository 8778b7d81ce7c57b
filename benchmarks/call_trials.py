"""Whether a network call gets faster by parts in another form: the same network before and after, in one run.

    python benchmarks/call_trials.py --device cuda --write docs/notes/speed.md   # on a GPU, some eight minutes
    python benchmarks/call_trials.py --device cpu --write docs/notes/speed.md    # on a CPU, about as long
    python benchmarks/call_trials.py --device cpu --size 64 --pairs 1            # a small form of it

For each model (random weights) a profile of a call, and for each trial of ``call_swaps.py``: whether it computes the
same (in float64 on the CPU, within 1e-10 of the untouched network), how near its estimate is to the untouched network's
in the same precision, and the median time of a call before and after, in pairs that take turns. On a GPU a call is
compiled and recorded as CUDA graphs, as jobs do it, and then eager; compiling takes most of a minute each. On a CPU
only what has no kernel of its own is timed. The page is written after every trial, so a run that is cut short loses
nothing, and no trial begins that would probably end after ``--seconds``.

It needs PyTorch, PyYAML and this tree, and nothing else that the project uses.
"""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import call_profile
import torch
import yaml
from call_swaps import SWAPS, norm_kernels, swapped
from torch import Tensor, nn

from diffstyle.errors import ConfigError
from diffstyle.networks.architecture import Architecture, architecture_from_dict
from diffstyle.networks.build import build_unet
from diffstyle.networks.unet import UNet
from pipeline.bench.machine import allow_tf32, machine, matmul_peak
from pipeline.bench.pages import publish, write_between
from pipeline.models.accelerate import speed_up_halves, tuned
from pipeline.models.cuda_graphs import GraphedHalves

TREE = Path(__file__).resolve().parents[1]
#: What is allowed: the relative difference in float64, and decibels to the untouched network by precision.
EXACT = 1e-10
GATE = {"float32": 100.0, "float16": 60.0, "bfloat16": 40.0}
#: The trial that swaps nothing: a call without what goes into the graphs' memory and out of it.
COPIES = "copies"
WORDS = {name: words for name, (words, _) in SWAPS.items()} | {COPIES: "without the graphs' copies in and out"}
#: What can pay on a CPU; the others are written for a GPU's kernels, so there they are only checked.
ON_A_CPU = ("fold", "phases")
HEADER = (
    *("call", "trial", "float64", "dB to the untouched", "dB to float32, before and after"),
    *("ms, before", "ms, after", "less", "of the peak, before", "after"),
)


def markers(device: str) -> tuple[str, str]:
    """The lines between which a device's tables stand in docs/notes/speed.md."""
    return f"<!-- call trials {device}: begin -->", f"<!-- call trials {device}: end -->"


def architecture(model: str) -> Architecture:
    """That of a config by name, or of a YAML file."""
    path = Path(model) if model.endswith(".yaml") else TREE / "configs" / f"{model}.yaml"
    if not path.is_file():
        raise ConfigError(f"--model {model}: there is no file {path}")
    return architecture_from_dict(yaml.safe_load(path.read_text())["architecture"])


def random_network(a: Architecture) -> UNet:
    """With random weights, no tensor of them zero, that keep activations near 1."""
    unet = build_unet(a).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in unet.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
        if parameter.ndim > 1:
            parameter.mul_((1.0 if parameter.ndim == 2 else 0.5) / parameter[0].numel() ** 0.5)
        else:
            parameter.mul_(0.02).add_(name.endswith("weight"))
    return unet


@torch.inference_mode(False)
def call_flops(a: Architecture, size: int) -> float:
    """Floating-point operations of a call on one picture by the untouched network, counted without computing."""
    from torch.utils.flop_counter import FlopCounterMode

    unet = build_unet(a, "meta").requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        unet(torch.empty(1, 3, size, size, device="meta"), torch.zeros(1, device="meta"))
    return float(counter.get_total_flops())


def call(unet: UNet, x: Tensor, t: Tensor) -> Tensor:
    """The estimate (B, 3, H, W) by both halves, which may be graphs."""
    return unet.decode(*unet.encode(x, t))


def feature_maps(unet: UNet, x: Tensor, t: Tensor) -> list[Tensor]:
    """h and the last feature map, in the type that the network computes in: its ends, which no trial touches, don't."""
    last: nn.Module = unet.up[0] if hasattr(unet, "up") else unet.output_blocks[-1]
    outputs: list[Tensor] = []
    hook = last.register_forward_hook(lambda module, given, output: outputs.append(output))
    encoded = unet.encode(x, t)
    unet.decode(*encoded)
    hook.remove()
    return [encoded.h, *outputs]


def float64_errors(unet: UNet, names: list[str], size: int) -> dict[str, float]:
    """Trial -> the largest relative difference of its feature maps in float64 on the CPU, of a picture of ``size``."""
    x, t = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1)), torch.full((1,), 500)
    wanted = feature_maps(copy.deepcopy(unet).cast(torch.float64), x, t)
    errors = {}
    for name in names:
        # Swapped in float64: weights that are added up are rounded to the network's own type afterwards.
        maps = feature_maps(swapped(copy.deepcopy(unet).cast(torch.float64), SWAPS[name][1]), x, t)
        errors[name] = max(float((one - right).norm() / right.norm()) for one, right in zip(maps, wanted, strict=True))
    return errors


def inputs(batch: int, size: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Two batches of noise (B, 3, H, W) and their timesteps."""
    generator = torch.Generator().manual_seed(2)
    for t in (500, 20):
        x = torch.randn(batch, 3, size, size, generator=generator)
        yield x.to(device), torch.full((batch,), t, device=device)


def estimates(unet: UNet, batch: int, size: int, device: str) -> Tensor:
    """A network's estimates for all inputs, on the CPU."""
    return torch.cat([call(unet, x, t).float().cpu() for x, t in inputs(batch, size, device)])


def decibels(answer: Tensor, wanted: Tensor) -> float:
    """PSNR, the peak being the range of the wanted values; infinite where all are equal."""
    error = float((answer.double() - wanted.double()).square().mean().sqrt())
    peak = float(wanted.max() - wanted.min())
    return float("inf") if error == 0 else float(20 * torch.log10(torch.tensor(peak / error)))


def paired(before: Callable[[], Any], after: Callable[[], Any], pairs: int, device: str) -> list[tuple[float, float]]:
    """Seconds of both, run one after the other so many times; which one is first takes turns.

    On a CPU with one thread they are the processor's, to which other programs add less than to the clock's.
    """
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def seconds(run: Callable[[], Any]) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        begun = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - begun

    seconds(before), seconds(after)
    times = []
    for pair in range(pairs):
        if pair % 2:
            second = seconds(after)
            times.append((seconds(before), second))
        else:
            times.append((seconds(before), seconds(after)))
    return times


def without_copies(graphed: GraphedHalves) -> Callable[[], None]:
    """A call whose inputs are where the graphs read them, and whose outputs stay where the graphs write them."""

    def run() -> None:
        graphed._replay_encode()
        graphed._replay_decode()

    return run


def release(device: str) -> None:
    """Give back the memory of networks that are gone; one with graphs refers to itself, so it waits for this."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Row:
    """One trial, called in one way."""

    kind: str
    words: str
    seconds: list[tuple[float, float]]
    """Of a batch, before and after; none where it was not timed."""
    exact: float | None = None
    near: float | None = None
    to_float32: tuple[float, float] | None = None

    def line(self, flops: float, peak: float, gate: float) -> str:
        """A line of the table; ``flops`` of a batch by the untouched network, which both times are held against."""
        cells = [self.kind, self.words]
        cells.append("" if self.exact is None else f"{self.exact:.0e}{'' if self.exact <= EXACT else ', **wrong**'}")
        cells.append("" if self.near is None else f"{self.near:.1f}{'' if self.near >= gate else ', **too far**'}")
        cells.append("" if self.to_float32 is None else "{:.1f}, {:.1f}".format(*self.to_float32))
        if not self.seconds:
            return f"| {' | '.join([*cells, *[''] * 5])} |"
        before, after = (median(times) for times in zip(*self.seconds, strict=True))
        less = [100 * (1 - second / first) for first, second in self.seconds]
        low, middle, high = quantiles(less, n=4) if len(less) > 1 else less * 3
        cells += [f"{before * 1e3:.2f}", f"{after * 1e3:.2f}", f"{middle:.1f} % ({low:.1f} to {high:.1f})"]
        cells += [f"{flops / before / peak:.1%}", f"{flops / after / peak:.1%}"]
        return f"| {' | '.join(cells)} |"


class Trials:
    """A model in one precision on one device, and what was measured so far."""

    def __init__(self, model: str, precision: str, options: argparse.Namespace) -> None:
        a = architecture(model)
        self.options, self.device, self.batch = options, options.device, options.batch
        self.precision, self.dtype = precision, getattr(torch, precision)
        self.size = options.size or a.image_size
        self.heading = f"{Path(model).stem}, {precision}, {self.size} px, batch of {self.batch}"
        self.flops = self.batch * call_flops(a, self.size)
        allow_tf32(False)
        self.peak = matmul_peak(self.dtype, self.device)
        self.unet = random_network(a)
        self.profiles: dict[str, Counter[str]] = {}
        self.rows: list[Row] = []
        self.notes: list[str] = []

    def lines(self) -> list[str]:
        """The tables so far."""
        peak = f"Measured matrix-product peak: {self.peak / 1e12:.{0 if self.peak > 1e13 else 2}f} TFLOP/s."
        profile = call_profile.table(self.profiles, self.device) if self.profiles else []
        table = [f"| {' | '.join(HEADER)} |", "| --- " * len(HEADER) + "|"]
        table += [row.line(self.flops, self.peak, GATE[self.precision]) for row in self.rows]
        return [f"#### {self.heading}", "", peak, "", *profile, "", *table, *([""] * bool(self.notes)), *self.notes]

    def steps(self, names: list[str], exact: dict[str, float]) -> Iterator[None]:
        """Each way to call and each trial, one at a step."""
        shape = (self.batch, self.size, self.device)
        right = estimates(tuned(copy.deepcopy(self.unet).to(self.device), self.device), *shape)
        for kind in self.options.calls:
            before = self._ready(self.unet, kind)
            untouched = estimates(before, *shape)
            x, t = next(inputs(*shape))
            self.profiles[kind] = call_profile.times_by_name(partial(call, before, x, t), self.device)
            print(f"\n{self.heading}, {kind}: what takes longest")
            print(*call_profile.longest(self.profiles[kind], self.device, self.options.longest), sep="\n", flush=True)
            yield
            for name in names:
                if name == COPIES:
                    graphed = getattr(vars(before).get("encode"), "__self__", None)
                    if isinstance(graphed, GraphedHalves):
                        times = self._paired(partial(call, before, x, t), without_copies(graphed))
                        self.rows.append(Row(kind, WORDS[name], times))
                    continue
                swap = SWAPS[name][1]
                if self.device == "cuda" and norm_kernels is None and (swap.norm or swap.residual):
                    self.notes.append(f"- {WORDS[name]}: not tried, since there is no Triton here")
                    continue
                other = self._ready(swapped(self.unet, swap), kind)
                answers = estimates(other, *shape)
                times = []
                if self.device == "cuda" or name in ON_A_CPU:
                    times = self._paired(partial(call, before, x, t), partial(call, other, x, t))
                near, to_float32 = decibels(answers, untouched), (decibels(untouched, right), decibels(answers, right))
                self.rows.append(Row(kind, WORDS[name], times, exact.get(name), near, to_float32))
                del other
                release(self.device)
                yield
            del before
            release(self.device)

    def _ready(self, unet: UNet, kind: str) -> UNet:
        """A copy on the device, in the precision; compiled, and on a GPU recorded as graphs, as jobs do it."""
        unet = tuned(copy.deepcopy(unet).cast(self.dtype).to(self.device), self.device)
        if kind == "compiled" and self.device == "cuda":
            note = speed_up_halves(unet, self.device, self.batch, compiled=True)
            if "declined" in note:
                self.notes.append(f"- {note}")
        elif kind == "compiled":
            unet.encode, unet.decode = torch.compile(unet.encode), torch.compile(unet.decode)
        return unet

    def _paired(self, before: Callable[[], Any], after: Callable[[], Any]) -> list[tuple[float, float]]:
        return paired(before, after, self.options.pairs, self.device)


def option_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", nargs="+", default=["celebahq", "afhq-dog"], help="configs by name, or YAML files")
    parser.add_argument("--size", type=int, help="side of the pictures in px; the model's if omitted")
    parser.add_argument("--batch", type=int, help="pictures in a call; if omitted 32 on a GPU, 1 on a CPU")
    parser.add_argument("--precision", nargs="+", choices=GATE, help="float16 on a GPU, else float32 and bfloat16")
    parser.add_argument("--calls", nargs="+", choices=("compiled", "eager"), help="both on a GPU, else eager")
    parser.add_argument("--trials", nargs="+", choices=WORDS, default=list(WORDS))
    parser.add_argument("--pairs", type=int, help="timed calls before and after; if omitted 30 on a GPU, 7 on a CPU")
    parser.add_argument("--exact-size", type=int, default=32, help="side in px of the picture in float64, on a CPU")
    parser.add_argument("--longest", type=int, default=12, help="kernels or operations to print, by their time")
    parser.add_argument("--seconds", type=float, default=480, help="begin no trial that would probably end later")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the tables between their markers of a page")
    return parser


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """The options, with what the device decides where they were omitted."""
    options = option_parser().parse_args(arguments)
    gpu = options.device == "cuda"
    if gpu and not torch.cuda.is_available():
        raise ConfigError("--device cuda: there is no CUDA device here")
    options.batch = options.batch or (32 if gpu else 1)
    options.precision = options.precision or (["float16"] if gpu else ["float32", "bfloat16"])
    options.calls = options.calls or (["compiled", "eager"] if gpu else ["eager"])
    options.pairs = options.pairs or (30 if gpu else 7)
    return options


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    begun = time.monotonic()
    options = read_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if "compiled" in options.calls:
        torch._dynamo.config.recompile_limit = 1000  # every network compiles the same functions again
    lines = [machine(options.device), ""]
    if options.device == "cuda" and norm_kernels is not None:
        types = [getattr(torch, precision) for precision in options.precision]
        wrong = [words for words, error, allowed in norm_kernels.worst_errors("cuda", types) if not error <= allowed]
        lines += [f"Triton kernels, each by itself: {f'**wrong** for {wrong}' if wrong else 'all right'}.", ""]
        lines += [*(f"- {line}" for line in norm_kernels.tune()), ""]
    names = [name for name in options.trials if name in SWAPS]
    longest = 0.0
    for model in options.model:
        exact: dict[str, float] = {}
        for precision in options.precision:
            trials = Trials(model, precision, options)
            if options.device == "cpu" and not exact:
                exact = float64_errors(trials.unet, names, options.exact_size)
            steps = trials.steps(options.trials, exact)
            while True:
                step_begun = time.monotonic()
                if step_begun - begun + longest > options.seconds:
                    trials.notes.append(f"- What is missing was not begun: {options.seconds:.0f} s were allowed.")
                    break
                if next(steps, "all done"):
                    break
                longest = max(longest, time.monotonic() - step_begun)
                if options.write:
                    write_between(options.write, markers(options.device), "\n".join([*lines, *trials.lines()]))
            lines += [*trials.lines(), ""]
    publish(lines[:-1], options.write, markers(options.device))


if __name__ == "__main__":
    main()
