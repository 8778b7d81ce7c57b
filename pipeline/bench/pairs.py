"""What a pair costs, from end to end: the presets against the reference's loop, and what a precision loses."""

from __future__ import annotations

import copy
import time

import torch
from torch import Tensor

from diffstyle.blend import blend
from diffstyle.injection import Injection, event_timesteps
from diffstyle.networks.unet import UNet
from diffstyle.plan import Plan, inversion_plan
from diffstyle.sampling import ddim_invert, ddim_step, inject, predicted_picture
from pipeline.bench.calls import Measured, use_plain_norms
from pipeline.bench.machine import allow_tf32
from pipeline.jobfile.injection import PLAN_PRESETS
from pipeline.measures.pixels import psnr
from pipeline.models.accelerate import tuned
from pipeline.models.config import load_model_config
from pipeline.models.load import load_model, random_unet
from pipeline.stages.recipe import steps_of
from pipeline.storage.shipped import shipped_folder

#: The trained models that come with the code: their configs, below the folder ``demo``.
TRAINED = {"tiny": "tiny/tiny-model.yaml", "demo": "model/demo-64.yaml"}
GAMMA = 0.3


@torch.inference_mode()
def reference_loop(
    unet: UNet, x: Tensor, h: Tensor, kept: tuple[int, ...], plan: Plan, gamma: float, steps: int | None = None
) -> Tensor:
    """The plainest form of the method, as the reference runs it: one pair, both decodes at every step.

    x (1, 3, H, W), h (1, K, C, h, w). Injection without mask, noise or calibration. ``steps``: only the first so many.
    """
    for step in plan.steps[:steps]:
        encoded = unet.encode(x, torch.full((1,), step.t, device=x.device))
        e = unet.decode(*encoded)
        hc = h[:, kept.index(step.content_t)] if step.content_t is not None else encoded.h
        mixed = blend(encoded.h, hc, torch.tensor([gamma], device=x.device))
        e_tilde = unet.decode(mixed, encoded.skips, encoded.emb)
        x = ddim_step(predicted_picture(x, e_tilde if step.content_t is not None else e, step.t), e, step.t_next)
    return x


def preset_plan(name: str, kept: tuple[int, ...]) -> Plan:
    """The plan of a preset, for the defaults of a job file."""
    return steps_of(PLAN_PRESETS[name], Injection(event_timesteps(50)), kept)


# ---- trained models that come with the code ----


def trained(name: str) -> UNet:
    """``tiny`` or ``demo``: a trained model that comes with the code."""
    return load_model(load_model_config(shipped_folder("demo") / TRAINED[name]), None)


def pictures(unet: UNet, kind: str, n: int) -> Tensor:
    """The first ``n`` of the tiny model's ``contents`` or ``styles``: (n, 3, H, W)."""
    import numpy as np
    from PIL import Image

    from diffstyle.images import prepare, to_tensor

    paths = sorted((shipped_folder("demo") / "tiny" / "pictures" / kind).glob("*.png"))[:n]
    return torch.stack([to_tensor(np.asarray(prepare(Image.open(path), unet.image_size))) for path in paths])


def whole_method(inverter: UNet, unet: UNet, plan_name: str, n: int, device: str) -> Tensor:
    """Inversion of ``n`` contents and styles, then the injection of each into its neighbour: (n, 3, H, W)."""
    walk = inversion_plan(50)
    x_T, _ = ddim_invert(inverter, pictures(unet, "styles", n).to(device), walk)
    _, h = ddim_invert(inverter, pictures(unet, "contents", n).to(device), walk)
    return inject(unet, x_T, h, walk.kept, preset_plan(plan_name, walk.kept), GAMMA).cpu()


def against_the_loop(n: int) -> list[str]:
    """Whole pairs on the CPU on the trained tiny model: seconds, and PSNR to what the reference's loop makes."""
    unet = trained("tiny")
    walk = inversion_plan(50)
    styles, contents = pictures(unet, "styles", n), pictures(unet, "contents", n)
    x_T, _ = ddim_invert(unet, styles, walk)
    _, h = ddim_invert(unet, contents, walk)
    begun = time.perf_counter()
    grid = preset_plan("reference", walk.kept)
    made = [reference_loop(unet, x_T[k : k + 1], h[k : k + 1], walk.kept, grid, GAMMA) for k in range(n)]
    wanted, loop = torch.cat(made), (time.perf_counter() - begun) / n
    lines = [
        f"Measured, {unet.image_size} px, trained tiny model, gamma {GAMMA}, {n} pairs in one batch.",
        "Target: 12 times, at 40 dB or better.",
        "",
        "| plan | precision | calls | s a pair | times faster | PSNR dB |",
        "| --- " * 6 + "|",
        f"| the reference's loop, batch 1 | float32 | {grid.encodes} | {loop:.2f} | 1 | |",
    ]
    rows = (
        ("balanced", torch.float32),
        ("balanced", torch.bfloat16),
        ("fast", torch.float32),
        ("fast", torch.bfloat16),
    )
    for name, dtype in rows:
        unet = tuned(trained("tiny").cast(dtype), "cpu")
        x_T, _ = ddim_invert(unet, styles, walk)  # in the same precision, as a job does
        _, h = ddim_invert(unet, contents, walk)
        plan = preset_plan(name, walk.kept)
        begun = time.perf_counter()
        result = inject(unet, x_T, h, walk.kept, plan, GAMMA)
        seconds = (time.perf_counter() - begun) / n
        dtype_name = str(dtype).removeprefix("torch.")
        row = f"{plan.encodes} | {seconds:.2f} | {loop / seconds:.1f} | {psnr(result, wanted).mean():.1f}"
        lines.append(f"| {name} | {dtype_name} | {row} |")
    return lines


def precisions(device: str, plans: tuple[str, ...], n: int = 3) -> list[str]:
    """What the lower precisions lose: PSNR of whole results, inversion included, to the same plan in float32.

    The last column inverts in float32 and generates in bfloat16.
    """
    kinds = [("bfloat16", torch.bfloat16, False)]
    if device == "cuda":
        kinds = [("TF32", torch.float32, True), ("float16", torch.float16, False), *kinds]
    heads = [*(f"{kind}, dB" for kind, _, _ in kinds), "bfloat16 from a float32 bank, dB"]
    lines = [f"| model | plan | {' | '.join(heads)} |", "| --- " * (2 + len(heads)) + "|"]
    for name in ("tiny", "demo"):
        for plan in plans:
            cells = []
            allow_tf32(False)
            exact = trained(name)
            wanted = whole_method(exact.to(device), exact, plan, n, device)
            for _, dtype, tf32 in kinds:
                allow_tf32(tf32)
                unet = copy.deepcopy(exact).cast(dtype)
                cells.append(f"{psnr(whole_method(unet, unet, plan, n, device), wanted).mean():.1f}")
            cells.append(
                f"{psnr(whole_method(exact, unet, plan, n, device), wanted).mean():.1f}"
            )  # the last is bfloat16
            lines.append(f"| {name}, {exact.image_size} px | {plan} | {' | '.join(cells)} |")
    return lines


# ---- 256 px ----


def extrapolated(calls: dict[str, Measured], size: int) -> list[str]:
    """Pairs at ``size`` from measured calls, where running the loop itself would take hours."""
    lines = [
        f"Extrapolated to {size} px: measured halves of a call times their number, no run from end to end. Target: 12.",
        "",
        "| model | the reference's loop, s | plan | float32, s | times faster | bfloat16, s | times faster |",
        "| --- " * 7 + "|",
    ]
    kept = inversion_plan(50).kept
    for model, measured in calls.items():
        _, encode, decode = measured.halves[0]
        loop = 1000 * (encode + 2 * decode)
        for name in PLAN_PRESETS:
            plan = preset_plan(name, kept)
            halves = (measured.of(torch.float32), measured.of(torch.bfloat16))
            times = [plan.encodes * encode + plan.decodes * decode for encode, decode in halves]
            cells = " | ".join(f"{seconds:.0f} | {loop / seconds:.1f}" for seconds in times)
            lines.append(f"| {model} | {loop:.0f} | {name} | {cells} |")
    return lines


def on_a_gpu(calls: dict[str, Measured], size: int, loop_steps: int = 100) -> list[str]:
    """Pairs at ``size`` run whole on the compiled networks, against the first steps of the reference's loop."""
    lines = [
        f"Measured at {size} px, random weights; of the reference's 1000 steps {loop_steps} were run:",
        "",
        "| model | plan | arithmetic | pairs in a batch | calls | s a pair | times faster |",
        "| --- " * 7 + "|",
    ]
    kept = inversion_plan(50).kept
    for model, measured in calls.items():
        unet = random_unet(load_model_config(model).unet_architecture).to("cuda")
        use_plain_norms(unet, True)
        allow_tf32(False)
        x, h = torch.randn(1, 3, size, size, device="cuda"), torch.randn(1, len(kept), *unet.h_shape, device="cuda")
        grid = preset_plan("reference", kept)
        reference_loop(unet, x, h, kept, grid, GAMMA, 5)
        torch.cuda.synchronize()
        begun = time.perf_counter()
        reference_loop(unet, x, h, kept, grid, GAMMA, loop_steps)
        torch.cuda.synchronize()
        loop = (time.perf_counter() - begun) * len(grid.steps) / loop_steps
        lines.append(f"| {model} | the reference's loop | float32 | 1 | {grid.encodes} | {loop:.2f} | 1 |")
        del unet
        for kind, (network, batch) in measured.networks.items():
            allow_tf32(kind == "TF32")
            x = torch.randn(batch, 3, size, size, device="cuda")
            h = torch.randn(batch, len(kept), *network.h_shape, device="cuda")
            for name in ("balanced", "fast"):
                plan = preset_plan(name, kept)
                begun = time.perf_counter()
                inject(network, x, h, kept, plan, GAMMA).cpu()
                seconds = (time.perf_counter() - begun) / batch
                row = f"{batch} | {plan.encodes} | {seconds:.3f} | {loop / seconds:.0f}"
                lines.append(f"| {model} | {name} | {kind} | {row} |")
    return lines
