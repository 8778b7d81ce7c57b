"""A network set up to run fast on its device, with results within rounding of before; docs/speed.md has the figures."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from diffstyle.errors import ConfigError, one_line
from pipeline.storage.cache import cache_if_known

if TYPE_CHECKING:
    from diffstyle.networks.unet import UNet

# Below this side a network is a matter of milliseconds a call, and a job of minutes: less than compiling takes.
COMPILE_FROM = 128
# How far a half made faster may be from the eager one, relative: bfloat16's own rounding is some 0.01 for a call.
TOLERANCE = 0.05


@contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """So many threads for torch inside the block, and as many as before after it; None: as they are."""
    import torch

    before = torch.get_num_threads()
    try:
        if n is not None:
            torch.set_num_threads(n)
        yield
    finally:
        torch.set_num_threads(before)


def compiles(choice: bool | str, device: str, image_size: int) -> bool:
    """Whether to compile: as ``compute.compile`` says, and for ``auto`` on a GPU for large pictures.

    Not by how much there is to do: what is left of a job must be made as the rest of it was. ConfigError where
    compiling was asked for and the device isn't a GPU.
    """
    if choice is True and device != "cuda":
        raise ConfigError(f"compute.compile is true, but the device is {device}; say auto or false")
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

    Raises torch.OutOfMemoryError where the batch is too large for it.
    """
    import torch

    if compiled:
        _keep_what_is_compiled()
    begun = time.perf_counter()
    for half in ("encode", "decode"):  # of an earlier batch size, and the memory that they hold
        vars(unet).pop(half, None)
    notes = []
    for compiling in (True, False) if compiled else (False,):
        name = "compiled CUDA graphs" if compiling else "CUDA graphs"
        try:
            error = _graphed(unet, device, batch, compiling)
        except torch.OutOfMemoryError:
            raise  # for a smaller batch
        except (RuntimeError, ImportError, OSError, AssertionError) as problem:  # no compiler, no Triton, an old device
            notes.append(f"{name} declined: {one_line(problem, most=200)}")
            continue
        if error is not None:
            notes.append(f"{name} declined: its result is off by {error:.3f}")
            continue
        seconds = time.perf_counter() - begun
        return "; ".join([*notes, f"{name} of batches of {batch}: ready in {seconds:.0f} s"])
    return "; ".join([*notes, "going on with the eager network"])


def _graphed(unet: UNet, device: str, batch: int, compiling: bool) -> float | None:
    """Try one way; the halves are replaced if it is right. Returns the error if it is not, which may be NaN."""
    import torch

    from pipeline.models.cuda_graphs import GraphedHalves, cuda_recorder

    plain = encode, decode = unet.encode, unet.decode
    if compiling:
        encode, decode = torch.compile(encode, dynamic=False), torch.compile(decode, dynamic=False)
    generator = torch.Generator().manual_seed(0)  # of the CPU: a recording that failed may have spoilt the GPU's
    side = unet.image_size
    errors = []
    with torch.inference_mode():
        graphed = None
        for t in (500, 500, 20):  # recorded on the first input, compared on it and on others
            x = torch.randn(batch, 3, side, side, generator=generator).to(device)
            time_step = torch.full((batch,), t, device=device)
            if graphed is None:
                graphed = GraphedHalves(encode, decode, x, time_step, cuda_recorder(), plain)
            wanted, encoded = plain[0](x, time_step), graphed.encode(x, time_step)
            for scale in (1.0, 0.5):
                right = plain[1](scale * wanted.h, wanted.skips, wanted.emb)
                errors.append(
                    float((graphed.decode(scale * encoded.h, encoded.skips, encoded.emb) - right).norm() / right.norm())
                )
    if not all(error < TOLERANCE for error in errors):
        return max(errors, key=lambda error: (error != error, error))
    unet.encode, unet.decode = graphed.encode, graphed.decode  # type: ignore[method-assign, union-attr]
    return None


def _keep_what_is_compiled() -> None:
    """Let the compiler keep its work in the cache folder, where that can be written."""
    cache = cache_if_known()
    if cache is None:
        return
    folder = cache / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # the compiler's own folder for temporary files will do
    if os.access(folder, os.W_OK):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
