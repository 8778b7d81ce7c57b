"""How the entries of a bank were made: a walk from pictures to x_T, or from drawn noise to pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diffstyle.plan import T_0, Plan, inversion_plan, sampling_plan
from diffstyle.schedule import timesteps
from pipeline.banks.description import BankDescription
from pipeline.jobfile.schema import Job, SampleSpec


@dataclass(frozen=True)
class Walk:
    """The settings of an inversion or of a sampling, as a bank's description keeps them under ``inversion``.

    Attributes:
        steps: timesteps of the grid, both ends counted.
        t_0: the timestep of x_T.
        order: of the solver; 2 follows the trend of the noise estimate (job field ``inversion.plan: second-order``).
        precision: what the network computes in.
        sample_seed: the seed of samples drawn from the model; None where pictures were inverted.
    """

    steps: int
    t_0: int = T_0
    order: int = 1
    precision: str = "float32"
    sample_seed: int | None = None

    @classmethod
    def of_job(cls, job: Job, source: Any) -> Walk:
        """The walk that a job asks for; ``source`` is the ``content`` or ``style`` of the job."""
        settings = job.inversion
        if isinstance(source, SampleSpec):
            return cls(settings.steps, settings.t_0, 1, job.compute.precision, source.seed)
        return cls(settings.steps, settings.t_0, 2 if settings.plan == "second-order" else 1, job.compute.precision)

    @classmethod
    def of_bank(cls, description: BankDescription) -> Walk:
        """The walk that made a bank."""
        return cls.from_dict(description.inversion)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Walk:
        """The inverse of :meth:`to_dict`. What a bank does not say has its default."""
        return cls(
            steps=int(values["steps"]),
            t_0=int(values["t_0"]),
            order=2 if values.get("plan") == "second-order" else 1,
            precision=values.get("precision", "float32"),
            sample_seed=int(values["seed"]) if values.get("sampled") else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; part of a bank's identity. The number of samples is not part of it: a bank can grow."""
        values: dict[str, Any] = {"steps": self.steps, "t_0": self.t_0, "precision": self.precision}
        if self.order == 2:
            values["plan"] = "second-order"
        if self.sample_seed is not None:
            values |= {"sampled": True, "seed": self.sample_seed}
        return values

    @property
    def sampled(self) -> bool:
        """Whether the entries were drawn from the model, and not inverted."""
        return self.sample_seed is not None

    @property
    def grid(self) -> tuple[int, ...]:
        """All timesteps at which h could be kept, ascending."""
        grid = timesteps(self.steps, self.t_0)
        # An inversion makes no network call at t_0; sampling begins there.
        return grid if self.sampled else grid[:-1]

    def plan(self, keep: Iterable[int] | None = None) -> Plan:
        """The steps of the walk.

        Args:
            keep: the timesteps of ``grid`` whose h is wanted; None keeps all of them.

        Raises:
            ValueError: a timestep of ``keep`` is not visited.
        """
        wanted = self.grid if keep is None else tuple(keep)
        if self.sampled:
            return sampling_plan(self.steps, self.t_0, wanted, order=self.order)
        return inversion_plan(self.steps, self.t_0, wanted, order=self.order)

    def back(self, steps: int | None = None) -> Plan:
        """The steps from x_T to a picture, by plain DDIM: as many as the walk has, or ``steps``."""
        return sampling_plan(steps or self.steps, self.t_0)
