"""Reading a job file: YAML and ``--set`` overrides to a :class:`Job`, with every mistake named by line and field."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffstyle.errors import ConfigError
from pipeline.jobfile.schema import BankSpec, Job, ListedPairs, MaskSpec, SampleSpec
from pipeline.models.config import RANDOM_WEIGHTS, WeightsChoice, is_config_name, load_model_config
from pipeline.storage.place import Place
from pipeline.storage.shipped import shipped_files
from pipeline.storage.yamlfile import Document, Loc, MistakesError, read_yaml, unknown

_SOURCES: tuple[Loc, ...] = (("content",), ("style",))
_SOURCE_PATHS = ("folder", "webdataset", "parquet", "list", "lmdb", "any", "bank")


def load_job(path: str | os.PathLike[str], overrides: Sequence[str] = (), check_inputs: bool = False) -> Job:
    """Read and validate a job file.

    Relative paths are taken from the job file's folder; those given by an override, and those of a ready job called by
    its bare name (``afhq-style-mixing``), from the working directory.

    Args:
        path: the file, or the name of a ready job that comes with the project.
        overrides: assignments like ``injection.gamma=0.4``, each value read as YAML.
        check_inputs: also require that the local files and folders which the job reads are there.

    Raises:
        MistakesError: the job is not valid; it has a line for each mistake.
        ConfigError: the file cannot be read as YAML, or an override is no assignment.
    """
    file, base = _find(path)
    document = read_yaml(file)
    for assignment in overrides:
        document.override(assignment, _shorthand)
    _resolve_paths(document, base)
    job = document.validate(Job)
    mistakes = _model_mistakes(job) | (_input_mistakes(document, job) if check_inputs else {})
    if mistakes:
        raise MistakesError(document.report(mistakes))
    return job


def _find(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The file to read and the folder that its relative paths start from."""
    file = Path(path).expanduser()
    if file.exists():
        return file, file.absolute().parent
    ready = shipped_files("jobs")
    name = os.fspath(path)
    if name in ready:
        return ready[name], Path.cwd()
    if file.suffix or len(file.parts) > 1:
        raise ConfigError(f"{path}: no such file")
    raise ConfigError(f"{path}: no such file, and {unknown('ready job', name, ready)}")


def _shorthand(loc: Loc, value: Any, following: str) -> Any:
    """The mapping for a source in its short form, so that ``--set content.limit=5`` works on ``content: FOLDER``.

    A source has one kind: an override that gives another (``--set content.parquet=FILE``) takes the first one's place.
    """
    if loc not in _SOURCES:
        return value
    mapping = {"any": value} if isinstance(value, str | list) else value
    kinds = (*_SOURCE_PATHS, "sample")
    if isinstance(mapping, dict) and following in kinds:
        return {key: item for key, item in mapping.items() if key not in kinds}
    return mapping


def _resolve_paths(document: Document, base: Path) -> None:
    """Make every path in the document absolute, before it is validated."""

    def absolute(text: str, loc: Loc) -> str:
        given_here = document.where(loc).startswith("--set ")
        return str(Place.parse(text, None if given_here else base))

    def model(text: str, loc: Loc) -> str:
        return text if is_config_name(text) else absolute(text, loc)

    def weights(text: str, loc: Loc) -> str:
        return text if RANDOM_WEIGHTS.fullmatch(text) else absolute(text, loc)

    _replace(document, ("output",), absolute)
    _replace(document, ("model",), model)
    _replace(document, ("weights",), weights)
    _replace(document, ("weights", "path"), absolute)
    _replace(document, ("pairs", "list"), absolute)
    for source in _SOURCES:
        _replace(document, source, absolute, lists=True)
        for kind in _SOURCE_PATHS:
            _replace(document, (*source, kind), absolute, lists=True)
    masks = document.get(("injection", "mask"))
    for i in range(len(masks)) if isinstance(masks, list) else ():
        for kind in ("picture", "folder"):
            _replace(document, ("injection", "mask", i, kind), absolute)
    for kind in ("picture", "folder"):
        _replace(document, ("injection", "mask", kind), absolute)


def _replace(document: Document, loc: Loc, change: Callable[[str, Loc], str], lists: bool = False) -> None:
    """Change the text at ``loc`` (or each text of the list there); anything else is left for the validation."""
    holder, value = document.get(loc[:-1]), document.get(loc)
    if isinstance(value, str) and value:
        holder[loc[-1]] = change(value, loc)
    elif isinstance(value, list) and lists:
        holder[loc[-1]] = [change(item, loc) if isinstance(item, str) and item else item for item in value]


def _model_mistakes(job: Job) -> dict[Loc, str]:
    try:
        load_model_config(job.model)
    except MistakesError:
        raise  # these name the model config's own lines
    except ConfigError as error:
        return {("model",): str(error)}
    return {}


def _input_mistakes(document: Document, job: Job) -> dict[Loc, str]:
    """What the job reads and is not there. Only local paths are looked at, patterns (``*``, ``{0..9}``) are not."""
    wanted: list[tuple[Loc, str]] = []
    for at, source in zip(_SOURCES, (job.content, job.style), strict=True):
        if isinstance(source, BankSpec):
            wanted.append(((*at, "bank"), source.bank))
        elif not isinstance(source, SampleSpec):
            wanted += [((*at, source.kind), address) for address in source.addresses]
    listed = isinstance(document.get(("injection", "mask")), list)
    for i, mask in enumerate(job.injection.mask):
        if isinstance(mask, MaskSpec) and mask.kind != "rectangle":
            loc: Loc = ("injection", "mask", i, mask.kind) if listed else ("injection", "mask", mask.kind)
            wanted.append((loc, getattr(mask, mask.kind)))
    if isinstance(job.pairs, ListedPairs):
        wanted.append((("pairs", "list"), job.pairs.file))
    if isinstance(job.weights, WeightsChoice):
        wanted.append((("weights", "path"), job.weights.path))
    elif job.weights and not RANDOM_WEIGHTS.fullmatch(job.weights):
        wanted.append((("weights",), job.weights))
    return {
        _written(document, loc): f"{text}: no such file or folder"
        for loc, text in wanted
        if "://" not in text and not any(sign in text for sign in "*?[{") and not Path(text).exists()
    }


def _written(document: Document, loc: Loc) -> Loc:
    """The part of a path that the document itself has: ``content`` for ``content.folder`` of a short form."""
    while loc and document.get(loc) is None:
        loc = loc[:-1]
    return loc
