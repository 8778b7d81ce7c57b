"""Colours as a file's ICC profile means them, turned into those of sRGB.

LittleCMS does the work, through Pillow's ImageCms, with the perceptual intent: the one that profiles for print carry
tables for, and with which black stays black. For profiles without tables (cameras and screens) it equals the relative
colorimetric intent.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

#: Modes of a picture -> the colour space that a profile must be for.
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_SAME = 1  # levels of a channel by which a profile may differ from sRGB and still be called sRGB
_GRID = 17


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    """A picture's colours in sRGB.

    A profile that can't be read, or is for another kind of picture (an RGB profile on a grey picture), changes nothing.
    A profile that differs from sRGB by one level at most changes nothing either, so that nothing is rounded twice.

    Args:
        image: a picture of mode RGB, L or CMYK.
        profile: the bytes of its ICC profile; None or empty where it has none, which means sRGB.

    Returns:
        The picture in mode RGB, and a note where a profile was ignored.
    """
    conversion, note = _conversion(profile, image.mode) if profile else (None, None)
    return (image.convert("RGB") if conversion is None else conversion(image)), note


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """A picture of mode LAB (CIE L*a*b* under D50) in mode RGB; finer than Pillow's own conversion."""
    return _lab_transform().apply(image)


@lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    source, target = (ImageCms.ImageCmsProfile(ImageCms.createProfile(name)) for name in ("LAB", "sRGB"))
    flags = ImageCms.Flags.NOCACHE | ImageCms.Flags.HIGHRESPRECALC
    return ImageCms.ImageCmsTransform(source, target, "LAB", "RGB", ImageCms.Intent.PERCEPTUAL, flags=flags)


@lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> tuple[Callable[[Image.Image], Image.Image] | None, str | None]:
    """From a profile to sRGB: None where there is nothing to do, with a note where that is a fault."""
    flags = ImageCms.Flags.NOCACHE  # the transform is shared by the threads of a worker
    flags |= ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.HIGHRESPRECALC
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space != _SPACES[mode]:
            return None, f"its colour profile is for {space} and not for {_SPACES[mode]}; it is ignored"
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.ImageCmsTransform(source, target, mode, "RGB", ImageCms.Intent.PERCEPTUAL, flags=flags)
    except (OSError, ImageCms.PyCMSError) as error:
        return None, f"its colour profile can't be used ({' '.join(str(error).split())}); it is ignored"
    if mode == "CMYK":
        return transform.apply, None
    probe = _probe(mode)
    converted = np.asarray(transform.apply(probe))
    if np.abs(converted.astype(int) - np.asarray(probe.convert("RGB"))).max() <= _SAME:
        return None, None
    if mode == "RGB":
        return transform.apply, None
    tables = [channel.tolist() for channel in converted[0].T]  # of the 256 levels; exact, and faster than LittleCMS
    return lambda grey: Image.merge("RGB", [grey.point(table) for table in tables]), None


def _probe(mode: str) -> Image.Image:
    """A small picture with colours from all over the space."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, _GRID).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
    return Image.fromarray(np.ascontiguousarray(colours.reshape(_GRID, _GRID * _GRID, 3)))
