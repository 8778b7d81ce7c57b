"""``diffstyle train``: make a small diffusion model from a folder of pictures (diffstyle/training.py does the work)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
from pydantic import BaseModel, ConfigDict, Field

from pipeline.cli.stopping import if_stopped
from pipeline.storage.counts import count
from pipeline.storage.variables import AnyMapping
from pipeline.storage.yamlfile import read_yaml


class TrainConfig(BaseModel):
    """What a training config may say: the data, the network, and the fields of ``training.TrainSettings``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path
    model: AnyMapping
    init: Path | None = None
    steps: int = Field(20_000, ge=1)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(2e-4, gt=0)
    warmup: int = Field(500, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(1.0, ge=0)
    ema: float = Field(0.999, ge=0, lt=1)
    p2: float = Field(0.0, ge=0)
    flip: bool = True
    bf16: bool = False
    channels_last: bool = True
    compile: bool = False
    seed: int = Field(0, ge=0)
    log_every: int = Field(100, ge=1)
    save_every: int = Field(1000, ge=1)
    sample_every: int = Field(0, ge=0)
    max_seconds: float = Field(0.0, ge=0)
    device: str = "cpu"


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the results."
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override a field; may be repeated.")
@click.option("--resume", is_flag=True, help="Go on from the state in the output folder.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; by default torch decides.")
def train(config: Path, output: Path, assignments: tuple[str, ...], resume: bool, threads: int | None) -> None:
    """Train a small DDPM on a folder of pictures (or a packed .npz), as CONFIG, a YAML file, says.

    Writes state.pt (what --resume goes on from), model.safetensors (the averaged weights, float16, ready to use) and,
    where asked for, grids of samples into the output folder. configs/train/ has examples.
    """
    document = read_yaml(config)
    for assignment in assignments:
        document.override(assignment)
    wanted = document.validate(TrainConfig)

    import torch

    from diffstyle.checkpoint import load_unet, save_unet
    from diffstyle.errors import ConfigError
    from diffstyle.networks.architecture import architecture_from_dict, architecture_to_dict
    from diffstyle.networks.build import build_unet
    from diffstyle.training import STATE_FILE, Trainer, TrainSettings, load_images
    from pipeline.workers.local import require_device

    if threads:
        torch.set_num_threads(threads)
    require_device(wanted.device, f"{document.where(('device',))}: device")
    try:
        architecture = architecture_from_dict(wanted.model)
    except ConfigError as error:
        raise ConfigError(document.mistake(("model",), str(error))) from None
    try:
        images = load_images(wanted.data, architecture.image_size)
    except ConfigError as error:
        raise ConfigError(f"{document.where(('data',))}: {error}") from None
    if (output / STATE_FILE).exists() and not resume:
        raise ConfigError(f"'{output}' holds a run already; add --resume to go on with it, or name another folder")

    if wanted.device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    settings = TrainSettings(**wanted.model_dump(exclude={"data", "model", "init", "device"}))
    torch.manual_seed(settings.seed)
    unet = build_unet(architecture)
    if wanted.init and not resume:
        unet.load_state_dict(load_unet(wanted.init, architecture).state_dict())
    trainer = Trainer(unet, images, settings, output, architecture_to_dict(architecture), wanted.device, click.echo)
    parameters = sum(p.numel() for p in unet.parameters())
    if resume:
        trainer.resume()
    click.echo(f"{count(len(images), 'picture')}, {parameters / 1e6:.1f} M parameters, from step {trainer.step}")
    state = output / STATE_FILE
    with if_stopped(lambda: f"--resume goes on from {state}" if state.exists() else "no state was saved yet"):
        trainer.train()
        trainer.load_ema()
        save_unet(unet, output / "model.safetensors", torch.float16)
    click.echo(f"{output / 'model.safetensors'}: average of the weights after {count(trainer.step, 'step')}")
