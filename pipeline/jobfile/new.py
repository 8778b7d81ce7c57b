"""A new job file of the main fields, each with a comment, that is valid whatever it was made of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.jobfile.load import make_job
from pipeline.jobfile.schema import Job
from pipeline.jobfile.starting import DEMO_MODEL, mask_field, numbers, starting_injection
from pipeline.models.config import load_model_config
from pipeline.storage.address import AS_WRITTEN
from pipeline.storage.shipped import FOLDERS, SHIPPED, shipped_folder
from pipeline.storage.variables import escape
from pipeline.storage.yamlcore import inline

#: What is said of a field: above it at the top of the file, behind it below.
_COMMENTS = {
    "model": "Which diffusion model: a name that `diffstyle models` lists, a model's YAML file, or a .safetensors.",
    "weights": "Another checkpoint of the same architecture.",
    "output": "Where everything goes: shards, latent banks, pictures, manifest. Run again to go on after a stop.",
    "content": "What is in the pictures: a folder (searched in depth), one picture, tars, Parquet, a list; also s3://...",
    "style": "What they shall look like.",
    "seed": "Of the noise that t_boost draws; a list is a sweep.",
    "inversion": "How a picture becomes the model's own noise.",
    "injection": "How content goes in. gamma, omega and mask may be lists: each pair is made once for every value.",
    "pairs": "Every content in every style; or zip, {random: 3} styles for each content, {list: PAIRS.csv}.",
    "bank": "How latents are stored.",
    "pictures": "How results are stored.",
    "score": "Measure at the end how much content and style each picture has.",
    "compute": "On what it runs; all of it is found out where nothing is said.",
    "injection.gamma": "how strongly content is blended in, 0 to 1",
    "injection.t_edit": "inject at timesteps from here up to 999: 400 for 256 px, 160 for 64 px, 80 for 32 px",
    "injection.t_start": "and no further up than this; beyond the paper, whose events go up to 999",
    "injection.t_boost": "fresh noise below this timestep: crisper detail inside the trained domain; 0 is none",
    "injection.plan": "how few network calls stand for the 1000 of the paper (docs/speed.md)",
    "injection.mask": "where content goes: null, reference, {rectangle: [top, left, bottom, right]}, {picture: FILE}",
    "injection.omega": "style calibration; 0 is none",
    "inversion.steps": "network calls for each picture",
    "compute.device": "auto, cpu, cuda or mps",
    "compute.precision": "float16 on a GPU, bfloat16 on a CPU are faster and as good to the eye",
}
#: Comments of single values, in place of those of their fields.
_OF_VALUES = {
    ("injection.plan", "fast"): "fast is for looking; leave it out for the data set itself (docs/speed.md)",
}
_ORDER = tuple(name for name in _COMMENTS if "." not in name)
_HEAD = """\
# A job of DiffStyle. These are the main fields; docs/job-file.md describes all.
# Relative paths start at this file's folder; of what lies outside of it, `diffstyle new` writes the whole path.
#
#   diffstyle run {name} --dry-run     what it would do and write
#   diffstyle run {name}               do it; the same command goes on after a stop, and adds what is new
"""


def new_job(
    file: Path,
    *,
    model: str = DEMO_MODEL,
    content: str = "contents",
    style: str = "styles",
    output: str = "results",
    gamma: str | float | Sequence[float] | None = None,
    mask: Any = None,
    overrides: Sequence[str] = (),
) -> tuple[str, Job]:
    """The text of a job file, not yet written, and the job that it says.

    Args:
        file: Where it will lie; paths below its folder become relative to it.
        model: As in a job file. Settings that nothing else says suit its size.
        content: A data set. A relative path starts at the working directory, as those below do, but for the three
            defaults, which lie beside the file.
        style: Another one.
        output: A folder.
        gamma: One or several, as ``0.2,0.4``.
        mask: As ``diffstyle try`` takes it.
        overrides: Other fields, as ``pairs={random: 3}``.

    Raises:
        ConfigError: Something of it is wrong; a line for each mistake.
    """
    folder = file.absolute().parent
    values: dict[str, Any] = {"model": model, "output": output, "content": content, "style": style}
    for name, default in (("content", "contents"), ("style", "styles"), ("output", "results")):
        if values[name] == default:
            values[name] = str(folder / default)
    only_model = [one for one in overrides if one.partition("=")[0].strip() in ("model", "weights")]
    injection = starting_injection(load_model_config(make_job(values, only_model, inputs=False).model))
    if gamma is not None:
        given = numbers(gamma, "gamma")
        injection["gamma"] = given[0] if len(given) == 1 else given
    if mask is not None:
        injection["mask"] = mask_field(mask)
    injection.setdefault("mask", None)
    job = make_job({**values, "injection": injection, "pairs": "all"}, overrides, inputs=False)
    fields = job.model_dump(mode="json", by_alias=True, exclude_unset=True, context={AS_WRITTEN: True})
    for side in ("content", "style"):
        if list(fields[side]) == ["any"]:
            fields[side] = fields[side]["any"]
    return _text(_movable(fields, folder), file.name), job


def _movable(value: Any, folder: Path) -> Any:
    """Paths below the folder relative to it, those of what comes with the code by ``shipped:``."""
    if isinstance(value, Mapping):
        return {name: _movable(item, folder) for name, item in value.items()}
    if isinstance(value, list):
        return [_movable(item, folder) for item in value]
    if not isinstance(value, str):
        return value
    for name in FOLDERS:
        root = escape(os.fspath(shipped_folder(name)))
        if value.startswith(f"{root}/"):
            return f"{SHIPPED}{name}/{value[len(root) + 1 :]}"
    root = escape(os.fspath(folder)).rstrip("/")
    return f"./{value[len(root) + 1 :]}" if value.startswith(f"{root}/") and value != f"{root}/" else value


def _text(fields: Mapping[str, Any], name: str) -> str:
    """The fields as YAML, each with its comment."""
    lines = [_HEAD.format(name=name if name.isprintable() else "FILE")]
    for field in (one for one in _ORDER if one in fields):
        value = fields[field]
        if isinstance(value, dict) and field in ("inversion", "injection", "bank", "pictures", "compute") and value:
            lines += [f"# {_COMMENTS[field]}", f"{field}:"]
            for inner, item in value.items():
                path = f"{field}.{inner}"
                comment = _OF_VALUES.get((path, str(item)), _COMMENTS.get(path))
                lines.append(f"  {inner}: {inline(item)}" + (f" # {comment}" if comment else ""))
        else:
            lines += [f"# {_COMMENTS[field]}", f"{field}: {inline(value)}"]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"
