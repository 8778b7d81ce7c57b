"""A network set up to run fast on its device, with results within rounding of before; docs/speed.md has the figures."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pipeline.models import cache_folder

if TYPE_CHECKING:
    from torch import Tensor

    from diffstyle.unet import Encoded, UNet

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


def compile_halves(unet: UNet, device: str, batch: int) -> str:
    """Replace ``encode`` and ``decode`` by compiled ones that run as CUDA graphs, if that works here.

    Returns a line for the log: that it is used, or why not. It is tried once on random input of the batch that the work
    will have, and compared with the eager network, so that a compiler that is missing or wrong costs some seconds and
    never a picture. What was compiled is kept in the cache folder. On a CPU it isn't tried: the convolutions are the
    library's either way.
    """
    import torch

    from diffstyle.unet import Encoded

    if device != "cuda":
        return f"torch.compile: not used on {device}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    eager_encode, eager_decode = unet.encode, unet.decode
    encode_graph = torch.compile(eager_encode, mode="reduce-overhead", dynamic=False)
    decode_graph = torch.compile(eager_decode, mode="reduce-overhead", dynamic=False)

    # A graph writes its outputs to the same memory each time. A new call of the network begins with encode: what it
    # gives may lie there until the next one, except h, which is kept; a decode's estimate outlives other decodes.
    def encode(x: Tensor, t: Tensor) -> Encoded:
        torch.compiler.cudagraph_mark_step_begin()
        h, skips, emb = encode_graph(x, t)
        return Encoded(h.clone(), tuple(skips), emb)

    def decode(h: Tensor, skips: tuple[Tensor, ...], emb: Tensor) -> Tensor:
        return decode_graph(h, skips, emb).clone()

    begun = time.perf_counter()
    x = torch.randn(batch, 3, unet.image_size, unet.image_size, device=device)
    t = torch.full((batch,), 500, device=device)
    try:
        with torch.inference_mode():
            wanted = eager_decode(*eager_encode(x, t))
            error = 0.0
            for _ in range(3):  # to warm up, to record, to replay
                encoded = encode(x, t)
                for _ in range(2):
                    error = max(error, float((decode(*encoded) - wanted).norm() / wanted.norm()))
    except (RuntimeError, ImportError, OSError) as problem:  # no compiler, no Triton, an unsupported device
        return f"torch.compile declined, going on without: {' '.join(str(problem).split())[:200]}"
    if not error < 0.05:  # bfloat16's own rounding is some 0.01 for a call
        return f"torch.compile declined, going on without: its result is off by {error:.3f}"
    unet.encode, unet.decode = encode, decode  # type: ignore[method-assign]
    seconds = time.perf_counter() - begun
    return f"torch.compile: used, {seconds:.0f} s for a batch of {batch}, within {error:.1e} of the eager network"
