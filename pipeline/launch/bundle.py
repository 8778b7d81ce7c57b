"""What a job needs of this machine, in one folder: the project's code with its configs and demo, and the job file.

Ray sends such a folder to every node of a cluster as a run's working directory, so that the cluster needs the
dependencies alone, and always runs the code that sent the job. Data sets, weights and output are not in it: they are
named by addresses that every node sees.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

import diffstyle
from pipeline.jobfile.schema import Job
from pipeline.storage.shipped import FOLDERS, SHIPPED, shipped_folder
from pipeline.storage.yamlcore import dump

#: The job file's name in a bundle.
JOB_FILE = "job.yaml"

_NOT_SENT = shutil.ignore_patterns("__pycache__", "*.pyc", "_shipped", "heldout.parquet")


def write_bundle(folder: Path, job: Job) -> None:
    """Fill a folder with the code and a job.

    Args:
        folder: An empty one.
        job: Its paths must mean the same on the cluster; what is shipped with the code is named as such.
    """
    for source in (Path(diffstyle.__file__).parent, Path(__file__).parents[1]):
        shutil.copytree(source, folder / source.name, ignore=_NOT_SENT)
    for kind in FOLDERS:
        if shipped_folder(kind).is_dir():
            shutil.copytree(shipped_folder(kind), folder / kind, ignore=_NOT_SENT)
    (folder / JOB_FILE).write_text(portable(job), encoding="utf-8")


def portable(job: Job) -> str:
    """A job as a file that means the same on another machine with this code: absolute paths, ``shipped:`` for what is
    shipped, ``${NAME}`` as it was written."""
    return dump({name: _portable(value) for name, value in yaml.safe_load(job.to_yaml()).items()})


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
