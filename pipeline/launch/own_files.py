"""What of the user's files travels with a job: the model's file, those of networks that score, and small weights.

The copies lie in a temporary folder of each node. What a run writes down names the user's own files (``as_named``).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.jobfile.schema import Job
from pipeline.models.config import ModelConfig, WeightsChoice, is_config_name, load_model_config
from pipeline.models.network_spec import NetworkSpec, load_network_spec
from pipeline.storage.address import AS_WRITTEN
from pipeline.storage.counts import data_size
from pipeline.storage.shipped import FOLDERS, shipped_folder
from pipeline.storage.yamlcore import dump

#: Bytes of weights that travel in all. Every node of a cluster gets them through its head, which Ray lets take 512 MiB.
MOST = 100_000_000

#: Where they lie in the folder that is sent, with a file there that says which of the user's files each is.
FOLDER, NAMES = "own", "sent-as.json"


class OwnFiles:
    """The user's files on their way into a folder that is sent.

    Attributes:
        staying: A line for each file that does not travel, with what to do.
    """

    def __init__(self, folder: Path) -> None:
        self.staying: list[str] = []
        self._folder = folder / FOLDER
        self._left = MOST

    def take(self, job: Job) -> dict[str, Any]:
        """Copy what a job names.

        Args:
            job: The job.

        Returns:
            The fields of the job file that name the copies, by paths relative to the folder that is sent.

        Raises:
            ConfigError: A file of a model or network is wrong.
        """
        fields: dict[str, Any] = {}
        if (weights := self._weights(job)) is not None:
            fields["weights"] = weights
        if (model := self._model(job)) is not None:
            fields["model"] = model
        if job.score_networks:
            names = [self._network(number, file) for number, file in enumerate(job.score_networks, 1)]
            fields["score"] = {"networks": names}
        written = job.model_dump(mode="json", by_alias=True, include=set(fields), context={AS_WRITTEN: True})
        if named := dict(_renamed(fields, written)):
            (self._folder / NAMES).write_text(json.dumps(named, indent=2), encoding="utf-8")
        return fields

    def _weights(self, job: Job) -> Any:
        if job.weights is None:
            return None
        choice = job.weights if isinstance(job.weights, WeightsChoice) else None
        path = Path(choice.path if choice else str(job.weights))
        copy = self._copied(path, "weights") if path.is_absolute() else None  # else it is a word or an address
        if copy is None:
            return None
        return copy if choice is None else {**_written(choice), "path": copy}

    def _model(self, job: Job) -> str | None:
        file = Path(job.model)
        if is_config_name(job.model) or _is_shipped(file) or not file.is_file():
            return None
        if file.suffix not in (".yaml", ".yml"):
            return self._copied(file, "model")
        config = load_model_config(job.model)
        values = _written(config)
        # Where the job names other weights, those of the file are not looked at.
        if config.weights.path and job.weights is None:
            copy = self._copied(Path(config.weights.path), "model")
            values["weights"]["path"] = f"./{Path(copy).name}" if copy else config.weights.path
        return self._described(f"model/{file.name}", values)

    def _network(self, number: int, file: str) -> str:
        if not Path(file).is_file() or _is_shipped(Path(file)):
            return file
        spec, folder = load_network_spec(file), f"network-{number}"
        values = _written(spec)
        for field in ("network", "linear"):
            place = getattr(spec, field)
            if place is not None:
                copy = self._copied(Path(place), folder, addresses=False)
                values[field] = f"./{Path(copy).name}" if copy else place
        return self._described(f"{folder}/{Path(file).name}", values)

    def _described(self, name: str, values: dict[str, Any]) -> str:
        file = self._folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dump(values), encoding="utf-8")
        return f"./{FOLDER}/{name}"

    def _copied(self, source: Path, folder: str, addresses: bool = True) -> str | None:
        """The copy of a file or folder, by its path in what is sent; None where it stays, is not here, or is shipped.

        Args:
            source: It.
            folder: In which folder of the copies.
            addresses: Whether it might be named by address instead.
        """
        if not source.exists() or _is_shipped(source):
            return None
        files = [file for file in source.rglob("*") if file.is_file()] if source.is_dir() else [source]
        size = sum(file.stat().st_size for file in files)
        if size > self._left:
            cure = ", or put it at an address (weights: s3://...)" if addresses else ""
            self.staying.append(
                f"{source} ({data_size(size)}) is not sent, only {data_size(MOST)} of your weights are: every node "
                f"must see it at that path{cure}"
            )
            return None
        self._left -= size
        target = self._folder / folder / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
        return f"./{FOLDER}/{folder}/{source.name}"


def as_named(value: Any) -> Any:
    """Fields of a job as the user wrote them, where they name copies that were sent; all else as it is.

    Args:
        value: What a job file may hold.
    """
    if isinstance(value, dict):
        return {name: as_named(one) for name, one in value.items()}
    if isinstance(value, list):
        return [as_named(one) for one in value]
    above, folder, rest = value.rpartition(f"/{FOLDER}/") if isinstance(value, str) else ("", "", "")
    names = Path(above) / FOLDER / NAMES
    if not folder or not names.is_file():
        return value
    return json.loads(names.read_text(encoding="utf-8")).get(f"./{FOLDER}/{rest}", value)


def named_yaml(job: Job) -> str:
    """A job as a run writes it down: :meth:`Job.to_yaml`, with the user's own names of what was sent."""
    text = job.to_yaml()
    values = yaml.safe_load(text)
    named = as_named(values)
    return text if named == values else dump(named)


def _renamed(sent: Any, written: Any) -> Iterator[tuple[str, str]]:
    """(the copy, the file as the job names it) of each text of a value that differs."""
    if isinstance(sent, dict):
        for name, one in sent.items():
            yield from _renamed(one, written[name])
    elif isinstance(sent, list):
        for one, other in zip(sent, written, strict=True):
            yield from _renamed(one, other)
    elif sent != written:
        yield sent, written


def _written(model: ModelConfig | NetworkSpec | WeightsChoice) -> dict[str, Any]:
    """As a file says it, with ``${NAME}`` where that was written."""
    return model.model_dump(mode="json", exclude_none=True, context={AS_WRITTEN: True})


def _is_shipped(file: Path) -> bool:
    path = os.path.abspath(file)  # noqa: PTH100 - no resolving of links
    return any(path.startswith(f"{shipped_folder(kind)}/") for kind in FOLDERS)
