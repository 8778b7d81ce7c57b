"""Two jobs in one output that differ in just one thing: where a pixel or a byte may differ, both are made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.whole_jobs import CONTENTS, STYLES, manifest, run_job

ONE: dict[str, Any] = {
    "content": {"folder": str(CONTENTS), "limit": 1},
    "style": {"folder": str(STYLES), "limit": 1},
    "inversion": {"steps": 4},
    "injection": {"gamma": 0.6, "t_edit": 400, "events": 4, "plan": {"grid": 4}},
    "bank": {"h": "float32", "keep": "all"},
    "compute": {"batch": 1},
}

#: Which banks a job reads: overrides of the job that makes them.
BANKS: dict[str, list[str]] = {
    "plain": [],
    "other weights": ["weights=random:1"],
    "h in half": ["bank.h=float16"],
    "x_T in half": ["bank.x_t=float16"],
    "other walk": ["inversion.plan=second-order"],
    "in bfloat16": ["compute.precision=bfloat16"],
}

#: One difference each: the banks (of contents and styles, where they are not of one job), and overrides of the job.
JOBS: dict[str, tuple[str, list[str]]] = {
    "as it is": ("plain", []),
    "another model": ("other weights", ["weights=random:1"]),
    "another precision": ("plain", ["compute.precision=bfloat16"]),
    "banks of another precision": ("in bfloat16", []),
    "another type of the content bank": ("h in half, plain", []),
    "another type of the style bank": ("plain, x_T in half", []),
    "another inversion": ("other walk", []),
    "another inversion of the contents": ("other walk, plain", []),
    "as jpeg": ("plain", ["pictures.format=jpeg"]),
    "as jpeg of another quality": ("plain", ["pictures.format=jpeg", "pictures.quality=80"]),
    "as webp": ("plain", ["pictures.format=webp"]),
    "omega": ("plain", ["injection.omega=0.3"]),
    "another omega": ("plain", ["injection.omega=0.6"]),
    "gamma": ("plain", ["injection.gamma=0.5"]),
    "gamma over the timesteps": ("plain", ["injection.gamma={linear: [0.6, 0.5]}"]),
    "a mask": ("plain", ["injection.mask=reference"]),
    "another mask": ("plain", ["injection.mask={rectangle: [0, 0, 1, 0.5]}"]),
    "dt_lambda": ("plain", ["injection.dt_lambda=0.9"]),
    "dt_end": ("plain", ["injection.dt_lambda=0.9", "injection.dt_end=600"]),
    "t_edit": ("plain", ["injection.t_edit=700"]),
    "plan": ("plain", ["injection.plan={grid: 5}"]),
    "events": ("plain", ["injection.events=3"]),
    "noise": ("plain", ["injection.t_boost=400"]),
    "another seed": ("plain", ["injection.t_boost=400", "seed=1"]),
}

#: Differences that change no pixel of the same file.
SAME: dict[str, tuple[str, list[str]]] = {
    "a seed where no noise is drawn": ("plain", ["seed=7"]),
    "the quality of a png": ("plain", ["pictures.quality=50"]),
    "a type of h that is not read": ("h in half", []),
    "a type of x_T that is not read": ("x_T in half", []),
    "the time that a tile takes": ("plain", ["compute.tile_seconds=1"]),
}


@pytest.fixture(scope="module")
def banks(tmp_path_factory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("banks")
    for name, overrides in BANKS.items():
        run_job(folder / name, *overrides, stages=("shard", "precompute"), **ONE)
    return {name: folder / name / "out" / "banks" for name in BANKS}


def test_what_may_differ_is_made_and_what_can_not_is_there(banks, tmp_path, monkeypatch):
    # Which pairs are made is asked here, not what they look like.
    monkeypatch.setattr("diffstyle.sampling.inject", lambda model, x_T, *rest, **options: x_T.clamp(-1, 1))

    def made(name: str, of: str, overrides: list[str]) -> tuple[int, int]:
        names = of.split(", ") * 2
        sides = {
            side: {"bank": str(banks[name] / side)} for side, name in zip(("content", "style"), names, strict=False)
        }
        counts = run_job(tmp_path, *overrides, stages=("inject",), **{**ONE, **sides}).counts
        return counts.pairs_made, counts.pairs_there

    for name, job in JOBS.items():
        assert made(name, *job) == (1, 0), name
    for name, job in {"as it is": JOBS["as it is"], "another seed": JOBS["another seed"], **SAME}.items():
        assert made(name, *job) == (0, 1), name
    rows = manifest(tmp_path / "out")
    assert len(rows) == rows["pair"].nunique() == rows["settings"].nunique() == rows["picture"].nunique() == len(JOBS)


def test_a_sweep_of_positive_omegas_keeps_all_its_points(banks, tmp_path):
    sides = {side: {"bank": str(banks["plain"] / side)} for side in ("content", "style")}
    run = run_job(tmp_path, "injection.omega=[0.3, 0.6]", stages=("inject",), **{**ONE, **sides})
    assert run.counts.pairs_made == 2
    rows = manifest(tmp_path / "out")
    assert sorted(rows["omega"]) == [0.3, 0.6]
    assert rows["picture_hash"].nunique() == 2
