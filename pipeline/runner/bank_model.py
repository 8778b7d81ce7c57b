"""The model that a bank was made with, found again, and workers that hold it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffstyle.errors import ConfigError
from pipeline.banks.reader import LatentBank
from pipeline.banks.tensors import BankError
from pipeline.jobfile.load import load_job
from pipeline.jobfile.schema import Compute, Job, ModelChoice
from pipeline.models.accelerate import compiles
from pipeline.models.batch_size import batch_for
from pipeline.models.config import WeightsChoice, load_model_config
from pipeline.models.session import LoadedModel, ModelLoader, model_facts, resolve_device
from pipeline.runner.pools import crew
from pipeline.shards.store import ShardStore, open_shards
from pipeline.sources import open_source
from pipeline.stages.shard import shard_stage
from pipeline.stages.walk import Walk
from pipeline.storage.differences import differences
from pipeline.storage.layout import OutputLayout
from pipeline.storage.parts import PartStore
from pipeline.storage.place import Place
from pipeline.storage.variables import expand
from pipeline.workers.base import Pool, Workers
from pipeline.workers.local import LocalWorkers


@dataclass(frozen=True)
class BankModel:
    """How to load a bank's model, checked against the bank's fingerprint, and on what to compute."""

    model: str
    weights: str | WeightsChoice | None
    fingerprint: str
    image_size: int
    compute: Compute

    def context(self) -> LoadedModel:
        """The model in this process, for a few pictures."""
        batch = self.compute.batch if self.compute.batch != "auto" else 1
        return self._maker(resolve_device(self.compute.device), batch)()

    def pool(self, workers: Workers) -> Pool:
        """Workers that hold the model."""
        device = resolve_device(self.compute.device)
        n, resources = crew(self.compute, device, workers)
        batch = self.compute.batch
        if batch == "auto":
            batch = workers.given_batch(device) or batch_for(
                self.model, device, self.compute.precision, resources, workers
            )
        compiled = compiles(self.compute.compile, device, self.image_size)
        return workers.pool(n, self._maker(device, batch, compiled), resources, batch=batch)

    def _maker(self, device: str, batch: int, compiled: bool = False) -> ModelLoader:
        precision = self.compute.precision
        return ModelLoader(self.model, self.weights, self.fingerprint, device, precision, batch, compiled)


def find_model(
    bank: LatentBank, job: str | None = None, model: str | None = None, weights: str | WeightsChoice | None = None
) -> BankModel:
    """The model of ``bank``: as given, else as the job says, else by the name in the bank's description.

    ``job`` defaults to the ``job.yaml`` of the output folder that the bank lies in; where that is of another model by
    now, it is what the bank says of the job that made it. Raises ConfigError where the model can't be named, BankError
    where it is another one than the bank's, CheckpointError as loading does.
    """
    description = bank.description
    given = model or weights
    bank_job = _job_of(bank.place, job)
    if model is None and bank_job is not None:
        model, weights = bank_job.model, weights or bank_job.weights
    name = model or description.model_name
    try:
        load_model_config(name)
    except ConfigError as error:
        if model is not None:
            raise
        raise ConfigError(
            f"{bank.place} was made with model {name!r}, which is none of the shipped ones; give --model FILE or --job"
        ) from error
    facts = model_facts(name, weights)
    other = facts.fingerprint != description.model_fingerprint
    if other and not (given or job) and (maker := _maker_of(bank)) is not None:
        # The output's last job was of another model; the bank knows the job that made it.
        name, weights = maker.model, maker.weights
        facts = model_facts(name, weights)
    if facts.fingerprint != description.model_fingerprint:
        raise BankError(
            f"{bank.place} was made with weights of fingerprint {description.model_fingerprint[:8]}, these of {name} "
            "have "
            f"{facts.fingerprint[:8]}; give --weights (or --model) as they were"
        )
    # As the bank was made, whatever a job says now: the numbers are to be those of the bank.
    precision = Walk.of_bank(description).precision
    compute = (bank_job.compute if bank_job is not None else Compute()).model_copy(update={"precision": precision})
    return BankModel(name, weights, facts.fingerprint, description.image_size, compute)


def _maker_of(bank: LatentBank) -> ModelChoice | None:
    """The model of the job that made a bank of a run; None for one that stands alone, which may be a stranger's."""
    written = bank.about.get("job")
    if OutputLayout.around_bank(bank.place) is None or not isinstance(written, dict):
        return None
    return ModelChoice.model_validate(_expanded(written))


def _expanded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _expanded(one) for name, one in value.items()}
    return expand(value) if isinstance(value, str) else value


def _job_of(bank: Place, job: str | None) -> Job | None:
    if job is not None:
        return load_job(job)
    layout = OutputLayout.around_bank(bank)
    if layout is None:
        return None
    left = layout.job
    return load_job(Path(left.path)) if left.is_local and left.is_file() else None


# ---- the prepared pictures ----
def find_pictures(bank: LatentBank, pictures: str | None, scratch: Path) -> tuple[Place | None, dict[str, Any]]:
    """The shards with the prepared pictures of a bank, and their rows by image; (None, {}) where there are none.

    ``pictures``: shards, or a folder or other data set, which is prepared into ``scratch`` first; by default the shards
    that a run has left beside the bank. Raises BankError where they were prepared in another way than the bank's.
    """
    root = _beside(bank.place) if pictures is None else Place.parse(pictures)
    if root is None:
        return None, {}
    if not PartStore(root).exists():
        place = Place.parse(scratch)
        with LocalWorkers().decoders() as pool:
            shard_stage(pool, open_source(str(pictures)), place, bank.description.image_size)
        root = place
    store = open_shards(root)
    _check_preparation(bank, store)
    return root, {row["image"]: row for row in reversed(store.unique())}


def _beside(bank: Place) -> Place | None:
    shards = OutputLayout.shards_beside(bank)
    return shards if shards is not None and PartStore(shards).exists() else None


def _check_preparation(bank: LatentBank, store: ShardStore) -> None:
    differing = differences(bank.description.preprocessing, store.preparation)
    if differing:
        raise BankError(
            f"{store.root}: prepared in another way than the pictures of {bank.place}: {'; '.join(differing)}"
        )
