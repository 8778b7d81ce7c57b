"""One pair at once, without a job file: a job of two pictures in a scratch folder, and its results in one strip."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from diffstyle.errors import ConfigError
from pipeline.jobfile.load import make_job
from pipeline.jobfile.schema import Job
from pipeline.jobfile.starting import DEMO_MODEL, SMALL, mask_field, numbers, starting_gammas, starting_injection
from pipeline.models.config import load_model_config
from pipeline.results.contact_sheets import read_picture
from pipeline.results.pictures import save_picture
from pipeline.results.strip import strip
from pipeline.results.words import setting_words
from pipeline.runner.api import STAGES, run
from pipeline.shards.decode import Undecodable, decode
from pipeline.sources.addresses import Unreadable, read_file, resolve
from pipeline.sources.base import SourceError
from pipeline.stages.masks import load_masks, mask_path
from pipeline.storage.counts import count
from pipeline.storage.identity import image_hash, source_text
from pipeline.storage.masking import masking_errors
from pipeline.storage.mistakes import Loc
from pipeline.storage.place import Place

if TYPE_CHECKING:
    from PIL import Image

#: A strip of more results is too wide to look at.
MOST = 12


@dataclass(frozen=True, repr=False)
class Trial:
    """What :func:`try_pair` made. ``print(trial)`` says what the command prints.

    Attributes:
        content: The prepared content, uint8 (S, S, 3), S the side of the model's pictures.
        style: The prepared style, likewise.
        results: The settings in words and the picture, uint8 (S, S, 3), of each point of the sweep.
        strip: Content, results and style side by side, with labels.
        job: The job that was run; the same fields in a job file give the same pictures.
        seconds: How long it took.
    """

    content: np.ndarray
    style: np.ndarray
    results: tuple[tuple[str, np.ndarray], ...]
    strip: Image.Image
    job: Job
    seconds: float

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the strip.

        Args:
            file: its path, ending in .png, .jpg or .webp.
        """
        save_picture(self.strip, file)

    def __str__(self) -> str:
        fields = self.job.injection.model_dump(mode="json", exclude_unset=True, exclude_none=True)
        config = load_model_config(self.job.model)
        lines = [
            f"{count(len(self.results), 'result')} in {self.seconds:.1f} s by {config.name} at {config.size} px",
            f"the same in a job file: injection: {json.dumps(fields).replace(chr(34), '')}",
        ]
        if config.name == load_model_config(DEMO_MODEL).name:
            lines.append(
                f"{config.name} knows cartoon faces alone; for other pictures --model names a model of their kind"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Trial of {count(len(self.results), 'result')}: {', '.join(words for words, _ in self.results)}>"


@masking_errors
def try_pair(
    content: str | os.PathLike[str],
    style: str | os.PathLike[str],
    *,
    gamma: str | float | Sequence[float] | None = None,
    mask: str | os.PathLike[str] | Sequence[float] | Mapping[str, Any] | None = None,
    model: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    quiet: bool | None = None,
) -> Trial:
    """Put one picture's content into another one's style, in this process: to see what a model and settings do.

    It is a job of these two pictures in a scratch folder, so its results are those that a job gives. What is not said
    suits the model: pictures of up to 64 px get the demo's settings, larger ones the method's.

    Args:
        content: A picture file.
        style: Another one.
        gamma: How strongly content is blended in, from 0 to 1: one or several, as numbers or as ``0.2,0.4``. Default:
            three that show its effect.
        mask: Where content goes: ``reference``; a rectangle from top, left, to bottom, right, in fractions of the side,
            as four numbers or as ``0.5,0,1,1``; or the path of a picture whose white is where. Default: everywhere.
        model: A name that ``diffstyle models`` lists, a model's YAML file, or a checkpoint that says its architecture.
            Default: the demo's small model, of cartoon faces at 64 px.
        overrides: Other fields of the job, as ``injection.t_edit=200``.
        quiet: Show no progress. Default: a line for models of up to 64 px, and more for larger ones, which take longer.

    Returns:
        The pictures, and the strip of them.

    Raises:
        ConfigError: A file is no picture, or a setting is wrong.
        CheckpointError: The model's weights are not there, or do not fit.
    """
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="diffstyle-try-") as folder:
        job = _job(content, style, gamma, mask, model, overrides, folder)
        size = load_model_config(job.model).size
        places = {side: _place(getattr(job, side), side) for side in ("content", "style")}
        pictures = {side: _prepared(place, size) for side, place in places.items()}
        if quiet is None and size <= SMALL:
            n = count(len(job.settings()), "result")
            print(f"making {n} at {size} px: some seconds each on a CPU", file=sys.stderr, flush=True)
        result = run(job, local=True, quiet=size <= SMALL if quiet is None else quiet, stages=STAGES[:3])
        for failure in result.failures:
            raise ConfigError(f"{failure.name}: {failure.error}")
        rows = _in_order(result.manifest.table().to_pylist(), job)
        results = tuple(
            (words, read_picture(result.output, row["picture"], row["picture_hash"]))
            for words, row in zip(setting_words(rows), rows, strict=True)
        )
    shown = [("content", pictures["content"]), *_masked(job, pictures["content"], places["content"])]
    title = f"{places['content'].name} in the style of {places['style'].name}: {_settings(job, rows[0])}"
    drawn = strip([shown, results, [("style", pictures["style"])]], title)
    return Trial(pictures["content"], pictures["style"], results, drawn, job, time.perf_counter() - begun)


def _job(content: Any, style: Any, gamma: Any, mask: Any, model: Any, overrides: Sequence[str], folder: str) -> Job:
    name = os.fspath(model) if model is not None else DEMO_MODEL
    values: dict[str, Any] = {
        "model": name,
        "output": os.path.join(folder, "out"),  # noqa: PTH118 - a text
        "content": os.fspath(content),
        "style": os.fspath(style),
    }
    plain = make_job(values, [one for one in overrides if one.partition("=")[0].strip() in ("model", "weights")])
    config = load_model_config(plain.model)
    injection = starting_injection(config) | {"gamma": list(starting_gammas(config.size))}
    if gamma is not None:
        injection["gamma"] = numbers(gamma, "gamma")
    if mask is not None:
        injection["mask"] = mask_field(os.fspath(mask) if isinstance(mask, os.PathLike) else mask)
    # Of one pair nothing is gained by measuring batches or by compiling.
    compute = {"batch": 1, "compile": False}
    values |= {"injection": injection, "compute": compute}
    origins: dict[Loc, str] = {("injection", "gamma"): "gamma", ("injection", "mask"): "mask"}
    job = make_job(values, overrides, origins)
    if len(job.settings()) > MOST:
        raise ConfigError(
            f"{count(len(job.settings()), 'setting')}: a strip shows at most {MOST}; give fewer, or run a job"
        )
    return job


def _place(source: Any, side: str) -> Place:
    """The one picture file of a side."""
    addresses = getattr(source, "addresses", ())
    try:
        places = [place for address in addresses for place in resolve(address, None)]
        if len(places) != 1 or places[0].is_dir():
            named = ", ".join(addresses) or "samples and banks"
            raise ConfigError(
                f"{side}: {named}: give one picture file; for whole folders `diffstyle new` writes a job file"
            )
    except SourceError as error:
        raise ConfigError(f"{side}: {error}") from None
    return places[0]


def _prepared(place: Place, size: int) -> np.ndarray:
    try:
        return decode(read_file(place), size).pixels
    except (Undecodable, Unreadable) as error:
        raise ConfigError(f"{place}: not readable as a picture: {error}") from None


def _in_order(rows: list[dict[str, Any]], job: Job) -> list[dict[str, Any]]:
    """The manifest's rows with gamma as the job lists it."""
    gammas = list(dict.fromkeys(json.dumps(settings.to_dict()["gamma"]) for settings in job.settings()))

    def position(row: dict[str, Any]) -> tuple[int, str]:
        gamma = json.loads(row["gamma_schedule"]) if row["gamma"] is None else row["gamma"]
        return gammas.index(json.dumps(gamma)), row["settings"]

    return sorted(rows, key=position)


def _masked(job: Job, pixels: np.ndarray, place: Place) -> list[tuple[str, np.ndarray]]:
    """The content with all that a mask keeps out in the dark; nothing where there is no mask, or there are several."""
    if len(job.injection.mask) != 1 or job.injection.mask[0] is None:
        return []
    image, size = image_hash(pixels), len(pixels)
    h_shape = load_model_config(job.model).unet_architecture.h_shape
    contents = {image: mask_path(source_text(str(place)))}
    mask = load_masks(job.settings()[0], contents, size, (h_shape[1], h_shape[2])).of(image)
    assert mask is not None
    rows, columns = (np.arange(size) * n // size for n in mask.shape[-2:])
    light = 0.2 + 0.8 * mask.reshape(mask.shape[-2:])[rows][:, columns]
    return [("goes where light", (pixels * light[..., None]).round().astype(np.uint8))]


def _settings(job: Job, row: Mapping[str, Any]) -> str:
    plan = f" (plan {job.injection.plan})" if isinstance(job.injection.plan, str) else ""
    timesteps = ", ".join(f"{name} {row[name]}" for name in ("t_edit", "t_start") if row[name] is not None)
    return f"{row['model']}, {timesteps}, {count(row['network_calls'], 'network call')} a result{plan}"
