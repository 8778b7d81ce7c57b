"""What a network call costs: eager float32 one at a time, against each thing that is done to make it faster."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from diffstyle.networks.build import build_unet
from diffstyle.networks.unet import GroupNorm, UNet
from pipeline.bench.machine import allow_tf32, matmul_peak, shortest
from pipeline.models.accelerate import speed_up_halves, tuned
from pipeline.models.config import load_model_config
from pipeline.models.load import random_unet

MODELS = ("afhq-dog", "celebahq")


@dataclass(frozen=True)
class Variant:
    """A way to run the network."""

    label: str
    dtype: torch.dtype
    batch: int
    fast_layout: bool = True
    tf32: bool = True
    compiled: bool = False
    plain_norm: bool = False  # GroupNorm by PyTorch's own kernel

    @property
    def peak(self) -> str:
        """The kind of arithmetic, as the peaks are called."""
        tf32 = self.dtype == torch.float32 and self.tf32
        return "TF32" if tf32 else str(self.dtype).removeprefix("torch.")


@dataclass
class Measured:
    """Seconds of encode and decode for one picture, by variant in the order of the table; the fastest network ready."""

    halves: list[tuple[Variant, float, float]] = field(default_factory=list)
    networks: dict[str, tuple[UNet, int]] = field(default_factory=dict)  # compiled ones, by kind of arithmetic

    def of(self, dtype: torch.dtype) -> tuple[float, float]:
        """The halves of the fastest variant of a type."""
        halves = [(encode, decode) for variant, encode, decode in self.halves if variant.dtype == dtype]
        return min(halves, key=sum)


def cpu_variants(batches: tuple[int, ...]) -> list[Variant]:
    """What is measured on a CPU; ``batches``: those in bfloat16."""
    plain = Variant("eager, as the reference", torch.float32, 1, fast_layout=False, tf32=False)
    better = [Variant("channels last", torch.float32, 1, tf32=False)]
    return [plain, *better, *(Variant("channels last", torch.bfloat16, batch, tf32=False) for batch in batches)]


def cuda_variants(batch: int, precisions: tuple[torch.dtype, ...]) -> list[Variant]:
    """What is measured on a GPU; ``precisions``: those to compile for, each of which takes most of a minute."""
    rows = [
        Variant("eager, as the reference", torch.float32, 1, fast_layout=False, tf32=False, plain_norm=True),
        Variant("eager", torch.float32, 1, fast_layout=False, plain_norm=True),
        Variant("eager, channels last", torch.float32, 1),
        Variant("eager, channels last", torch.float32, batch // 2),
        Variant("eager, channels last", torch.bfloat16, batch),
        Variant("eager, channels last", torch.float16, batch),
    ]
    compiled = [
        Variant("compiled, CUDA graphs", dtype, batch if dtype != torch.float32 else batch // 2, compiled=True)
        for dtype in precisions
    ]
    return rows + compiled


def call_flops(name: str, size: int) -> float:
    """FLOPs of one network call on one picture, counted without computing."""
    from torch.utils.flop_counter import FlopCounterMode

    unet = build_unet(load_model_config(name).unet_architecture, "meta").requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        unet(torch.empty(1, 3, size, size, device="meta"), torch.zeros(1, device="meta"))
    return float(counter.get_total_flops())


@torch.inference_mode()
def measure(name: str, variants: list[Variant], device: str, size: int, repeats: int) -> tuple[Measured, list[str]]:
    """A model's variants one after the other; also what the compiler said."""
    measured, notes = Measured(), []
    architecture = load_model_config(name).unet_architecture
    unet = random_unet(architecture).to(device)
    for variant in variants:
        if variant.compiled:  # a network of its own, to be used on
            unet = random_unet(architecture).to(device)
        unet = unet.cast(variant.dtype)
        if variant.fast_layout:
            unet = tuned(unet, device)
        use_plain_norms(unet, variant.plain_norm)
        allow_tf32(variant.tf32)
        if variant.compiled:
            notes.append(f"{name}, {variant.peak}: {speed_up_halves(unet, device, variant.batch, compiled=True)}")
            measured.networks[variant.peak] = unet, variant.batch
        x = torch.randn(variant.batch, 3, size, size, device=device)
        t = torch.full((variant.batch,), 500, device=device)
        encode = shortest(partial(unet.encode, x, t), repeats, device)
        # Not decode alone: the memory of a CUDA graph's tensors is good from one encode to the next.
        call = shortest(partial(_call, unet, x, t), repeats, device)
        measured.halves.append((variant, encode / variant.batch, (call - encode) / variant.batch))
    return measured, notes


def use_plain_norms(unet: UNet, plain: bool) -> None:
    """Every GroupNorm by PyTorch's own kernel, as the reference has it, or as the network has it."""
    for norm in (module for module in unet.modules() if isinstance(module, GroupNorm)):
        vars(norm).pop("forward", None)
        if plain:
            norm.forward = partial(nn.GroupNorm.forward, norm)  # type: ignore[method-assign]


def _call(unet: UNet, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The estimate (B, 3, H, W) by both halves."""
    return unet.decode(*unet.encode(x, t))


def calls(
    device: str, size: int, repeats: int, variants: dict[str, list[Variant]]
) -> tuple[list[str], dict[str, Measured]]:
    """The table's lines, and what was measured by model."""
    kinds = {variant.peak: variant for rows in variants.values() for variant in rows}
    peaks = {}
    for kind, variant in kinds.items():
        allow_tf32(variant.tf32)
        peaks[kind] = matmul_peak(variant.dtype, device)
    peak_rates = ", ".join(f"{kind} {peak / 1e12:.{0 if peak > 1e13 else 2}f} TFLOP/s" for kind, peak in peaks.items())
    lines = [f"Measured matrix-product peaks: {peak_rates}. Pictures of {size} px.", ""]
    lines += ["| model | variant | batch | ms a picture | times faster | TFLOP/s | of its peak |", "| --- " * 7 + "|"]
    measured, notes = {}, []
    for name, rows in variants.items():
        measured[name], said_there = measure(name, rows, device, size, repeats)
        notes += said_there
        flops = call_flops(name, size)
        first = sum(measured[name].halves[0][1:])
        for variant, encode, decode in measured[name].halves:
            seconds = encode + decode
            rate = flops / seconds
            label = f"{variant.label}, {variant.peak}"
            figures = f"{seconds * 1e3:.{0 if seconds > 0.1 else 2}f} | {first / seconds:.2f} | {rate / 1e12:.2f}"
            lines.append(f"| {name} | {label} | {variant.batch} | {figures} | {rate / peaks[variant.peak]:.0%} |")
    return [*lines, *("" for _ in notes[:1]), *(f"- {note}" for note in notes)], measured
