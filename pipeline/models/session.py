"""What a worker holds: the model on its device, and the two things it does with it, in batches of a fixed size.

Every batch is filled up to the same size by repeating its last item. Batched kernels may round differently for another
size, and a picture must not depend on how many happened to be left over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from diffstyle.errors import CheckpointError
from pipeline.models.accelerate import speed_up_halves, tuned
from pipeline.models.config import WeightsChoice, load_model_config
from pipeline.models.known_models import recalled, remember
from pipeline.models.load import load_model
from pipeline.workers.local import gpu_driver_is_there, require_device
from pipeline.workers.unit import Device

if TYPE_CHECKING:
    import torch

    from diffstyle.networks.unet import UNet
    from diffstyle.plan import Plan

T = TypeVar("T")


@dataclass(frozen=True)
class ModelFacts:
    """What the driver knows of a model without holding it."""

    name: str
    fingerprint: str
    image_size: int
    h_shape: tuple[int, int, int]
    weights: str = ""  # which of a file's sets of weights, where it holds several


def model_facts(model: str, weights: str | WeightsChoice | None) -> ModelFacts:
    """What a model is, as known from before, or by loading it strictly. CheckpointError as ``load_model``."""
    config = load_model_config(model)
    known = recalled(config, weights)
    if known is not None:
        shape = config.unet_architecture.h_shape
        return ModelFacts(config.name, known["fingerprint"], config.size, shape, known["weights"])
    unet = load_model(config, weights)
    remember(config, weights, {"fingerprint": unet.fingerprint, "weights": unet.weights})
    return ModelFacts(config.name, unet.fingerprint, unet.image_size, unet.h_shape, unet.weights)


@dataclass(frozen=True)
class ModelLoader:
    """Makes a worker's context; picklable. ``fingerprint``: what the driver loaded, and every worker must load too."""

    model: str
    weights: str | WeightsChoice | None
    fingerprint: str
    device: str
    precision: str
    batch: int
    compiled: bool = False

    @property
    def loads(self) -> str:
        """What is loaded, for messages."""
        return f"the weights {self.weights}" if self.weights is not None else f"the weights of {self.model}"

    def __call__(self) -> LoadedModel:
        import torch

        require_device(self.device)
        config = load_model_config(self.model)
        unet = load_model(config, self.weights, self.device, getattr(torch, self.precision), fetch=True)
        if unet.fingerprint != self.fingerprint:
            raise CheckpointError(
                f"model {config.name}: this worker loaded other weights than the driver (fingerprint "
                f"{unet.fingerprint[:8]}, not {self.fingerprint[:8]}); give every machine the same "
                "file, or name its sha256 in the job"
            )
        unet = tuned(unet, self.device)
        speed_up = functools.partial(speed_up_halves, unet, self.device, compiled=self.compiled)
        speed_up_on_a_gpu = speed_up if self.device == "cuda" else None
        return LoadedModel(unet, self.device, self.batch, speed_up_on_a_gpu, compiled=self.compiled)


def resolve_device(device: Literal["auto"] | Device) -> Device:
    """``auto`` as cuda, mps or cpu: the first that is there."""
    if device != "auto":
        return device
    if not gpu_driver_is_there():
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


class LoadedModel:
    """The model on a device. ``batch`` is halved, for good, when the device runs out of memory.

    ``speed_up`` is called with the batch, now and when it changes; ``note`` is what there is to say for the log.
    ``compiled``: whether it compiles.
    """

    def __init__(
        self,
        unet: UNet,
        device: str,
        batch: int,
        speed_up: Callable[[int], str] | None = None,
        compiled: bool = False,
    ) -> None:
        self.unet = unet
        self.device = device
        self.batch = batch
        self.compiled = compiled
        self.note = ""
        self._speed_up = speed_up
        self._get_fast()

    def _get_fast(self) -> None:
        if self._speed_up is None:
            return
        while not (note := self._within_memory(functools.partial(self._speed_up, self.batch))):
            self._halve()
        self.note = f"{self.note}; {note}" if self.note else note

    def _within_memory(self, run: Callable[[], T]) -> T | None:
        """What ``run`` returns; None where memory ran out, but for a batch of one: that can't be made smaller.

        A function of its own, since an exception keeps alive what its frames hold: after this has returned, that
        memory is free.
        """
        import torch

        try:
            return run()
        except torch.OutOfMemoryError:
            if self.batch == 1:
                raise
            return None

    def _halve(self) -> None:
        import torch

        self.batch //= 2
        torch.cuda.empty_cache()
        self.note = f"out of device memory: going on with batches of {self.batch}"

    @property
    def made_with(self) -> dict[str, Any]:
        """What besides the settings decides the last bits of what is computed now: JSON-able, the batch not in it."""
        import torch

        facts: dict[str, Any] = {"device": self.device, "torch": torch.__version__}
        if self.device == "cuda":
            return {**facts, "chip": torch.cuda.get_device_name(), "compile": self.compiled}
        if self.device == "cpu":
            return {**facts, "chip": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
        return facts

    def walk(self, x: torch.Tensor, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
        """DDIM along ``plan`` for (N, 3, H, W) float32: the ends (N, 3, H, W) and the kept h (N, K, C, h, w)."""
        import torch

        from diffstyle.sampling import ddim_walk

        def one(indices: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
            ends, h = ddim_walk(self.unet, x[list(indices)].to(self.device), plan)
            return list(zip(ends.cpu(), h.cpu(), strict=True))

        done = self.in_batches(len(x), one)
        return torch.stack([end for end, _ in done]).numpy(), torch.stack([h for _, h in done]).numpy()

    def in_batches(self, n: int, run: Callable[[Sequence[int]], list[T]], fill: bool = True) -> list[T]:
        """``run`` over 0 .. n - 1 in lists of ``self.batch`` indices, the last filled up by repeating its last item.

        ``fill``: False where the last may be shorter, for networks whose last digits need not be the same.
        """
        done: list[T] = []
        while len(done) < n:
            wanted = list(range(len(done), min(n, len(done) + self.batch)))
            filled = wanted + [wanted[-1]] * (self.batch - len(wanted) if fill else 0)
            results = self._within_memory(functools.partial(run, filled))
            if results is None:
                self._halve()
                self._get_fast()
                continue
            done += results[: len(wanted)]
        return done
