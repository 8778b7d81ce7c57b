"""The models that a job can name: their configs, where their weights are, and loading them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from diffstyle.checkpoint_headers import refuse_impostors, stated_architecture
from diffstyle.errors import CheckpointError, ConfigError
from pipeline.storage.address import BASE, LocalPath, Text, address_or_word
from pipeline.storage.masking import has_login
from pipeline.storage.mistakes import matching, unknown
from pipeline.storage.paths import expand_home
from pipeline.storage.shipped import SHIPPED, shipped_files, shipped_folder, shipped_path
from pipeline.storage.variables import AnyMapping
from pipeline.storage.yamlfile import Document, read_yaml

if TYPE_CHECKING:
    from diffstyle.networks.architecture import Architecture

#: ``weights: random`` or ``random:SEED``: the architecture with seeded random weights, for tests and benchmarks.
RANDOM_WEIGHTS = re.compile(r"random(?::(\d+))?")

#: Addresses of the user's own stores, which a run fetches weights from by itself.
STORES = ("s3://", "gs://")

_SHA256 = matching(r"^[0-9a-f]{64}\Z", "the 64 digits (0-9, a-f) that sha256sum prints")


#: ``weights: hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION``: a repository of the Hugging Face Hub.
HUB_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def is_weights_word(text: str) -> bool:
    """Whether a job's ``weights`` is no path and no address of a store: random ones, or a repository of a hub."""
    return (RANDOM_WEIGHTS.fullmatch(text) or HUB_ADDRESS.fullmatch(text)) is not None


class WeightsChoice(BaseModel):
    """A checkpoint, and which of its sets of weights, or what hash it must have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    OTHER_NAMES: ClassVar[Mapping[str, str]] = dict.fromkeys(("file", "folder", "dir", "url", "checkpoint"), "path")

    path: Annotated[str, *address_or_word(is_weights_word, reads=True)]
    """in place of `weights: FILE` where more is to be said of it: the file, folder or address"""
    key: Text | None = None
    """which of the sets of weights that it holds, see [below](#which-weights-of-a-checkpoint)"""
    sha256: Annotated[str, _SHA256] | None = None
    """the hash that the file must have, in hex; another one ends the run"""

    @model_validator(mode="after")
    def _says_more(self) -> WeightsChoice:
        if self.key is None and self.sha256 is None:
            raise ValueError("give key (a set of weights) or sha256 (the file's hash) beside path")
        return self

    def __str__(self) -> str:
        return f"{self.path} (key {self.key})" if self.key is not None else self.path


class Weights(BaseModel):
    """Where a model's weights come from: an address, a hub repository, a page to fetch them from by hand, or a path."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None = None
    url: Annotated[str, matching(r"^(https?|s3|gs)://", "an address with https://, s3:// or gs://")] | None = None
    hub: Annotated[str, matching(r"^[\w.-]+/[\w.-]+\Z", "a repository, OWNER/NAME")] | None = None
    revision: str = "main"
    page: Annotated[str, matching(r"^https?://", "a web address, https://...")] | None = None
    path: LocalPath | None = None
    key: Text | None = None
    sha256: Annotated[str, _SHA256] | None = None
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
        if self.url and self.url.startswith(STORES) and has_login(self.url):
            raise ValueError("an address holds no login; credentials come from the environment")
        if self.file and Path(self.file).name != self.file:
            raise ValueError(f"file must be a plain file name, not '{self.file}'")
        return self


class ModelConfig(BaseModel):
    """One model: what it was trained on, its U-Net, its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[
        str, matching(r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", "letters (a-z), digits, dots, hyphens and underscores")
    ]
    title: str | None = None
    dataset: str | None = None
    architecture: AnyMapping
    weights: Weights
    injection: AnyMapping = {}
    licence: str | None = None
    paper: str | None = None
    repository: str | None = None

    _file: tuple[Document, Path] | None = PrivateAttr(default=None)

    def of(self, document: Document, folder: Path) -> ModelConfig:
        """Itself, knowing the file that it was read from, where that says of jobs what must be checked later."""
        if self.injection:
            self._file = document, folder
        return self

    @property
    def stated_injection(self) -> tuple[Document, Path]:
        """The file with what it says of ``injection``, and the folder where relative paths in it start."""
        return self._file or (Document(f"model {self.name}", {"injection": self.injection}), Path.cwd())

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
        from diffstyle.networks.architecture import architecture_from_dict

        try:
            return architecture_from_dict(self.architecture)
        except ConfigError as error:
            raise ConfigError(f"model {self.name}: {error}") from None


_CHECKPOINTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def is_config_name(text: str) -> bool:
    """Whether a job's ``model:`` is the name of a config (or a mistaken one) and not the path of a file."""
    return "/" not in text and "\\" not in text and not text.endswith((".yaml", ".yml", *_CHECKPOINTS))


def load_model_config(name_or_path: str | os.PathLike[str]) -> ModelConfig:
    """A model that comes with the code by name, any YAML file by path, or a checkpoint that states its architecture.

    Raises:
        ConfigError: no such config, with the nearest name; a mistake in the file, with its line; or a checkpoint that
            does not say what network it is of.
    """
    text = os.fspath(name_or_path)
    if text.startswith(SHIPPED):
        text = shipped_path(text)
    if is_config_name(text):
        shipped = shipped_files("configs")
        if text in shipped:
            return _read(shipped[text])
        demo = {config.name: config for config in shipped_model_configs().values()}
        if text not in demo:
            raise ConfigError(f"{unknown('model', text, [*shipped, *demo])} (or give the path of a model's YAML file)")
        return demo[text]
    file = expand_home(text)
    return _of_checkpoint(file) if text.endswith(_CHECKPOINTS) and not file.is_dir() else _read(file)


def _of_checkpoint(file: Path) -> ModelConfig:
    """The config that a file of ``save_unet`` stands for, named as the file is."""
    architecture = None
    try:
        if file.suffix == ".safetensors":
            architecture = stated_architecture(file)
        else:  # of these none states an architecture, but the file may be missing or something else
            refuse_impostors(file)
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    if architecture is None:
        raise ConfigError(
            f"{file} does not say its architecture; write a YAML file with architecture and weights.path, and name "
            "that as the model"
        )
    path = file.absolute()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).lstrip("._-") or "model"
    document = Document(str(file), {"name": name, "architecture": architecture, "weights": {"path": str(path)}})
    return document.validate(ModelConfig, {BASE: path.parent})


def _read(file: Path) -> ModelConfig:
    document, folder = read_yaml(file), file.absolute().parent
    return document.validate(ModelConfig, {BASE: folder}).of(document, folder)


def shipped_model_configs() -> dict[str, ModelConfig]:
    """Address -> config of the demo's models, whose weights come with the code: ``shipped:demo/model/demo-64.yaml``."""
    demo = shipped_folder("demo")
    files = sorted([*demo.glob("*/*-model.yaml"), *(demo / "model").glob("*.yaml")])
    return {f"{SHIPPED}demo/{file.relative_to(demo).as_posix()}": _read(file) for file in files}


def all_model_configs() -> dict[str, ModelConfig]:
    """Name -> config of every model that comes with the project, sorted by name."""
    return {name: _read(file) for name, file in shipped_files("configs").items()}
