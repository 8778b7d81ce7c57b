"""What a job needs of this machine, in one folder: the project's code with its configs and demo, and the job file.

Ray sends such a folder to every node of a cluster as a run's working directory, so that the cluster needs the
dependencies alone, and always runs the code that sent the job. The files of the user's model and networks are in it,
with small weights (``own_files.py``). Data sets, large weights and output are not: they are named by addresses that
every node sees.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

import diffstyle
from pipeline.jobfile.schema import Job
from pipeline.launch.own_files import OwnFiles
from pipeline.storage.shipped import FOLDERS, SHIPPED, shipped_folder
from pipeline.storage.yamlcore import dump

#: The job file's name in a bundle.
JOB_FILE = "job.yaml"

_NOT_SENT = shutil.ignore_patterns("__pycache__", "*.pyc", "_shipped", "heldout.parquet")


def write_bundle(folder: Path, job: Job) -> list[str]:
    """Fill a folder with the code, a job, and what of the user's files travels with it.

    Args:
        folder: An empty one.
        job: Its other paths must mean the same on the cluster; what is shipped with the code is named as such.

    Returns:
        A line for each file that is too large to travel, with what to do.

    Raises:
        ConfigError: The file of a model or network is wrong.
    """
    own = OwnFiles(folder)
    values = {**_values(job), **own.take(job)}
    for source in (Path(diffstyle.__file__).parent, Path(__file__).parents[1]):
        shutil.copytree(source, folder / source.name, ignore=_NOT_SENT)
    for kind in FOLDERS:
        if shipped_folder(kind).is_dir():
            shutil.copytree(shipped_folder(kind), folder / kind, ignore=_NOT_SENT)
    (folder / JOB_FILE).write_text(_dumped(values), encoding="utf-8")
    return own.staying


def portable(job: Job) -> str:
    """A job as a file that means the same on another machine with this code: absolute paths, ``shipped:`` for what is
    shipped, ``${NAME}`` as it was written."""
    return _dumped(_values(job))


def _values(job: Job) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(job.to_yaml())
    return values


def _dumped(values: dict[str, Any]) -> str:
    return dump({name: _portable(value) for name, value in values.items()})


def _portable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _portable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_portable(one) for one in value]
    if isinstance(value, str):
        for kind in FOLDERS:
            if value.startswith(f"{shipped_folder(kind)}/"):
                return f"{SHIPPED}{kind}/{value.removeprefix(f'{shipped_folder(kind)}/')}"
    return value
