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


@pytest.mark.slow
def test_counting_a_channel_from_near_its_values_moves_no_more_memory(monkeypatch):
    unet = random_unet(DDPMArchitecture(32, 32, (1, 2), 1, (16,))).cast(torch.bfloat16)
    unet = unet.to(memory_format=torch.channels_last)
    monkeypatch.setattr(GroupNorm, "forward", GroupNorm.written_out)
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    megabytes = {}
    for name, origin in compiled_bytes.ORIGINS.items():
        monkeypatch.setattr(GroupNorm, "origin", staticmethod(origin))
        megabytes[name] = compiled_bytes.moved(unet, 2)[0] / 1e6
    from_nothing, from_a_value, as_it_is = megabytes.values()
    assert as_it_is < 1.02 * from_nothing
    assert from_a_value > 1.05 * from_nothing  # what it would cost: the count sees it
