"""A network set up to run fast on its device, with results within rounding of before; docs/speed.md has the figures."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pipeline.models import cache_folder

if TYPE_CHECKING:
    from diffstyle.unet import UNet

# Below this side a network is a matter of milliseconds a call, and a job of minutes: less than compiling takes.
COMPILE_FROM = 128


def compiles(choice: bool | str, device: str, image_size: int) -> bool:
    """Whether to compile: as ``compute.compile`` says, and for ``auto`` on a GPU for large pictures.

    Not by how much there is to do: what is left of a job must be made as the rest of it was, to the last bit.
    """
    return choice is True or (choice == "auto" and device == "cuda" and image_size >= COMPILE_FROM)


def tuned(unet: UNet, device: str) -> UNet:
    """Channels-last weights everywhere: convolutions then keep that layout by themselves.

    On CUDA also cuDNN's own choice of kernels (batches never change their size), and TF32 where float32 is asked for;
    in a half precision the network's ends are exact instead, since they are what limits it.
    """
    import torch

    if device == "cuda":
        tf32 = unet.dtype == torch.float32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True
    return unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def speed_up_halves(unet: UNet, device: str, batch: int, compiled: bool) -> str:
    """Replace ``encode`` and ``decode`` by CUDA graphs of them, ``compiled`` first where wanted, if that works here.

    Returns a line for the log: what is used, or why not. It is tried on random input of the batch that the work will
    have, and compared with the eager network, so that a compiler that is missing or wrong costs some seconds and never
    a picture. What was compiled is kept in the cache folder. Called again for another batch, it replaces the graphs.
    """
    import torch

    from pipeline.graphs import GraphedHalves, cuda_recorder

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    x = torch.randn(batch, 3, unet.image_size, unet.image_size, device=device)
    t = torch.full((batch,), 500, device=device)
    begun = time.perf_counter()
    for half in ("encode", "decode"):  # of an earlier batch size, and the memory that they hold
        vars(unet).pop(half, None)
    said = []
    for compiling in (True, False) if compiled else (False,):
        name = "compiled CUDA graphs" if compiling else "CUDA graphs"
        encode, decode = unet.encode, unet.decode
        try:
            with torch.inference_mode():
                wanted = decode(*encode(x, t))
                if compiling:
                    encode, decode = torch.compile(encode, dynamic=False), torch.compile(decode, dynamic=False)
                graphed = GraphedHalves(encode, decode, x, t, cuda_recorder())
                error = 0.0
                for _ in range(2):
                    encoded = graphed.encode(x, t)
                    for _ in range(2):
                        error = max(error, float((graphed.decode(*encoded) - wanted).norm() / wanted.norm()))
        except (RuntimeError, ImportError, OSError, AssertionError) as problem:  # no compiler, no Triton, an old device
            said.append(f"{name} declined: {' '.join(str(problem).split())[:200]}")
            continue
        if not error < 0.05:  # bfloat16's own rounding is some 0.01 for a call
            said.append(f"{name} declined: its result is off by {error:.3f}")
            continue
        unet.encode, unet.decode = graphed.encode, graphed.decode  # type: ignore[method-assign]
        seconds = time.perf_counter() - begun
        said.append(f"{name} of batches of {batch}: ready in {seconds:.0f} s, within {error:.1e} of the eager network")
        return "; ".join(said)
    return "; ".join([*said, "going on with the eager network"])
