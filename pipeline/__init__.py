"""The DiffStyle batch pipeline: sources -> shards -> banks -> tiles -> pictures + manifest.

:func:`load_job` reads a job file, :func:`preview` says what it would do, :func:`run` does it, :func:`status` says how
far it is; :func:`try_pair` makes one pair at once, :func:`fit_plan` finds the plan of fewest calls that is near enough.
:class:`LatentBank` and :class:`Manifest` open what a run has made.
Names are imported when they are first asked for, so that ``import pipeline`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pipeline.storage.system import unsupported_system

if TYPE_CHECKING:
    from pipeline.banks.reader import LatentBank
    from pipeline.jobfile.load import load_job
    from pipeline.jobfile.schema import Job
    from pipeline.monitoring.failures import FailedItem, failures
    from pipeline.monitoring.status import Status, status
    from pipeline.results.manifest import Manifest
    from pipeline.runner.api import Result, preview, run
    from pipeline.runner.plan_fit import PlanFit, fit_plan
    from pipeline.runner.preview import Preview
    from pipeline.runner.try_pair import Trial, try_pair
    from pipeline.sources import open_source
    from pipeline.workers.local import LocalWorkers
    from pipeline.workers.ray_workers import RayWorkers

#: Public name -> the module that holds it; it is imported when the name is first asked for.
_WHERE = {
    "FailedItem": "pipeline.monitoring.failures",
    "Job": "pipeline.jobfile.schema",
    "LatentBank": "pipeline.banks.reader",
    "LocalWorkers": "pipeline.workers.local",
    "Manifest": "pipeline.results.manifest",
    "PlanFit": "pipeline.runner.plan_fit",
    "Preview": "pipeline.runner.preview",
    "RayWorkers": "pipeline.workers.ray_workers",
    "Result": "pipeline.runner.api",
    "Status": "pipeline.monitoring.status",
    "Trial": "pipeline.runner.try_pair",
    "failures": "pipeline.monitoring.failures",
    "fit_plan": "pipeline.runner.plan_fit",
    "load_job": "pipeline.jobfile.load",
    "open_source": "pipeline.sources",
    "preview": "pipeline.runner.api",
    "run": "pipeline.runner.api",
    "status": "pipeline.monitoring.status",
    "try_pair": "pipeline.runner.try_pair",
}

__all__ = [
    "FailedItem",
    "Job",
    "LatentBank",
    "LocalWorkers",
    "Manifest",
    "PlanFit",
    "Preview",
    "RayWorkers",
    "Result",
    "Status",
    "Trial",
    "failures",
    "fit_plan",
    "load_job",
    "open_source",
    "preview",
    "run",
    "status",
    "try_pair",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if (refusal := unsupported_system()) is not None:
        raise ImportError(refusal)
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
