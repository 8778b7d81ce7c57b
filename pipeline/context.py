"""What a worker holds: the model on its device, and the two things it does with it, in batches of a fixed size.

Every batch is filled up to the same size by repeating its last item. Batched kernels may round differently for another
size, and a picture must not depend on how many happened to be left over.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from diffstyle.errors import CheckpointError
from pipeline.models import load_model, load_model_config

if TYPE_CHECKING:
    import torch

    from diffstyle.plan import Plan
    from diffstyle.unet import UNet

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class ModelFacts:
    """What the driver knows of a model without holding it."""

    name: str
    fingerprint: str
    image_size: int
    h_shape: tuple[int, int, int]


def model_facts(model: str, weights: str | None) -> ModelFacts:
    """Load a model once, strictly, to learn its fingerprint. CheckpointError as ``load_model``."""
    config = load_model_config(model)
    unet = load_model(config, weights)
    return ModelFacts(config.name, unet.fingerprint, unet.image_size, unet.h_shape)


@dataclass(frozen=True)
class ContextMaker:
    """Makes a worker's context; picklable. ``fingerprint``: what the driver loaded, and every worker must load too."""

    model: str
    weights: str | None
    fingerprint: str
    device: str
    precision: str
    batch: int

    def __call__(self) -> ModelContext:
        import torch

        config = load_model_config(self.model)
        unet = load_model(config, self.weights, self.device, getattr(torch, self.precision))
        if unet.fingerprint != self.fingerprint:
            raise CheckpointError(
                f"model {config.name}: this worker loaded other weights than the driver (fingerprint "
                f"{unet.fingerprint[:8]}, not {self.fingerprint[:8]}); give every machine the same file"
            )
        return ModelContext(tuned(unet, self.device), self.device, self.batch)


def tuned(unet: UNet, device: str) -> UNet:
    """The network set up to run fast on ``device``, with results within rounding of before; see docs/speed.md.

    Channels-last weights everywhere: convolutions then keep that layout by themselves. On CUDA also TF32 where float32
    is asked for, cuDNN's own choice of kernels (batches never change their size) and compiled halves in CUDA graphs.
    """
    import torch

    unet = unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    compile_halves(unet, device)
    return unet


def compile_halves(unet: UNet, device: str) -> bool:
    """Replace ``encode`` and ``decode`` by compiled ones that run as CUDA graphs, if that works here; say so if not.

    Tried once on random input and compared with the eager network, so that a compiler that is missing or wrong costs
    some seconds and a line in the log, never a picture. On a CPU it isn't tried: the convolutions are the library's
    either way, and compiling takes longer than a small job.
    """
    import torch
    from torch import Tensor

    from diffstyle.unet import Encoded

    if device != "cuda":
        log.info("torch.compile: not used on %s", device)
        return False
    eager_encode, eager_decode = unet.encode, unet.decode
    encode_graph = torch.compile(eager_encode, mode="reduce-overhead", dynamic=False)
    decode_graph = torch.compile(eager_decode, mode="reduce-overhead", dynamic=False)

    # A graph writes its outputs to the same memory each time, so what outlives the next call must be copied out.
    def encode(x: Tensor, t: Tensor) -> Encoded:
        torch.compiler.cudagraph_mark_step_begin()
        h, skips, emb = encode_graph(x, t)
        return Encoded(h.clone(), tuple(skip.clone() for skip in skips), emb.clone())

    def decode(h: Tensor, skips: tuple[Tensor, ...], emb: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return decode_graph(h, skips, emb).clone()

    x = torch.randn(1, 3, unet.image_size, unet.image_size, device=device)
    t = torch.full((1,), 500, device=device)
    try:
        with torch.inference_mode():
            wanted = eager_decode(*eager_encode(x, t))
            error = max(float((decode(*encode(x, t)) - wanted).norm() / wanted.norm()) for _ in range(3))
    except (RuntimeError, ImportError, OSError) as problem:  # no compiler, no Triton, an unsupported device
        log.warning("torch.compile declined, going on without: %s", " ".join(str(problem).split())[:200])
        return False
    if not error < 0.05:  # bfloat16's own rounding is some 0.01 for a call
        log.warning("torch.compile declined, going on without: its result is off by %.3f", error)
        return False
    unet.encode, unet.decode = encode, decode  # type: ignore[method-assign]
    log.info("torch.compile: used, within %.1e of the eager network", error)
    return True


Device = Literal["cpu", "cuda", "mps"]


def resolve_device(device: Literal["auto"] | Device) -> Device:
    """``auto`` as cuda, mps or cpu: the first that is there."""
    if device != "auto":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def default_batch(device: str, image_size: int) -> int:
    """A batch size that fits anywhere. On a CPU more than a few small pictures at once gain nothing (measured)."""
    if device == "cpu":
        return 4 if image_size <= 64 else 2 if image_size <= 128 else 1
    return max(1, min(64, 16 * 256**2 // image_size**2))


class ModelContext:
    """The model on a device. ``batch`` is halved, for good, when the device runs out of memory."""

    def __init__(self, unet: UNet, device: str, batch: int) -> None:
        self.unet = unet
        self.device = device
        self.batch = batch

    def walk(self, x: torch.Tensor, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
        """DDIM along ``plan`` for (N, 3, H, W) float32: the ends (N, 3, H, W) and the kept h (N, K, C, h, w)."""
        import torch

        from diffstyle.sampling import ddim_walk

        def one(indices: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
            ends, h = ddim_walk(self.unet, x[list(indices)].to(self.device), plan)
            return list(zip(ends.cpu(), h.cpu(), strict=True))

        done = self.in_batches(len(x), one)
        return torch.stack([end for end, _ in done]).numpy(), torch.stack([h for _, h in done]).numpy()

    def in_batches(self, n: int, run: Callable[[Sequence[int]], list[T]]) -> list[T]:
        """``run`` over 0 .. n - 1 in lists of ``self.batch`` indices, the last filled up by repeating its last item."""
        import torch

        done: list[T] = []
        while len(done) < n:
            wanted = list(range(len(done), min(n, len(done) + self.batch)))
            try:
                results = run(wanted + [wanted[-1]] * (self.batch - len(wanted)))
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch //= 2
                torch.cuda.empty_cache()
                log.warning("out of device memory: going on with batches of %d", self.batch)
                continue
            done += results[: len(wanted)]
        return done


@functools.lru_cache(maxsize=8)
def cached_bank(path: str) -> Any:
    """A bank opened once in this process. Banks only grow, so a worker that misses a key refreshes it."""
    from pipeline.bank import LatentBank

    return LatentBank.open(path)
