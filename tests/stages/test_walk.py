from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffstyle.plan import inversion_plan, sampling_plan
from pipeline.jobfile.schema import Job
from pipeline.stages.walk import Walk

walks = st.builds(
    Walk,
    steps=st.integers(2, 60),
    t_0=st.integers(100, 999),
    order=st.sampled_from([1, 2]),
    precision=st.sampled_from(["float32", "bfloat16", "float16"]),
    sample_seed=st.none() | st.integers(0, 9),
)


@given(walks)
def test_a_walk_is_read_back_from_a_description(walk):
    assert Walk.from_dict(walk.to_dict()) == walk


@given(walks, walks)
def test_two_walks_that_differ_are_described_differently(one, other):
    assert (one.to_dict() == other.to_dict()) == (one == other)


def test_the_plans_are_those_of_the_method():
    assert Walk(20).plan() == inversion_plan(20)
    assert Walk(20, 900, order=2).plan(keep=[0]) == inversion_plan(20, 900, [0], order=2)
    assert Walk(20, sample_seed=3).plan(keep=[999]) == sampling_plan(20, keep=[999])
    assert Walk(20, 900).back() == sampling_plan(20, 900)
    assert Walk(20, 900).back(7) == sampling_plan(7, 900)


def test_every_timestep_of_the_grid_can_be_kept():
    for walk in (Walk(9), Walk(9, sample_seed=0)):
        assert tuple(sorted(walk.plan().kept)) == walk.grid
        with pytest.raises(ValueError, match="does not visit"):
            walk.plan(keep=[5])


def test_the_walk_of_a_job():
    job = Job(model="m", output="o", content={"sample": 4, "seed": 7}, style="s", inversion={"plan": "second-order"})
    assert Walk.of_job(job, job.style) == Walk(50, order=2)
    assert Walk.of_job(job, job.content) == Walk(50, sample_seed=7)
    half = job.model_copy(update={"compute": job.compute.model_copy(update={"precision": "float16"})})
    assert Walk.of_job(half, half.style) == dataclasses.replace(Walk(50, order=2), precision="float16")
