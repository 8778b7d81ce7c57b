"""Which of a checkpoint's sets of weights a job takes, and where that is told."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors.torch import load_file
from support.small_jobs import DATA
from support.whole_jobs import MODEL, paint, run_job

from diffstyle.errors import CheckpointError, ConfigError
from pipeline.models.session import model_facts

AVERAGED = load_file(DATA / "tiny-ddpm.safetensors")


@pytest.fixture
def state(tmp_path):
    """A training state with two averages; the pictures for a job lie beside it."""
    paint(tmp_path / "c" / "a.png", 1)
    paint(tmp_path / "s" / "a.png", 2)
    other = {name: one * 1.01 for name, one in AVERAGED.items()}
    torch.save({"model": other, "ema": {"0.999": other, "0.9999": AVERAGED}}, tmp_path / "state.pt")
    return tmp_path


def shard_and_invert(folder, **changes):
    return run_job(
        folder, stages=("shard", "precompute"), content="c", style="s", output="out", model=str(MODEL), **changes
    )


def test_a_key_chooses_and_log_event_and_bank_say_which(state, caplog):
    caplog.set_level(logging.INFO)
    shard_and_invert(state, weights={"path": "state.pt", "key": "ema.0.9999"})
    assert "averaged weights 'ema.0.9999'" in caplog.text
    description = json.loads((state / "out" / "banks" / "content" / "description.json").read_text())
    assert description["identity"]["model_fingerprint"] == model_facts(str(MODEL), None).fingerprint
    assert description["about"]["weights"] == "averaged weights 'ema.0.9999'"
    events = "".join(file.read_text() for file in (state / "out" / "events").iterdir())
    assert "averaged weights 'ema.0.9999'" in events


def test_without_a_key_the_choices_are_named(state):
    with pytest.raises(CheckpointError, match=r"'ema.0.999' \(averaged\), 'ema.0.9999' \(averaged\); choose one"):
        shard_and_invert(state, weights="state.pt")
    with pytest.raises(CheckpointError, match="no weights under the key 'x'"):
        shard_and_invert(state, weights={"path": "state.pt", "key": "x"})


def test_the_job_checks_path_and_key(state):
    with pytest.raises(ConfigError, match=r"weights.path.*no such file"):
        shard_and_invert(state, weights={"path": "none.pt", "key": "ema"})
    with pytest.raises(ConfigError, match=r"weights: give key \(a set of weights\) or sha256"):
        shard_and_invert(state, weights={"path": "state.pt"})


def test_weights_with_nan_end_the_run_before_anything_is_made(state):
    broken = AVERAGED | {"conv_out.weight": torch.full_like(AVERAGED["conv_out.weight"], float("nan"))}
    torch.save(broken, state / "nan.pt")
    with pytest.raises(CheckpointError, match=r"nan.pt: 1 of 182 tensors hold NaN or infinity \(conv_out.weight"):
        shard_and_invert(state, weights="nan.pt")
