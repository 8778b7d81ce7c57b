"""Bytes that a compiled network call moves, by how GroupNorm's channels are counted; needs no GPU.

    python benchmarks/compiled_bytes.py --model celebahq --batch 4

Above the convolutions a call is bound by memory, so what PyTorch's compiler decides to write down and read again is
what it costs. That is decided before any code is made for a device: this counts the bytes that all kernels of one call
read and write, in channels-last and bfloat16 on a CPU, and stops there. "From nothing" loses digits where a mean is
large against its spread, and is there to compare with. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._inductor.graph import GraphLowering

from diffstyle.networks.unet import GroupNorm, UNet
from pipeline.models.config import load_model_config
from pipeline.models.load import random_unet

ORIGINS: dict[str, Callable[[Tensor], Tensor]] = {
    "from nothing": lambda x: torch.zeros(x.shape[:2], device=x.device),
    "from its first value": lambda x: x.flatten(2)[:, :, 0].float(),
    "from the mean of its first 16 values, as it is": GroupNorm.origin,
}


class _Counted(Exception):
    """The bytes are known; nothing needs to be compiled any more."""


def moved(unet: UNet, batch: int) -> tuple[float, int]:
    """Bytes that the kernels of one compiled call read and write, and how many kernels there are."""
    found: list[tuple[float, int]] = []

    def count(graph: GraphLowering) -> Any:
        graph.codegen()
        total, elements, _ = graph.count_bytes()
        found.append((float(total), len(elements)))
        raise _Counted

    original, GraphLowering.compile_to_module = GraphLowering.compile_to_module, count  # type: ignore[method-assign]
    torch._dynamo.reset()
    try:
        x = torch.zeros(batch, 3, unet.image_size, unet.image_size)
        with torch.inference_mode():
            torch.compile(unet, dynamic=False)(x, torch.zeros(batch))
    except torch._dynamo.exc.BackendCompilerFailed:
        if not found:
            raise
    finally:
        GraphLowering.compile_to_module = original  # type: ignore[method-assign]
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="celebahq")
    parser.add_argument("--batch", type=int, default=4)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch")  # of caches that are off on purpose
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)  # and of a compilation that ends early
    torch._inductor.config.force_disable_caches = True
    unet = random_unet(load_model_config(arguments.model).unet_architecture).cast(torch.bfloat16)
    unet = unet.to(memory_format=torch.channels_last)
    GroupNorm.forward = GroupNorm.written_out  # type: ignore[method-assign]  # as on a GPU
    print(f"{arguments.model}, {unet.image_size} px, batch {arguments.batch}, bfloat16; torch {torch.__version__}\n")
    print("| a channel is counted | MB a picture | kernels |\n| --- | ---: | ---: |")
    for name, origin in ORIGINS.items():
        GroupNorm.origin = staticmethod(origin)  # type: ignore[method-assign]
        total, kernels = moved(unet, arguments.batch)
        print(f"| {name} | {total / arguments.batch / 1e6:.0f} | {kernels} |", flush=True)


if __name__ == "__main__":
    main()
