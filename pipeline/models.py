"""The models that a job can name: their configs, where their weights are, and loading them."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from diffstyle.errors import CheckpointError, ConfigError
from pipeline.shipped import shipped_files
from pipeline.yamlfile import read_yaml, unknown

if TYPE_CHECKING:
    import torch

    from diffstyle.architecture import Architecture
    from diffstyle.unet import UNet

#: ``weights: random`` or ``random:SEED``: the architecture with seeded random weights, for tests and benchmarks.
RANDOM_WEIGHTS = re.compile(r"random(?::(\d+))?")

#: The files of a diffusers repository that hold weights, the preferred one first.
HUB_CONFIG = "config.json"
HUB_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

_SHA256 = r"^[0-9a-f]{64}$"


class Weights(BaseModel):
    """Where a model's weights come from: an address, a hub repository, a page to fetch them from by hand, or a path."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None = None
    url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    revision: str = "main"
    page: Annotated[str, Field(pattern=r"^https?://")] | None = None
    path: str | None = None
    sha256: Annotated[str, Field(pattern=_SHA256)] | None = None
    size: Annotated[int, Field(ge=1)] | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Weights:
        if self.url and self.hub:
            raise ValueError("give url or hub, not both")
        if not (self.url or self.hub or self.page or self.path):
            raise ValueError("give one of url, hub, page, path")
        if (self.url or (self.page and not self.hub)) and not self.file:
            raise ValueError("give file: the name under which the weights are kept")
        if self.file and Path(self.file).name != self.file:
            raise ValueError(f"file must be a plain file name, not '{self.file}'")
        return self


class ModelConfig(BaseModel):
    """One model: what it was trained on, its U-Net, its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str | None = None
    dataset: str | None = None
    architecture: dict[str, Any]
    weights: Weights
    licence: str | None = None
    paper: str | None = None
    repository: str | None = None

    @field_validator("architecture")
    @classmethod
    def _sized(cls, value: dict[str, Any]) -> dict[str, Any]:
        # The rest is checked when the network is built: that needs torch, which listing models should not wait for.
        for name, kind in (("family", str), ("image_size", int)):
            if not isinstance(value.get(name), kind):
                raise ValueError(
                    f"lacks the field '{name}'" if name not in value else f"'{name}' is no {kind.__name__}"
                )
        return value

    @property
    def family(self) -> str:
        """``ddpm`` or ``adm``."""
        return str(self.architecture["family"])

    @property
    def size(self) -> int:
        """The side of the pictures, in pixels."""
        return int(self.architecture["image_size"])

    @cached_property
    def unet_architecture(self) -> Architecture:
        """The architecture as ``diffstyle`` builds it. Raises ConfigError naming the model."""
        from diffstyle.architecture import architecture_from_dict

        try:
            return architecture_from_dict(self.architecture)
        except ConfigError as error:
            raise ConfigError(f"model {self.name}: {error}") from None


def is_config_name(text: str) -> bool:
    """Whether a job's ``model:`` is the name of a config (or a mistaken one) and not a path of a YAML file."""
    return "/" not in text and "\\" not in text and not text.endswith((".yaml", ".yml"))


def load_model_config(name_or_path: str | os.PathLike[str]) -> ModelConfig:
    """A shipped config by name, or any YAML file of that form by path.

    Raises:
        ConfigError: no such config, with the nearest name; or a mistake in the file, with its line.
    """
    text = os.fspath(name_or_path)
    if is_config_name(text):
        shipped = shipped_files("configs")
        if text not in shipped:
            raise ConfigError(f"{unknown('model', text, shipped)}; or give the path of a model's YAML file")
        return _read(shipped[text])
    return _read(Path(text).expanduser())


def _read(file: Path) -> ModelConfig:
    document = read_yaml(file)
    path = document.get(("weights", "path"))
    if isinstance(path, str):
        document.value["weights"]["path"] = str(file.absolute().parent / Path(path).expanduser())
    return document.validate(ModelConfig)


def all_model_configs() -> dict[str, ModelConfig]:
    """Name -> config of every model that comes with the project, sorted by name."""
    return {name: _read(file) for name, file in shipped_files("configs").items()}


def cache_folder() -> Path:
    """Where downloaded weights and measurements are kept: ``$DIFFSTYLE_CACHE``, else ``~/.cache/diffstyle``."""
    given = os.environ.get("DIFFSTYLE_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "diffstyle"


def cache_place(config: ModelConfig) -> Path:
    """Where this model's weights belong in the cache, there or not: a file, or a folder for a hub repository."""
    folder = cache_folder() / "models" / config.name
    return folder / config.weights.file if config.weights.file else folder


def weights_place(config: ModelConfig, override: str | os.PathLike[str] | None = None) -> Path | None:
    """The weights that loading would take, or None where there are none: the override, the config's path, the cache."""
    if override is not None:
        candidates = [Path(override).expanduser()]
    else:
        candidates = [Path(config.weights.path)] if config.weights.path else []
        candidates.append(cache_place(config))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
        inside = [candidate / name for name in HUB_WEIGHTS] + [candidate / "unet" / name for name in HUB_WEIGHTS]
        if any(file.is_file() for file in inside):
            return candidate
    return None


def missing_weights(config: ModelConfig, override: str | os.PathLike[str] | None = None) -> str:
    """One line for weights that are not there: which, and how to get them."""
    if override is not None:
        return f"weights of {config.name}: {override} is neither a checkpoint file nor a diffusers folder with weights"
    weights = config.weights
    if weights.path and not (weights.url or weights.hub or weights.page):
        return f"weights of {config.name}: {weights.path} does not exist; mend weights.path in its config"
    own = "or give your own file as `weights:` in the job"
    if weights.url or weights.hub:
        return f"weights of {config.name} are not here yet; run `diffstyle models fetch {config.name}`, {own}"
    return (
        f"weights of {config.name} are not here yet; download {weights.file} by hand from {weights.page} "
        f"and put it at {cache_place(config)}, {own}"
    )


def load_model(
    config: ModelConfig,
    weights: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> UNet:
    """The network of a model, frozen, with its fingerprint.

    Args:
        config: the model.
        weights: a path, or ``random`` or ``random:SEED``; None takes the config's own, see :func:`weights_place`.
        device: where the network goes.
        dtype: type of its weights, float32 by default.

    Raises:
        CheckpointError: there are no weights, they changed since they were fetched, or they don't fit.
    """
    import torch

    from diffstyle.checkpoint import load_unet

    dtype = dtype or torch.float32
    random = RANDOM_WEIGHTS.fullmatch(os.fspath(weights)) if weights is not None else None
    if random:
        return random_unet(config.unet_architecture, int(random[1] or 0)).cast(dtype).to(device)
    place = weights_place(config, weights)
    if place is None:
        raise CheckpointError(missing_weights(config, weights))
    if place == cache_place(config):
        from pipeline.fetch import check_cached

        check_cached(config)
    others = {name: other.unet_architecture for name, other in all_model_configs().items()}
    return load_unet(place, config.unet_architecture, candidates=others, device=device, dtype=dtype)


def random_unet(architecture: Architecture, seed: int = 0) -> UNet:
    """The architecture with random weights that depend on the seed and the tensors' names alone.

    Every tensor is drawn afresh: a fresh network's zero-initialised convolutions would make its output zero.
    """
    import torch

    from diffstyle.architecture import build_unet
    from diffstyle.checkpoint import fingerprint
    from pipeline.identity import digest

    fresh = build_unet(architecture, "cpu")
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            generator = torch.Generator().manual_seed(int(digest(str(seed), name)[:15], 16))
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:  # linear layers carry the time embedding, which must not drown in the convolutions
                gain = 1.0 if parameter.ndim == 2 else 0.5
                parameter.copy_(noise * (gain / parameter[0].numel() ** 0.5))
            else:  # norms near 1 and biases near 0, so that activations neither vanish nor grow
                is_norm_weight = name.endswith("weight")
                parameter.copy_(noise * 0.02 + is_norm_weight)
    fresh.eval().requires_grad_(False)
    fresh.fingerprint = fingerprint(fresh)
    return fresh
