"""``diffstyle plan --fit``: the shortest plan that is near enough to `reference`, on a few pairs of a job.

The job's own model, pictures and settings are used, so the answer holds where the tables of docs/speed.md may not: for
another model, another size, many events. All is made in a scratch folder, and nothing of the job's output is touched.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffstyle.errors import ConfigError
from pipeline.banks.reader import LatentBank
from pipeline.jobfile.injection import PLAN_PRESETS, Aligned, PlanSpec
from pipeline.jobfile.schema import Job
from pipeline.models.accelerate import torch_threads
from pipeline.models.session import LoadedModel, ModelLoader, resolve_device
from pipeline.monitoring.progress import Progress
from pipeline.runner.first_pictures import with_first_pictures
from pipeline.stages.inject import PairPlan, recipes
from pipeline.stages.inject_unit import Pair, PairInputs, inject_batch, read_inputs
from pipeline.stages.recipe import Recipe
from pipeline.storage.counts import count
from pipeline.storage.masking import masking_errors
from pipeline.workers.local import LocalWorkers

if TYPE_CHECKING:
    from torch import Tensor

#: Of a longer sweep so many points are tried, evenly spaced, the first and the last among them.
MOST_POINTS = 4
#: What is said, in dB, of pictures that are equal.
EQUAL = 100
_REFERENCE = PLAN_PRESETS["reference"]
# between, tail, measured and doubled of the short grids that are tried, beside grids of the paper's kind.
_ALIGNED: tuple[tuple[int, int, int | None, int], ...] = (
    *((1, 6, 6, 0), (1, 8, 6, 0), (1, 9, 6, 0), (1, 9, 8, 0), (1, 11, 8, 0), (1, 12, 10, 0), (1, 12, 15, 0)),
    *((1, 14, 14, 4), (1, 17, 14, 5), (1, 17, 20, 5), (1, 20, 20, 5), (1, 20, 24, 8)),
    *((1, 10, None, 0), (1, 14, None, 0), (1, 20, None, 0)),
    *((between, tail, None, 0) for between, tail in ((2, 10), (2, 14), (2, 20), (2, 30), (3, 30), (4, 40), (6, 60))),
    *((between, tail, None, 0) for between, tail in ((8, 80), (12, 120))),
)
_GRIDS = (50, 100, 200, 400)


@dataclass(frozen=True)
class TriedPlan:
    """A plan and how near its results come to those of `reference`.

    Attributes:
        plan: As a job file may say it.
        network_calls: Of one pair, of the setting that takes most; ``decodes``: of the network's second half.
        lowest: PSNR in dB of the result that is furthest from the reference's; 100 where all are equal.
        mean: The mean of all results.
    """

    plan: PlanSpec
    network_calls: int
    decodes: int
    lowest: float
    mean: float

    @property
    def words(self) -> str:
        """As a job file says it, on one line."""
        return plan_words(self.plan)


@dataclass(frozen=True, repr=False)
class PlanFit:
    """What :func:`fit_plan` found. ``print`` shows what the command says at its end.

    Attributes:
        wanted: The PSNR asked for, in dB.
        pairs: How many pairs were made; ``settings``: with how many points of the sweep, of ``points``.
        tried: The plans that were tried, from the fewest calls up, the last of them near enough.
        own: The job's own plan.
        reference_calls: Network calls of `reference`.
    """

    wanted: float
    pairs: int
    settings: int
    points: int
    tried: tuple[TriedPlan, ...]
    own: TriedPlan
    reference_calls: int

    @property
    def chosen(self) -> TriedPlan:
        """The shortest that is near enough."""
        return self.tried[-1]

    def __repr__(self) -> str:
        calls = count(self.chosen.network_calls, "network call")
        return f"<PlanFit {self.chosen.words}: {calls}, {self.chosen.lowest:.1f} dB>"

    def __str__(self) -> str:
        chosen, own = self.chosen, self.own
        n = f"{count(self.pairs, 'pair')} x {count(self.settings, 'setting')}"
        part = f" (of {self.points})" if self.settings < self.points else ""
        lines = [
            f"of {n}{part} the lowest has {chosen.lowest:.1f} dB, the mean is {chosen.mean:.1f}; other pairs may have "
            "a little less",
            f"{count(chosen.network_calls, 'network call')} a pair; the job's own plan takes {own.network_calls} "
            f"({own.lowest:.1f} dB), reference {self.reference_calls}",
        ]
        if chosen.plan == own.plan:
            return "\n".join([*lines, "that is the job's own plan; nothing to change"])
        return "\n".join([*lines, "put this into the job:", "injection:", f"  plan: {chosen.words}"])


def plan_words(plan: PlanSpec) -> str:
    """A plan as a job file says it: ``{aligned: {between: 1, tail: 9, measured: 8}}``."""
    values = plan.model_dump(mode="json", exclude_none=True)
    if "aligned" in values and values["aligned"]["order"] == 2:
        del values["aligned"]["order"]
    if "aligned" in values and not values["aligned"]["doubled"]:
        del values["aligned"]["doubled"]
    return json.dumps(values).replace('"', "")


@masking_errors
def fit_plan(
    job: Job,
    wanted: float,
    *,
    pairs: int = 3,
    reference: PlanSpec | None = None,
    tell: Callable[[str], None] = lambda line: None,
    quiet: bool = False,
) -> PlanFit:
    """Find the shortest plan whose results are near enough to those of `reference`.

    The first contents of the job go into its first styles. Plans are tried from the fewest network calls up, until one
    is near enough on all pairs and settings. This takes as long as so many pairs with `reference` do.

    Args:
        job: With the model, the pictures and the settings.
        wanted: PSNR in dB that each result is to have, to the one of the reference with the same x_T, h and noise.
        pairs: How many pairs to try it on.
        reference: Another plan to compare with than `reference`.
        tell: Called with each line of the table, as it comes.
        quiet: Show no progress.

    Returns:
        The plans that were tried, and which one to take.

    Raises:
        ConfigError: No plan that is shorter than the reference is near enough; or the job can't run.
    """
    if not 0 < wanted <= EQUAL:
        raise ConfigError(
            f"--fit: must be more than 0 dB and at most {EQUAL} (equal pictures), such as 45, not {wanted:g}"
        )
    if pairs < 1:
        raise ConfigError(f"--pairs: must be 1 or more, not {pairs}")
    if job.injection.events == "every":
        raise ConfigError("injection.events: every leaves no steps out, so there is no shorter plan to look for")
    with tempfile.TemporaryDirectory(prefix="diffstyle-fit-") as folder, torch_threads(_threads_of(job)):
        trial = _Trial(job, folder, pairs, tell, quiet)
        return trial.fit(job.injection.plan_spec, reference or _REFERENCE, wanted)


def _threads_of(job: Job) -> int | None:
    """As many threads as a worker of the job would have; on all cores those of a small network wait for each other."""
    threads = job.compute.threads
    _, resources = LocalWorkers().plan(resolve_device(job.compute.device), 1, None if threads == "auto" else threads)
    return resources.threads


class _Trial:
    """A job's first pairs, inverted, and what plans make of them."""

    def __init__(self, job: Job, folder: str, n: int, tell: Callable[[str], None], quiet: bool) -> None:
        self.tell = tell
        self.quiet = quiet
        run = with_first_pictures(job, folder, n, quiet=quiet)
        self.job = job = run.job
        self.facts = run.facts
        self.banks: tuple[LatentBank, LatentBank] = run.banks()
        self.wanted: PairPlan = run.wanted()
        contents, styles = self.wanted.contents.rows, self.wanted.styles.rows
        n = min(n, max(len(contents), len(styles)))
        self.pairs = [Pair("", contents[k % len(contents)], styles[k % len(styles)]) for k in range(n)]
        device = resolve_device(job.compute.device)
        assert isinstance(job.compute.batch, int)
        loader = ModelLoader(
            job.model, job.weights, self.facts.fingerprint, device, job.compute.precision, job.compute.batch
        )
        self.model: LoadedModel = loader()

    def recipes(self, plan: PlanSpec) -> list[Recipe]:
        """The job's sweep, or evenly spaced points of it, with another plan."""
        injection = self.job.injection.model_copy(update={"plan": plan})
        job = self.job.model_copy(update={"injection": injection})
        contents, styles = (bank.description for bank in self.banks)
        sweep = recipes(job, self.facts, contents, styles, self.wanted.contents)
        chosen = np.linspace(0, len(sweep) - 1, min(MOST_POINTS, len(sweep))).round().astype(int)
        return [sweep[k] for k in chosen]

    def results(self, plan: PlanSpec, task: str, *, fleeting: bool = True) -> list[Tensor]:
        """The results of all pairs and recipes, each (3, H, W); ``task`` is what the progress calls this."""
        made: list[Tensor] = []
        sweep = self.recipes(plan)
        batches = math.ceil(len(self.pairs) / self.model.batch)
        steps = batches * sum(len(recipe.plan.steps) for recipe in sweep)
        with Progress(steps, task, "step", quiet=self.quiet, fleeting=fleeting) as progress:
            for recipe in sweep:
                inputs = read_inputs(*self.banks, recipe, self.pairs)

                def one(indices: Sequence[int], recipe: Recipe = recipe, inputs: PairInputs = inputs) -> list[Tensor]:
                    pairs = [self.pairs[i] for i in indices]
                    return list(inject_batch(self.model, recipe, pairs, inputs, lambda *_: progress.advance()))

                made += self.model.in_batches(len(self.pairs), one)
        return made

    def cost(self, plan: PlanSpec) -> tuple[int, int]:
        """Network calls and decodes of a pair, of the point of the sweep that takes most."""
        return max((recipe.plan.encodes, recipe.plan.decodes) for recipe in self.recipes(plan))

    def fit(self, own: PlanSpec, reference: PlanSpec, wanted: float) -> PlanFit:
        """See :func:`fit_plan`."""
        calls, _ = self.cost(reference)
        n_points = len(self.wanted.recipes)
        settings = len(self.recipes(reference))
        words = f"reference, {count(calls, 'call')} a pair, {count(len(self.pairs), 'pair')}"
        exact = self.results(reference, words, fleeting=False)
        self.tell("calls  decodes  lowest dB  mean dB  plan")

        def tried(plan: PlanSpec) -> TriedPlan:
            cost = self.cost(plan)
            one = TriedPlan(plan, *cost, *nearness(self.results(plan, f"{count(cost[0], 'call')} a pair"), exact))
            self.tell(f"{one.network_calls:>5}  {one.decodes:>7}  {one.lowest:>9.1f}  {one.mean:>7.1f}  {one.words}")
            return one

        candidates = {plan_words(plan): plan for plan in (*all_plans(), own)}
        costs = {words: self.cost(plan) for words, plan in candidates.items()}
        rows: list[TriedPlan] = []
        for words in sorted(candidates, key=lambda words: costs[words]):
            if costs[words][0] < calls:
                rows.append(tried(candidates[words]))
                if rows[-1].lowest >= wanted:
                    break
        if not rows or rows[-1].lowest < wanted:
            best = f"; the nearest has {max(row.lowest for row in rows):.1f} dB" if rows else ""
            raise ConfigError(
                f"--fit: no plan of fewer calls than reference's {calls} reaches {wanted:g} dB{best}; ask for less, or "
                "take plan: reference"
            )
        its = next((row for row in rows if row.plan == own), None)
        if its is None:
            its = TriedPlan(own, *self.cost(own), EQUAL, EQUAL) if own == reference else tried(own)
        return PlanFit(wanted, len(self.pairs), settings, n_points, tuple(rows), its, calls)


def all_plans() -> list[PlanSpec]:
    """The plans that are tried."""
    aligned = [PlanSpec(aligned=Aligned(between=b, tail=t, measured=m, doubled=d)) for b, t, m, d in _ALIGNED]
    return [*aligned, *(PlanSpec(grid=n) for n in _GRIDS)]


def nearness(made: Sequence[Tensor], exact: Sequence[Tensor]) -> tuple[float, float]:
    """The lowest and the mean PSNR in dB of pictures (3, H, W) to those wanted."""
    import torch

    from pipeline.measures.pixels import psnr

    each = psnr(torch.stack(list(made)), torch.stack(list(exact)))
    return float(each.min()), float(each.mean())
