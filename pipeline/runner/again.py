"""Making one row of a data set, or one pair of a run, again, from what its row says."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from diffstyle.errors import ConfigError
from pipeline.banks.description import BankDescription
from pipeline.banks.tensors import TensorSpec, role_tensors
from pipeline.jobfile.injection import InjectionSettings
from pipeline.jobfile.load import parse_job
from pipeline.jobfile.schema import Job, Pictures
from pipeline.models.accelerate import torch_threads
from pipeline.models.session import LoadedModel, ModelFacts, ModelLoader, model_facts, resolve_device
from pipeline.results.look_up import MadeRow, look_up
from pipeline.results.pictures import encode
from pipeline.results.strip import strip
from pipeline.results.words import setting_words, short_name
from pipeline.runner.again_sources import Latents, SideSearch
from pipeline.stages.inject_unit import Pair, PairInputs, make_pairs
from pipeline.stages.masks import mask_again
from pipeline.stages.recipe import Recipe, directions_of, make_recipe, needed_tensors
from pipeline.stages.walk import Walk
from pipeline.storage.counts import count
from pipeline.storage.identity import ALGORITHM_VERSION, digest, digest_of, pair_id, source_stem
from pipeline.storage.masking import masking_errors
from pipeline.storage.place import Place
from pipeline.workers.local import require_device
from pipeline.workers.unit import Device


@dataclass(frozen=True)
class Again:
    """A pair that was made again. ``print(again)`` shows what the command prints.

    Attributes:
        row: The row that it was made from: the manifest's columns.
        name: What the row is called.
        data: The new picture's bytes, encoded as the row says.
        pixels: The new picture, uint8 (H, W, 3).
        before: The row's own picture, uint8 (H, W, 3); None where it is gone.
        content: Where the content came from, and its picture where it is known.
        style: Likewise.
        made_with: Device, batch and versions now; the row's own are in its column of that name.
        notes: What else is to be told.
    """

    row: Mapping[str, Any] = field(repr=False)
    name: str
    data: bytes = field(repr=False)
    pixels: np.ndarray = field(repr=False)
    before: np.ndarray | None = field(repr=False)
    content: Latents = field(repr=False)
    style: Latents = field(repr=False)
    made_with: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether the bytes are those that the row's hash was taken of."""
        return digest(self.data) == self.row["picture_hash"]

    @property
    def psnr(self) -> float | None:
        """Decibels between the two pictures; infinite for equal pixels, None where the row's picture is gone."""
        if self.before is None or self.before.shape != self.pixels.shape:
            return None
        error = float(np.mean((self.before.astype(np.float64) - self.pixels) ** 2))
        return math.inf if error == 0 else 10 * math.log10(255**2 / error)

    def strip(self) -> Image.Image:
        """Content, the row's picture, the new one and the style side by side, with their names."""
        (words,) = setting_words([self.row], all_of_one=True)
        results = [
            ("the row's picture", self.before),
            ("made again: the same" if self.same else "made again", self.pixels),
        ]
        return strip(
            [
                [(short_name(self.row["content_key"]), self.content.pixels)],
                results,
                [(short_name(self.row["style_key"]), self.style.pixels)],
            ],
            words,
        )

    def lines(self) -> list[str]:
        """What happened, in words."""
        (words,) = setting_words([self.row], all_of_one=True)
        lines = [
            f"{self.name}: {self.row['content_key']} in the style of {self.row['style_key']}, {words}",
            f"content: {self.content.origin}",
            f"style: {self.style.origin}",
            *(f"note: {note}" for note in self.notes),
        ]
        if self.same:
            return [*lines, f"the same {count(len(self.data), 'byte')}, hash {self.row['picture_hash']}"]
        return [*lines, f"not the same: {self._how_far()}", *self._other_machine()]

    def _how_far(self) -> str:
        psnr = self.psnr
        if self.before is None or psnr is None:
            return f"the bytes have the hash {digest(self.data)}, the row says {self.row['picture_hash']}"
        if math.isinf(psnr):
            return "the same pixels, encoded to other bytes (another version of the image library)"
        largest = int(np.abs(self.before.astype(np.int16) - self.pixels).max())
        return f"{psnr:.1f} dB to the row's picture, no value further than {largest} of 255 from it"

    def _other_machine(self) -> list[str]:
        before = json.loads(self.row.get("made_with") or "{}")
        if before == self.made_with:
            return []
        return [f"made then with {_said(before)}, now with {_said(self.made_with)}"]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _said(made_with: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in made_with.items()) or "what the row does not say"


@masking_errors
def again(
    folder: str | os.PathLike[str] | Place,
    name: str | None = None,
    *,
    content: str | None = None,
    style: str | None = None,
    split: str | None = None,
    run: str | os.PathLike[str] | Place | None = None,
    contents: str | None = None,
    styles: str | None = None,
    model: str | None = None,
    weights: str | None = None,
    device: str = "auto",
) -> Again:
    """Make a row of a data set, or a pair of a run, again, in this process, and compare.

    All settings are taken from the row. Its content and style come from the banks and shards of its run where they are
    still there, else from the data set's own pictures, else from the sources. Nothing is written.

    Args:
        folder: A data set that `diffstyle select` wrote, or a run's output folder.
        name: The row: the pair's id or its first digits, its picture's file name, or its number in the split.
        content: Instead, or to tell several apart: the content's name.
        style: The style's name.
        split: Of a data set: look only into this split.
        run: The run that a data set was chosen from, where it has been moved.
        contents: The data set that has the content, in place of the job's.
        styles: The data set that has the style.
        model: A model's name or file, in place of the job's.
        weights: Its weights, in place of the job's.
        device: ``cpu``, ``cuda``, ``mps``; ``auto``: the row's kind where this machine has it.

    Returns:
        The picture, where its sources came from, and whether it is the same.

    Raises:
        ConfigError: No row, or several, fit; or what it was made from is missing, or has changed.
        CheckpointError: The weights can't be read.
    """
    made = look_up(
        Place.parse(folder),
        name,
        content=content,
        style=style,
        split=split,
        run=None if run is None else Place.parse(run),
    )
    row, identity = _whole(made)
    job, known = _job(made, {"model": model, "weights": weights, "content": contents, "style": styles})
    facts = _checked_model(job, made)
    walk = Walk.from_dict(identity["content"]["inversion"])
    recipe = _recipe(made, identity, walk, facts)
    notes = [made.note] if made.note else []
    searches = {
        side: SideSearch(
            side,
            row,
            _description(side, identity, recipe, facts),
            made.run,
            getattr(job, side) if side in known else None,
            made.sources.get(side),
            notes,
        )
        for side in ("content", "style")
    }
    with _computing(job, facts, row, device, notes) as load:
        latents = {side: search.latents(load) for side, search in searches.items()}
        pair = Pair(row["pair"], {"image": row["content_image"]}, {"image": row["style_image"]})
        kept = searches["content"].description.h_timesteps
        slots = [kept.index(t) for t in recipe.plan.content_timesteps]
        inputs = PairInputs(
            **{
                name: {row[f"{side}_image"]: latents[side].tensors[tensor]}
                for name, side, tensor in (
                    ("x_T", "style", "x_t"),
                    ("content_x_T", "content", "x_t"),
                    ("colours", "style", "colours"),
                )
                if tensor in latents[side].tensors
            },
            h={row["content_image"]: latents["content"].tensors["h"][slots]},
        )
        pixels, _, made_with = make_pairs(load(identity["precision"]), recipe, [pair], inputs)[0]
    if pixels is None:
        raise ConfigError(f"{made.name}: the result is not finite here; try another --device")
    return Again(
        row=row,
        name=made.name,
        data=encode(pixels, Pictures(**identity["pictures"])),
        pixels=pixels,
        before=_decoded(made, notes),
        content=latents["content"],
        style=latents["style"],
        made_with=json.loads(made_with),
        notes=tuple(notes),
    )


def _whole(made: MadeRow) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row with all columns that are read, and what its settings are the digest of; refused where they disagree."""
    row: dict[str, Any] = {
        name: made.row.get(name) for name in ("content_source", "style_source", "mask", "edit", *made.row)
    }
    if row.get("recipe") is None:
        raise ConfigError(
            f"{made.name}: was made before rows said all that is needed (the column recipe); run the job again into "
            "another output folder"
        )
    if row.get("algorithm") != ALGORITHM_VERSION:
        raise ConfigError(
            f"{made.name}: was made by version {row.get('algorithm')} of the algorithm, this release has "
            f"{ALGORITHM_VERSION}; install the diffstyle that made it"
        )
    try:
        identity = json.loads(row["recipe"])
    except ValueError:
        identity = None
    if not isinstance(identity, dict) or digest_of(identity) != row["settings"]:
        raise ConfigError(f"{made.name}: its recipe is not the one that its settings are the digest of; it was changed")
    return row, identity


#: In place of a job that is not known; what it says of the sides is not used.
_UNKNOWN = "{output: unknown, content: {sample: 1}, style: {sample: 1}}"


def _job(made: MadeRow, given: Mapping[str, str | None]) -> tuple[Job, set[str]]:
    """The job that says where model and sources are, with what is given in its place; and the fields that are known."""
    overrides = [f"{name}={value}" for name, value in given.items() if value is not None]
    known = {name for name, value in given.items() if value is not None}
    if given["model"] is not None and given["weights"] is None:
        overrides.append("weights=null")  # the job's are another model's
    if made.job is None or {"model", "content", "style"} <= known:
        if "model" not in known:
            raise ConfigError(
                f"{made.name}: the job that made it is not known; name the model {made.row['model']} with --model"
            )
        return parse_job(_UNKNOWN, "again", overrides), known
    return parse_job(made.job, f"the job of {made.name}", overrides), known | {"content", "style"}


def _checked_model(job: Job, made: MadeRow) -> ModelFacts:
    facts = model_facts(job.model, job.weights)
    if facts.fingerprint != made.row["model_fingerprint"]:
        raise ConfigError(
            f"{made.name}: was made with {made.row['model']} of fingerprint {made.row['model_fingerprint'][:8]}, and "
            f"the weights of {job.model} have {facts.fingerprint[:8]} now; name the right ones with --model or "
            "--weights"
        )
    return facts


def _recipe(made: MadeRow, identity: Mapping[str, Any], walk: Walk, facts: ModelFacts) -> Recipe:
    """The row's recipe, made from its settings as a job's is. ConfigError where that gives another one."""
    row = made.row
    values = dict(identity["injection"])
    for name in ("mask", "edit"):
        stated: str | None = row.get(name)
        values[name] = None if stated is None else json.loads(stated)
    try:
        settings = InjectionSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{made.name}: its setting {'.'.join(map(str, first['loc']))} is not one of this release: {first['msg']}; "
            "install the diffstyle that made it"
        ) from error

    def is_it(mask: str) -> bool:
        return pair_id(row["content_image"], row["style_image"], row["settings"], mask) == row["pair"]

    content = row["content_image"], source_stem(row.get("content_source") or row["content_key"])
    masks = mask_again(settings, content, facts.image_size, facts.h_shape[1:], is_it)
    directions = directions_of([settings.edit], facts.h_shape, facts.fingerprint)
    shared = {name: value for name, value in identity.items() if name not in ("injection", "plan")}
    recipe = make_recipe(settings, walk, walk.grid, shared, masks, directions)
    if recipe.digest != row["settings"]:
        _refuse(made, identity, json.loads(recipe.identity), settings)
    if not is_it(recipe.masks.own_hash(row["content_image"])):
        raise ConfigError(f"{made.name}: its pair id is not that of its pictures and settings; the row was changed")
    return recipe


def _refuse(made: MadeRow, identity: Mapping[str, Any], now: Mapping[str, Any], settings: InjectionSettings) -> None:
    for name, file in (
        ("mask", getattr(settings.mask, "picture", None)),
        ("edit", None if settings.edit is None else settings.edit.directions),
    ):
        if identity["injection"].get(name) != now["injection"].get(name):
            raise ConfigError(f"{made.name}: injection.{name}: {file or 'it'} has changed since; put the old file back")
    raise ConfigError(f"{made.name}: this release plans other steps for it; install the diffstyle that made it")


def _description(side: str, identity: Mapping[str, Any], recipe: Recipe, facts: ModelFacts) -> BankDescription:
    """Of a bank that holds what this side gives to the pair, and no more."""
    kept = identity[side]
    needed = needed_tensors([recipe.settings])[side]
    tensors: tuple[TensorSpec, ...] = role_tensors(
        "both" if {"h", "x_t"} <= set(needed) else side,
        facts.image_size,
        facts.h_shape,
        tuple(sorted(recipe.plan.content_timesteps)) if side == "content" else (),
        h_dtype=kept["dtype"],
        x_t_dtype=kept.get("x_t_dtype", kept["dtype"]),
        colours="colours" in needed,
    )
    return BankDescription(
        model_fingerprint=facts.fingerprint,
        model_name=facts.name,
        image_size=facts.image_size,
        format="parquet",
        inversion=kept["inversion"],
        preprocessing=kept["preprocessing"],
        tensors=tensors,
    )


@contextmanager
def _computing(
    job: Job,
    facts: ModelFacts,
    row: Mapping[str, Any],
    device: str,
    notes: list[str],
) -> Iterator[Any]:
    """What opens the model in a precision, on the row's kind of device, with its batch and threads."""
    before = json.loads(row.get("made_with") or "{}")
    chosen = _device(device, before, notes)
    batch, compiled = int(before.get("batch", 1)), bool(before.get("compile", False)) and chosen == "cuda"
    opened: dict[str, LoadedModel] = {}

    def load(precision: str) -> LoadedModel:
        if precision not in opened:
            loader = ModelLoader(job.model, job.weights, facts.fingerprint, chosen, precision, batch, compiled)
            opened[precision] = loader()
        return opened[precision]

    with torch_threads(int(before["threads"]) if "threads" in before else None):
        yield load


def _device(device: str, before: Mapping[str, Any], notes: list[str]) -> Device:
    if device != "auto":
        require_device(device, "--device")
        return device  # type: ignore[return-value]
    kind = before.get("device")
    if kind is None:
        return resolve_device("auto")
    try:
        require_device(kind)
    except ConfigError:
        notes.append(f"the row was made on {kind}, which is not there; expect other bytes")
        return resolve_device("auto")
    return kind  # type: ignore[no-any-return]


def _decoded(made: MadeRow, notes: list[str]) -> np.ndarray | None:
    """The row's picture; None, and told, where it can't be read. Told also where its bytes are not the row's."""
    if made.picture is None:
        return None
    if digest(made.picture) != made.row["picture_hash"]:
        notes.append("the picture beside the row has changed since it was written")
    try:
        with Image.open(io.BytesIO(made.picture)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        notes.append("the picture beside the row can't be read any more")
        return None
