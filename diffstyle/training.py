"""A plain DDPM trainer: makes the small models that ship with DiffStyle, and lets users train on their own domain.

The loss is the simple one of Ho et al. (2020, arXiv 2006.11239, eq. 14): mean squared error between the noise and the
network's estimate of it, timesteps drawn uniformly, linear betas. For a network with learned variance only the first
three output channels are trained. Every random number of step k comes from a seed made of (seed, k), so a resumed run
needs no stored generator and repeats the uninterrupted one.
"""

from __future__ import annotations

import math
import os
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from diffstyle.errors import CheckpointError, ConfigError
from diffstyle.images import prepare
from diffstyle.picture_files import Undecodable, read_picture
from diffstyle.schedule import alphas_cumprod

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
STATE_FILE = "state.pt"
_NAMED = 3  # pictures that can't be read, in a message
ON_DEVICE = 4 << 30  # bytes of pictures up to which all of them are kept where the network is


@dataclass(frozen=True)
class TrainSettings:
    """What a run does, apart from its data and its network. See docs/demo-training.md for values that worked."""

    steps: int = 20_000
    batch_size: int = 32
    lr: float = 2e-4
    warmup: int = 500
    schedule: str = "constant"  # or "cosine": down to zero at the last step
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    ema: float = 0.999
    p2: float = 0.0  # exponent of P2 weighting; 0: none
    flip: bool = True
    bf16: bool = False
    channels_last: bool = True
    compile: bool = False  # torch.compile: a minute's wait, then faster steps on a GPU
    seed: int = 0
    log_every: int = 100
    save_every: int = 1000
    sample_every: int = 0  # 0: no sample grids
    max_seconds: float = 0.0  # 0: no limit; else stop (resumably) at the first step past it


def load_images(source: Path, image_size: int) -> Tensor:
    """All training pictures as uint8, (N, 3, image_size, image_size), prepared as a job's pictures are.

    ``source`` is a folder of pictures (searched recursively), a ``.npy`` array or a ``.npz`` with an array ``images``;
    arrays are uint8, (N, H, W, 3).
    """
    if not source.exists():
        raise ConfigError(f"data: '{source}' does not exist; give a folder of pictures, a .npy or a .npz")
    pictures: list[np.ndarray] = []
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
        refused = []
        for path in paths:
            try:
                pictures.append(np.asarray(prepare(read_picture(path.read_bytes()).image, image_size)))
            except (Undecodable, OSError) as error:
                refused.append(f"'{path}': {error}")
        if refused:
            more = f"; and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
            raise ConfigError(
                f"data: cannot read {len(refused)} of {len(paths)} pictures; repair or remove them: "
                f"{'; '.join(refused[:_NAMED])}{more}"
            )
    else:
        try:
            loaded = np.load(source, allow_pickle=False)
            array = loaded if isinstance(loaded, np.ndarray) else loaded["images"]
        except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise ConfigError(f"data: '{source}' is no .npy, nor a .npz with an array 'images': {error}") from error
        if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8:
            raise ConfigError(
                f"data: '{source}' holds {array.dtype} of shape {array.shape}; needed: uint8, (N, height, width, 3)"
            )
        if min(array.shape[1:3]) < image_size:
            raise ConfigError(
                f"data: '{source}' holds pictures of {array.shape[2]}x{array.shape[1]}, smaller than the model's "
                f"image_size {image_size}; train a smaller model or pack larger pictures"
            )
        pictures = [np.asarray(prepare(Image.fromarray(picture), image_size)) for picture in array]
    if not pictures:
        raise ConfigError(f"data: no pictures in '{source}' (looked for {', '.join(sorted(PICTURE_SUFFIXES))})")
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


class Ema:
    """Exponential moving average of a module's parameters (its buffers are copied as they are).

    The decay warms up as (1 + k) / (10 + k), or the first, random weights would stay in the average for long.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Moves the average toward the module after optimizer step ``step`` (counted from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        current = module.state_dict()
        floating = [name for name, value in self.average.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in floating], [current[n].detach() for n in floating], weight)
        for name in self.average.keys() - set(floating):
            self.average[name].copy_(current[name])


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Linear warm-up, then constant or a cosine down to zero at ``settings.steps``."""
    rate = settings.lr * min(1.0, (step + 1) / max(1, settings.warmup))
    if settings.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, settings.steps))))
    return rate


def noise_loss(
    model: Callable[[Tensor, Tensor], Tensor], x0: Tensor, t: Tensor, noise: Tensor, cumulative: Tensor, p2: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Squared error of the noise estimate: the loss to descend and, to report, its plain mean.

    x0 and noise are (B, 3, H, W), t (B,) int64, cumulative (T,). ``p2`` is gamma in the P2 weighting
    1 / (k + SNR)^gamma of Choi et al. (2022, arXiv 2204.00227) with k = 1, which is (1 - a)^gamma: less of the loss
    goes to the low noise levels, where only detail is left to learn. The weights have mean 1 over all t.
    """
    a = cumulative[t].view(-1, 1, 1, 1)
    estimate = model(a.sqrt() * x0 + (1 - a).sqrt() * noise, t)[:, :3]
    errors = (estimate.float() - noise).square().mean((1, 2, 3))
    weights = (1 - cumulative[t]) ** p2 / ((1 - cumulative) ** p2).mean()
    return (weights * errors).mean(), errors.detach().mean()


@torch.no_grad()
def sample_grid(model: nn.Module, image_size: int, count: int = 16, steps: int = 50, seed: int = 0) -> Image.Image:
    """``count`` pictures by deterministic DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12), four in a row."""
    device = next(model.parameters()).device
    cumulative = alphas_cumprod().to(device)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, image_size, image_size, generator=generator).to(device)
    times = [round(i) for i in np.linspace(len(cumulative) - 1, 0, steps)]
    for here, after in zip(times, [*times[1:], -1], strict=True):
        a, b = cumulative[here], cumulative[after] if after >= 0 else torch.ones((), device=device)
        e = model(x, torch.full((count,), here, device=device))[:, :3].float()
        # Clipping the predicted picture keeps the grids of a half-trained model readable.
        x0 = ((x - (1 - a).sqrt() * e) / a.sqrt()).clamp(-1, 1)
        x = b.sqrt() * x0 + (1 - b).sqrt() * e
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    columns = 4
    sheet = Image.new("RGB", (columns * image_size, math.ceil(count / columns) * image_size))
    for index, picture in enumerate(pixels):
        sheet.paste(Image.fromarray(picture), (index % columns * image_size, index // columns * image_size))
    return sheet


class Trainer:
    """Trains ``model`` on ``images`` (uint8, (N, 3, S, S)) and keeps its state in ``output``.

    ``architecture`` is stored beside the weights, so that a run cannot be resumed into another network.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        settings: TrainSettings,
        output: Path,
        architecture: dict[str, Any],
        device: str | torch.device = "cpu",
        say: Callable[[str], None] = print,
    ) -> None:
        self.settings, self.output, self.architecture, self.say = settings, output, architecture, say
        self.device = torch.device(device)
        self.images = images if images.nbytes > ON_DEVICE else images.to(self.device)
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.layout = layout
        self.ema = Ema(self.model, settings.ema)
        self.network = torch.compile(self.model, dynamic=False) if settings.compile else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=self.device.type == "cuda"
        )
        self.cumulative = alphas_cumprod().to(self.device)
        self.step = 0
        self.seconds = 0.0  # spent in training, over all resumed parts

    def save(self) -> None:
        """Writes the resumable state; a kill at any moment leaves the old file or the new one."""
        self.output.mkdir(parents=True, exist_ok=True)
        temporary = self.output / f"{STATE_FILE}.tmp{os.getpid()}"
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "settings": asdict(self.settings),
            "architecture": self.architecture,
            "model": self.model.state_dict(),
            "ema": self.ema.average,
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, temporary)
        temporary.replace(self.output / STATE_FILE)

    def resume(self) -> None:
        """Loads the state that ``save`` wrote into ``output``."""
        path = self.output / STATE_FILE
        if not path.is_file():
            raise CheckpointError(f"cannot resume: '{path}' does not exist; omit --resume to start from the beginning")
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["architecture"] != self.architecture:
            other = {k for k in self.architecture if state["architecture"].get(k) != self.architecture[k]}
            raise CheckpointError(
                f"cannot resume: '{path}' was trained with another model ({', '.join(sorted(other))})"
            )
        self.model.load_state_dict(state["model"])
        for name, value in state["ema"].items():
            self.ema.average[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of step ``step``: pictures in [-1, 1] (B, 3, S, S), timesteps (B,), noise like the pictures."""
        settings = self.settings
        # Drawn on the device, since a GPU takes less time for a step than a CPU for its noise.
        generator = torch.Generator(self.device).manual_seed(settings.seed * 1_000_003 + step)
        count = settings.batch_size
        on: dict[str, Any] = {"generator": generator, "device": self.device}
        chosen = torch.randint(len(self.images), (count,), **on).to(self.images.device)
        x0 = self.images[chosen].to(self.device).float() / 127.5 - 1
        if settings.flip:
            mirrored = torch.rand(count, **on) < 0.5
            x0 = torch.where(mirrored.view(-1, 1, 1, 1), x0.flip(-1), x0)
        t = torch.randint(len(self.cumulative), (count,), **on)
        noise = torch.randn(x0.shape, **on)
        return x0.to(memory_format=self.layout), t, noise.to(memory_format=self.layout)

    def train(self) -> float:
        """Runs up to ``settings.steps``; returns the mean loss of the last ``log_every`` steps."""
        settings, mean = self.settings, float("nan")
        losses: deque[Tensor] = deque(maxlen=self.settings.log_every)
        self.model.train()
        started = marked = time.perf_counter()
        before, trained = self.seconds, 0
        while self.step < settings.steps:
            torch.manual_seed(settings.seed * 1_000_003 + self.step)  # dropout
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(settings, self.step)
            x0, t, noise = self.batch(self.step)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bf16):
                loss, plain = noise_loss(self.network, x0, t, noise, self.cumulative, settings.p2)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if settings.grad_clip > 0:
                nn.utils.clip_grad_norm_(self.model.parameters(), settings.grad_clip)
            self.optimizer.step()
            self.ema.update(self.model, self.step)
            losses.append(plain)
            self.step += 1
            trained += 1
            now = time.perf_counter()
            self.seconds = before + now - started
            last = self.step == settings.steps or 0 < settings.max_seconds <= now - started
            saving = self.step % settings.save_every == 0 or last
            if self.step % settings.log_every == 0 or saving:  # only here: to look at a loss is to wait for the device
                mean = float(torch.stack(list(losses)).mean())
                if not math.isfinite(mean):
                    raise ConfigError(f"training diverged: the loss before step {self.step} is {mean}; lower lr")
            if self.step % settings.log_every == 0 or last:
                now = time.perf_counter()
                done = (self.step - 1) % settings.log_every + 1
                rate = min(done, trained) * settings.batch_size / (now - marked)
                self.say(f"step {self.step}  loss {mean:.4f}  {rate:.0f} images/s  {self.seconds:.0f} s")
                marked = now
            if settings.sample_every and (self.step % settings.sample_every == 0):
                self.sample().save(self.output / f"samples-{self.step:07d}.png")
            if saving:
                self.save()
            if last:
                break
        return mean

    def load_ema(self) -> nn.Module:
        """Puts the average into the model (for saving or sampling at the end) and returns it in eval mode."""
        self.model.load_state_dict(self.ema.average)
        return self.model.eval()

    def sample(self) -> Image.Image:
        """A grid of samples from the average, leaving the trained weights as they were."""
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.output.mkdir(parents=True, exist_ok=True)
        size = self.images.shape[-1]
        grid = sample_grid(self.load_ema(), size, seed=self.settings.seed)
        self.model.load_state_dict(kept)
        self.model.train()
        return grid
