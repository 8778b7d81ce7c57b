"""Reading a job file: YAML and ``--set`` overrides to a :class:`Job`, with every mistake named by line and field."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffstyle.errors import ConfigError
from pipeline.jobfile.schema import Job
from pipeline.models.config import load_model_config
from pipeline.storage.address import BASE, CHECK_INPUTS
from pipeline.storage.layout import OutputLayout
from pipeline.storage.masking import masking_errors
from pipeline.storage.mistakes import Loc, unknown
from pipeline.storage.paths import expand_home
from pipeline.storage.place import Place
from pipeline.storage.shipped import is_shipped_job, shipped_files
from pipeline.storage.yamlfile import Document, MistakesError, parse_yaml, read_yaml

_SOURCES: tuple[Loc, ...] = (("content",), ("style",))
_SOURCE_PATHS = ("folder", "webdataset", "parquet", "list", "lmdb", "any", "bank")


@masking_errors
def load_job(path: str | os.PathLike[str], overrides: Sequence[str] = (), check_inputs: bool = False) -> Job:
    """Read and validate a job file.

    Relative paths are taken from the job file's folder; those given by an override, and those of a ready job, called by
    its bare name (``demo``) or by its path, from the working directory. ``shipped:demo/contents`` is what travels with
    the code.

    Args:
        path: the file, a folder with a ``job.yaml`` as ``diffstyle new`` writes it, or the name of a ready job that
            comes with the project.
        overrides: assignments like ``injection.gamma=0.4``; see :meth:`Document.override` for what a value may be.
        check_inputs: also require that the local files and folders which the job reads are there.

    Returns:
        The job, its paths absolute.

    Raises:
        MistakesError: the job is not valid; it has a line for each mistake.
        ConfigError: the file can't be read as YAML, or an override is not of the form FIELD=VALUE.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"{path!r}: give a job, the path of a job file or the name of a ready job")
    file, base = _find(path)
    try:
        return _validated(read_yaml(file), overrides, base, check_inputs)
    except MistakesError as error:
        if not is_shipped_job(file):
            raise
        raise MistakesError([_with_cure(line) for line in error.mistakes]) from None


def _with_cure(mistake: str) -> str:
    """A mistake of a ready job, whose pictures the user has to bring, with how to name them."""
    missing = re.search(r": (content|style): .*: no such file or folder$", mistake)
    return mistake if missing is None else f"{mistake}; name yours by --set {missing[1]}=FOLDER"


def make_job(
    values: Mapping[str, Any],
    overrides: Sequence[str] = (),
    origins: Mapping[Loc, str] | None = None,
    inputs: bool = True,
) -> Job:
    """A job of values instead of a file. Relative paths start here.

    Args:
        values: the fields, as a job file has them.
        overrides: as for :func:`load_job`.
        origins: of a field, the option that gave it, for messages.
        inputs: whether what it reads must be there.

    Raises:
        ConfigError: as :func:`load_job`.
    """
    document = Document("", copy.deepcopy(dict(values)), sets=dict(origins or {}))
    return _validated(document, overrides, Path.cwd(), inputs)


def _validated(document: Document, overrides: Sequence[str], base: Path, check_inputs: bool) -> Job:
    for assignment in overrides:
        document.override(assignment, _shorthand)
    job = document.validate(Job, {BASE: base, CHECK_INPUTS: check_inputs})
    if mistakes := _model_mistakes(job):
        raise MistakesError(document.report(mistakes))
    return job


def parse_job(text: str, name: str, overrides: Sequence[str] = ()) -> Job:
    """The job that a run or a data set keeps as text, its paths absolute. Nothing is looked for.

    Args:
        text: A job file as a run writes it.
        name: What messages call it.
        overrides: As for :func:`load_job`.

    Raises:
        MistakesError: It is not valid.
        ConfigError: It can't be read as YAML.
    """
    document = parse_yaml(text, name)
    for assignment in overrides:
        document.override(assignment, _shorthand)
    return document.validate(Job, {BASE: Path.cwd(), CHECK_INPUTS: False})


def _find(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The file to read and the folder that its relative paths start from."""
    file = expand_home(path)
    ready = shipped_files("jobs")
    name = os.fspath(path)
    if name in ready and not os.path.isfile(name):  # noqa: PTH113 - a folder `demo` does not hide the ready job
        return ready[name], Path.cwd()
    if os.path.isdir(file):  # noqa: PTH112 - as below
        own = OutputLayout.own_job(Place.parse(file))
        if own is None:
            left = OutputLayout(Place.parse(file)).job
            cure = (
                f"give {left} for the job as it was last run"
                if left.is_file()
                else "give the job file itself, or `diffstyle new` writes one"
            )
            raise ConfigError(f"{path}: is a folder without a job file of yours; {cure}")
        file = Path(own.path)
    if os.path.exists(file):  # noqa: PTH110 - a name that no file can have is no file, and no OSError
        return file, Path.cwd() if is_shipped_job(file) else file.absolute().parent
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


def _model_mistakes(job: Job) -> dict[Loc, str]:
    try:
        load_model_config(job.model)
    except MistakesError:
        raise  # these name the model config's own lines
    except ConfigError as error:
        return {("model",): str(error)}
    return {}
