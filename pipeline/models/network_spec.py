"""What a user says of a network that scores pictures: a small YAML file beside its weights."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from diffstyle.errors import CheckpointError, ConfigError
from pipeline.measures.preparation import (
    EXPORTED,
    TORCHSCRIPT,
    Gives,
    Preparation,
    better,
    says,
    stated_preparation,
)
from pipeline.storage.address import BASE, LocalInput
from pipeline.storage.mistakes import matching
from pipeline.storage.paths import expand_home
from pipeline.storage.yamlfile import read_yaml

if TYPE_CHECKING:
    from pipeline.measures.networks import ScoringNetwork

Three = tuple[float, float, float]
Part = Annotated[float, Field(ge=0, le=1)]


class InputSpec(BaseModel):
    """How the network wants its pictures; see :class:`Preparation`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Annotated[int, Field(ge=1, le=4096)] | None = None
    mean: Three
    std: Annotated[Three, Field()]
    crop: tuple[Part, Part, Part, Part] = (0.0, 0.0, 1.0, 1.0)
    resize: Literal["bicubic", "bilinear"] = "bicubic"
    colours: Literal["rgb", "bgr"] = "rgb"

    @field_validator("std")
    @classmethod
    def _not_zero(cls, value: Three) -> Three:
        if not all(one > 0 for one in value):
            raise ValueError(f"must be three numbers above 0, not {list(value)}")
        return value

    @field_validator("crop")
    @classmethod
    def _has_area(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not (value[0] < value[2] and value[1] < value[3]):
            raise ValueError(
                f"must be [top, left, bottom, right] with top < bottom and left < right, not {list(value)}"
            )
        return value

    def preparation(self) -> Preparation:
        """The same for ``measures``."""
        return Preparation(**self.model_dump())


class NetworkSpec(BaseModel):
    """A network that scores pictures.

    Attributes:
        name: Of its columns, ``NAME_content`` and ``NAME_style``.
        network: A ``.pt2`` file of torch.export, TorchScript, or a folder of transformers; for LPIPS torchvision's
            weights of VGG16 or AlexNet.
        gives: What comes out of it.
        linear: LPIPS's own weights.
        input: How it wants its pictures; a folder of transformers may say that itself.
        compare: With what results are compared.
        frechet: Whether embeddings are kept, and their Fréchet distances found.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[
        str,
        matching(r"^[a-z][a-z0-9_]{0,39}\Z", "at most 40 of a-z, digits and underscores, beginning with a letter"),
    ]
    network: LocalInput
    gives: Gives
    linear: LocalInput | None = None
    input: InputSpec | None = None
    compare: Annotated[tuple[Literal["content", "style"], ...], Field(min_length=1)] = ("content", "style")
    frechet: bool = False

    @field_validator("name")
    @classmethod
    def _deserved(cls, value: str) -> str:
        if "fid" in value.split("_"):
            raise ValueError(
                f"{value}: FID is the Fréchet distance on one network with one way to prepare pictures, which can't be "
                "checked here; name it after the network, as inception"
            )
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> NetworkSpec:
        if len(set(self.compare)) < len(self.compare):
            raise ValueError("compare: names a side twice")
        if self.gives == "lpips":
            if self.linear is None:
                raise ValueError("gives: lpips needs `linear`, the file with LPIPS's own weights")
            if self.input is not None:
                raise ValueError("gives: lpips prepares pictures as its authors do; omit `input`")
            if self.frechet:
                raise ValueError("frechet: needs a network that gives embeddings")
            return self
        if "lpips" in self.name.split("_"):
            raise ValueError(f"name: {self.name} says LPIPS, but that is `gives: lpips`; name it after the network")
        if self.linear is not None:
            raise ValueError("linear: belongs to gives: lpips; omit it")
        if self.frechet and self.gives != "embedding":
            raise ValueError("frechet: needs a network that gives embeddings")
        path = Path(self.network)
        if path.suffix not in (*EXPORTED, *TORCHSCRIPT) and path.exists() and not path.is_dir():
            raise ValueError(
                f"network: {path} is neither a .pt2 file (torch.export), TorchScript ({', '.join(TORCHSCRIPT)}) nor a "
                "folder of transformers; weights alone do not say what network they are of"
            )
        if path.is_dir() and self.gives != "embedding":
            raise ValueError("network: a folder of transformers gives an embedding")
        if self.input is None and not path.is_dir():
            raise ValueError("input: is missing: the network's size, mean and std")
        return self

    @property
    def preparation(self) -> Preparation:
        """How the network wants its pictures. ConfigError where nothing says."""
        if self.gives == "lpips":
            return Preparation()
        if self.input is not None:
            return self.input.preparation()
        stated = stated_preparation(Path(self.network))
        if stated is None:
            raise ConfigError(f"{self.network}: has no preprocessor_config.json; say how it wants pictures as `input`")
        return stated

    def hash(self) -> str:
        """SHA-256 of the network's files; of one file, that file's. CheckpointError where one is missing."""
        return _hash(self.network, self.linear)

    def identity(self) -> dict[str, Any]:
        """All that must be equal for two scores of this name to be compared."""
        return {
            "network": self.name,
            "hash": self.hash(),
            "gives": self.gives,
            "input": asdict(self.preparation),
            "compare": list(self.compare),
            "frechet": self.frechet,
        }

    def columns(self) -> dict[str, tuple[bool, str]]:
        """Name -> (whether more is better, what it says) of each column."""
        return {f"{self.name}_{side}": (better(self.gives, side), says(self.gives, side)) for side in self.compare}

    def load(self, device: str) -> ScoringNetwork:
        """The network on a device.

        Raises:
            CheckpointError: Its file is not what it is called.
            ConfigError: It needs a package that is not installed.
        """
        from pipeline.measures.lpips import load_lpips
        from pipeline.measures.networks import ScoringNetwork, load_network

        path = Path(self.network)
        if self.gives == "lpips":
            network: Any = load_lpips(path, Path(self.linear or ""), device)
        else:
            network = load_network(path, device)
        return ScoringNetwork(network, self.gives, self.preparation, str(path))


def _hash(network: str, linear: str | None) -> str:
    path = Path(network)
    if path.is_dir():
        files = [
            file
            for file in sorted(path.iterdir())
            if file.suffix == ".safetensors" or file.name.endswith("config.json")
        ]
    else:
        files = [path, *([Path(linear)] if linear else [])]
    hashes = {file.name: _sha256(file) for file in files}
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256("".join(f"{value} {name}\n" for name, value in hashes.items()).encode()).hexdigest()


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file") from None


def load_network_spec(path: str | os.PathLike[str]) -> NetworkSpec:
    """Read the file of a network. Relative paths in it start at its folder.

    Raises:
        ConfigError: It is missing, or a line of it is wrong.
    """
    file = expand_home(path)
    document = read_yaml(file)
    return document.validate(NetworkSpec, {BASE: file.absolute().parent})
