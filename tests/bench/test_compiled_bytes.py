"""What a compiled call moves through memory, counted without a GPU: GroupNorm's origin must not cost a pass."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from diffstyle.networks.architecture import DDPMArchitecture
from diffstyle.networks.unet import GroupNorm
from pipeline.models.load import random_unet

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import compiled_bytes


@pytest.mark.long
def test_counting_a_channel_from_a_mean_of_its_values_moves_less_memory_than_from_one(monkeypatch):
    unet = random_unet(DDPMArchitecture(32, 32, (1,), 1, ())).cast(torch.bfloat16)
    unet = unet.to(memory_format=torch.channels_last)
    monkeypatch.setattr(GroupNorm, "forward", GroupNorm.written_out)
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    megabytes = []
    for name in ("from its first value", "from the mean of its first 16 values, as it is"):
        monkeypatch.setattr(GroupNorm, "origin", staticmethod(compiled_bytes.ORIGINS[name]))
        megabytes.append(compiled_bytes.moved(unet, 2)[0] / 1e6)
    assert megabytes[1] < 0.95 * megabytes[0]
