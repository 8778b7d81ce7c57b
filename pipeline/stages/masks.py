"""Masks of a job on the h grid: from a rectangle, a picture, or a folder with one for each content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffstyle.errors import ConfigError
from diffstyle.mask_arrays import on_h_grid, picture_array, rectangle_array, reference_array
from pipeline.jobfile.injection import InjectionSettings
from pipeline.shards.decode import Undecodable, decode
from pipeline.sources.recognise import is_picture
from pipeline.storage.counts import count
from pipeline.storage.identity import digest, source_parts
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
    settings: InjectionSettings,
    contents: Mapping[str, str],
    image_size: int,
    h_grid: tuple[int, int],
    copies: Sequence[tuple[str, str]] = (),
) -> Masks:
    """The masks that ``settings`` ask for, on the h grid.

    contents: image -> path of the content (see :func:`mask_path`), by which the picture of a mask folder is found. A
    mask picture goes through the same crop and resize as the contents; white is where content goes. ``copies``: (image,
    path) of files with the same picture as one of ``contents``: a picture is made once, so a mask of theirs must be the
    same too. Raises ConfigError naming what is missing, or differs.
    """
    mask = settings.mask
    if mask is None:
        return Masks()
    if mask == "reference":
        return Masks(on_h_grid(reference_array(), *h_grid)[None])
    if mask.rectangle is not None:
        top, left, bottom, right = mask.rectangle
        return Masks(on_h_grid(rectangle_array(top, left, bottom, right, image_size), *h_grid)[None])
    if mask.picture is not None:
        return Masks(_mask_picture(Place.parse(mask.picture), image_size, h_grid))
    assert mask.folder is not None
    masks = _masks_by_path(Place.parse(mask.folder))
    files = _own_masks(mask.folder, masks, contents)
    own = {image: _mask_picture(file, image_size, h_grid) for image, file in files.items()}
    for image, path in copies:
        file = _fitting(masks, path)
        if file not in (None, files[image]) and not np.array_equal(_mask_picture(file, image_size, h_grid), own[image]):
            raise ConfigError(
                f"injection.mask.folder: {contents[image]} and {path} are the same picture with different masks "
                f"({files[image]} and {file}); a picture is made once, so keep one of them"
            )
    return Masks(own=own)


def mask_again(
    settings: InjectionSettings,
    content: tuple[str, str],
    image_size: int,
    h_grid: tuple[int, int],
    is_it: Callable[[str], bool],
) -> Masks:
    """The mask that one content had, also where its path is not known any more.

    Args:
        settings: With the mask.
        content: Its image and its name, without folders and suffix.
        image_size: Side of the prepared pictures, in pixels.
        h_grid: Rows and columns of h.
        is_it: Whether a mask of its own is the one, by the mask's hash.

    Raises:
        ConfigError: It is missing, or changed.
    """
    mask = settings.mask
    if mask is None or mask == "reference" or mask.folder is None:
        return load_masks(settings, {}, image_size, h_grid)
    image, name = content
    files = [file for path, file in _masks_by_path(Place.parse(mask.folder)).items() if path[-1] == name]
    for file in files:
        own = _mask_picture(file, image_size, h_grid)
        if is_it(digest(own.tobytes())):
            return Masks(own={image: own})
    changed = f"{files[0]} is another one now" if files else "there is none of that name"
    raise ConfigError(
        f"injection.mask.folder: {mask.folder} no longer has the mask that {name} was made with: {changed}; put it back"
    )


def _masks_by_path(root: Place) -> dict[tuple[str, ...], Place]:
    """Path below the mask folder, without its suffix -> the picture there."""
    masks: dict[tuple[str, ...], Place] = {}
    if root.is_file():  # a set of one
        return {(_without_suffix(root.name),): root}
    for entry in root.list(recursive=True):
        if is_picture(entry.place.name):
            path = tuple(entry.place.relative_to(root).rpartition(".")[0].split("/"))
            if path in masks:
                raise ConfigError(
                    f"injection.mask.folder: {masks[path]} and {entry.place} are masks of the same name; keep one"
                )
            masks[path] = entry.place
    return masks


def _fitting(masks: Mapping[tuple[str, ...], Place], content: str) -> Place | None:
    """The mask of the most folders of a content's path, and its name."""
    path = tuple(_without_suffix(content).split("/"))
    deepest = max(map(len, masks), default=0)
    fitting = (masks.get(path[-length:]) for length in range(min(deepest, len(path)), 0, -1))
    return next((file for file in fitting if file is not None), None)


def _own_masks(folder: str, masks: Mapping[tuple[str, ...], Place], contents: Mapping[str, str]) -> dict[str, Place]:
    """The mask of each content: the picture of its name, in the folders that the content lies in as far as given.

    ``dogs/001.png`` is the mask of the content ``.../dogs/001.jpg``, and stands before ``001.png``, which serves where
    only one content has that name. Raises ConfigError naming what is missing, or fits more than once.
    """
    chosen: dict[str, Place] = {}
    used: dict[Place, str] = {}
    missing = []
    for image, content in contents.items():
        file = _fitting(masks, content)
        if file is None:
            missing.append(_without_suffix(content).rpartition("/")[2])
        elif file in used:
            raise ConfigError(
                f"injection.mask.folder: {file} may be the mask of {used[file]} and of {content}; put the masks into "
                "folders that are called as those of the contents"
            )
        else:
            chosen[image], used[file] = file, content
    if missing:
        raise ConfigError(
            f"injection.mask.folder: {folder} has no mask for {len(missing)} of {count(len(contents), 'content')} "
            f"(e.g. {missing[0]}.png)"
        )
    return chosen


def mask_path(source: str) -> str:
    """The path of a content for :func:`load_masks`, by its ``source``; an archive's name counts as a folder."""
    file, member = source_parts(source)
    return file if member is None else f"{_without_suffix(file)}/{member}"


def _without_suffix(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _mask_picture(place: Place, size: int, h_grid: tuple[int, int]) -> np.ndarray:
    try:
        pixels = decode(place.read_bytes(), size, background=(0, 0, 0), profiles=False).pixels
    except FileNotFoundError:
        raise ConfigError(f"injection.mask: {place} does not exist") from None
    except Undecodable as error:
        raise ConfigError(f"injection.mask: {place} is not readable as a picture: {error}") from None
    return on_h_grid(picture_array(pixels), *h_grid)[None]
