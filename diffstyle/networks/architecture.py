"""What a U-Net is built from: the two families of frozen diffusion models, as plain values.

A checkpoint does not say all of this about itself (the number of attention heads and the resolutions leave no trace in
the tensor shapes), so an architecture always comes from a config, from a file's metadata or from a ``config.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar

from diffstyle.errors import ConfigError

#: Channels of an image and of a noise estimate. The method works on RGB.
IMAGE_CHANNELS = 3
#: Groups of every GroupNorm, fixed in both original code bases.
NORM_GROUPS = 32


@dataclass(frozen=True)
class DDPMArchitecture:
    """The U-Net of Ho et al., "Denoising Diffusion Probabilistic Models" (2020), in its PyTorch port.

    ``ch_mult`` gives each level's width in units of ``ch``; the image side halves from one level to the next.
    ``attn_resolutions`` are sides in pixels. ``resamp_with_conv`` puts a learned convolution at each change of
    resolution.

    Raises:
        ConfigError: a field has the wrong type or the fields do not go together.
    """

    image_size: int
    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    in_channels: int = IMAGE_CHANNELS
    resamp_with_conv: bool = True

    family: ClassVar[str] = "ddpm"

    def __post_init__(self) -> None:
        _check_types(self)
        _check_levels(self.image_size, "ch", self.ch, "ch_mult", self.ch_mult)
        if self.in_channels != IMAGE_CHANNELS:
            raise ConfigError(f"in_channels must be {IMAGE_CHANNELS} (RGB images), not {self.in_channels}")

    @property
    def h_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the bottleneck feature h."""
        return _h_shape(self.image_size, self.ch, self.ch_mult)


@dataclass(frozen=True)
class ADMArchitecture:
    """The U-Net of Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis" (2021), unconditional.

    ``channel_mult`` gives each level's width in units of ``num_channels``; the image side halves from one level to the
    next. ``attention_resolutions`` are sides in pixels; every attention has heads of ``num_head_channels`` channels.
    ``learn_sigma``: six output channels, of which the first three are the noise estimate. ``use_scale_shift_norm``: the
    time embedding scales and shifts the second norm of a residual block instead of being added before it.
    ``resblock_updown``: residual blocks change the resolution instead of strided convolutions.

    Raises:
        ConfigError: a field has the wrong type or the fields do not go together.
    """

    image_size: int
    num_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    num_head_channels: int
    learn_sigma: bool
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True

    family: ClassVar[str] = "adm"

    def __post_init__(self) -> None:
        _check_types(self)
        _check_levels(self.image_size, "num_channels", self.num_channels, "channel_mult", self.channel_mult)
        for level, mult in enumerate(self.channel_mult):
            last = level == len(self.channel_mult) - 1  # the middle block always has an attention
            attended = last or self.image_size >> level in self.attention_resolutions
            if attended and (self.num_channels * mult) % self.num_head_channels:
                raise ConfigError(
                    f"num_head_channels {self.num_head_channels} does not divide the {self.num_channels * mult}"
                    f" channels of level {level}, which has an attention"
                )

    @property
    def h_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the bottleneck feature h."""
        return _h_shape(self.image_size, self.num_channels, self.channel_mult)


Architecture = DDPMArchitecture | ADMArchitecture

_FAMILIES: dict[str, type[DDPMArchitecture] | type[ADMArchitecture]] = {
    kind.family: kind for kind in (DDPMArchitecture, ADMArchitecture)
}
# Annotations are strings in this module, so a field's type is one of these.
_INT, _BOOL, _INTS = "int", "bool", "tuple[int, ...]"


def architecture_from_dict(d: Mapping[str, Any]) -> Architecture:
    """Read an architecture from plain values, as a YAML or JSON config has them.

    ``family`` is "ddpm" or "adm"; the other keys are the fields of that family's class. A list may also be written as
    guided-diffusion's command line writes it ("1,2,2"), or as a bare number where it has one item. guided-diffusion's
    ``class_cond: false`` is accepted and means nothing; ``class_cond: true`` is refused, since the method needs an
    unconditional model.

    Raises:
        ConfigError: a field is unknown, missing or of the wrong type; the message names it and the allowed ones.
    """
    if not isinstance(d, Mapping):
        raise ConfigError(f"an architecture is a mapping of fields, not {type(d).__name__}")
    values = dict(d)
    family = values.pop("family", None)
    kind = _FAMILIES.get(family) if isinstance(family, str) else None
    if kind is None:
        stated = "is missing" if family is None else f"{family!r} is unknown"
        raise ConfigError(f"architecture field 'family' {stated}; allowed: {', '.join(_FAMILIES)}")
    if kind is ADMArchitecture and values.pop("class_cond", False) is not False:
        raise ConfigError("class_cond must be false: only unconditional models are supported")
    known = {field.name: field for field in fields(kind)}
    unknown = sorted(str(key) for key in values if key not in known)
    if unknown:
        raise ConfigError(f"unknown {family} architecture field {_quoted(unknown)}; allowed: {', '.join(known)}")
    missing = [name for name, field in known.items() if field.default is MISSING and name not in values]
    if missing:
        raise ConfigError(f"{family} architecture lacks the field {_quoted(missing)}; allowed: {', '.join(known)}")
    given: dict[str, Any] = {
        name: _as_tuple(value) if known[name].type == _INTS else value for name, value in values.items()
    }
    return kind(**given)


def architecture_to_dict(a: Architecture) -> dict[str, Any]:
    """The inverse of :func:`architecture_from_dict`: JSON-able values, "family" first, every field present."""
    return {"family": a.family} | {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(a).items()}


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _as_tuple(value: object) -> object:
    """A tuple field as people write it; anything else is left for the type check to name."""
    if isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, str) and re.fullmatch(r"\d+( *, *\d+)*", value.strip()):
        return tuple(int(item) for item in value.split(","))
    return value


def _check_types(a: Architecture) -> None:
    for field in fields(a):
        value = getattr(a, field.name)
        if field.type == _BOOL:
            fits, wanted = isinstance(value, bool), "true or false"
        elif field.type == _INT:
            fits, wanted = _is_positive_int(value), "a whole number of at least 1"
        else:
            fits = isinstance(value, tuple) and all(_is_positive_int(item) for item in value)
            wanted = "a list of whole numbers, each at least 1"
        if not fits:
            raise ConfigError(f"{a.family} architecture field '{field.name}' must be {wanted}, not {value!r}")


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_levels(image_size: int, width_name: str, width: int, mult_name: str, mult: tuple[int, ...]) -> None:
    if not mult:
        raise ConfigError(f"{mult_name} must name at least one level")
    if image_size % 2 ** (len(mult) - 1):
        raise ConfigError(f"image_size {image_size} cannot be halved {len(mult) - 1} times, as {mult_name} {mult} asks")
    if width % NORM_GROUPS:
        raise ConfigError(f"{width_name} {width} is not a multiple of {NORM_GROUPS}, the number of GroupNorm groups")


def _h_shape(image_size: int, width: int, mult: tuple[int, ...]) -> tuple[int, int, int]:
    side = image_size >> (len(mult) - 1)
    return (width * mult[-1], side, side)
