"""Masks of a job on the h grid: from a rectangle, a picture, or a folder with one for each content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from diffstyle.errors import ConfigError
from pipeline.jobfile.schema import InjectionSettings
from pipeline.shards.decode import Undecodable, decode
from pipeline.sources.recognise import is_picture
from pipeline.storage.identity import digest, source_stem
from pipeline.storage.place import Place


@dataclass(frozen=True)
class Masks:
    """The masks of one recipe, on the h grid. ``shared`` serves every content; otherwise ``own`` has one for each.

    shared  (1, h, w) float32 or None
    own     content image -> (1, h, w) float32
    """

    shared: np.ndarray | None = None
    own: Mapping[str, np.ndarray] | None = None

    def of(self, content_image: str) -> np.ndarray | None:
        return self.own[content_image] if self.own is not None else self.shared

    def own_hash(self, content_image: str) -> str:
        return digest(self.own[content_image].tobytes()) if self.own is not None else ""


def load_masks(
    settings: InjectionSettings, contents: Mapping[str, str], image_size: int, h_grid: tuple[int, int]
) -> Masks:
    """The masks that ``settings`` ask for, on the h grid.

    contents: image -> its source or key, by whose stem a mask folder's picture is found. A mask picture goes through
    the same crop and resize as the contents; white is where content goes. Raises ConfigError naming what is missing.
    """
    from diffstyle.masks import rectangle_mask, reference_mask, to_h_grid

    mask = settings.mask
    if mask is None:
        return Masks()
    if mask == "reference":
        return Masks(to_h_grid(reference_mask(), *h_grid)[0].numpy())
    if mask.rectangle is not None:
        top, left, bottom, right = mask.rectangle
        return Masks(to_h_grid(rectangle_mask(top, left, bottom, right, image_size), *h_grid)[0].numpy())
    if mask.picture is not None:
        return Masks(_mask_picture(Place.parse(mask.picture), image_size, h_grid))
    assert mask.folder is not None
    files = [entry.place for entry in Place.parse(mask.folder).list() if is_picture(entry.place.name)]
    found = {place.name.rpartition(".")[0]: place for place in files}
    own, missing = {}, []
    for image, source in contents.items():
        stem = source_stem(source)
        if stem in found:
            own[image] = _mask_picture(found[stem], image_size, h_grid)
        else:
            missing.append(stem)
    if missing:
        raise ConfigError(
            f"injection.mask.folder: {mask.folder} has no mask for {len(missing)} of {len(contents)} contents "
            f"(e.g. {missing[0]}.png)"
        )
    return Masks(own=own)


def _mask_picture(place: Place, size: int, h_grid: tuple[int, int]) -> np.ndarray:
    from diffstyle.images import to_tensor
    from diffstyle.masks import to_h_grid

    try:
        pixels = decode(place.read_bytes(), size, background=(0, 0, 0), profiles=False).pixels
    except FileNotFoundError:
        raise ConfigError(f"injection.mask: {place} does not exist") from None
    except Undecodable as error:
        raise ConfigError(f"injection.mask: {place} is not readable as a picture: {error}") from None
    grey = (to_tensor(pixels)[None].mean(1, keepdim=True) + 1) / 2
    return to_h_grid(grey, *h_grid)[0].numpy()
