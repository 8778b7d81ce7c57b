from __future__ import annotations

import pytest
import torch

from pipeline.measures.pixels import psnr


def test_psnr():
    black = torch.full((1, 3, 4, 4), -1.0)
    assert psnr(black, black).item() == 100
    assert psnr(black, black + 2).item() == 0
    assert psnr(black, black + 1 / 127.5).item() == pytest.approx(48.13, abs=0.01)
    both = psnr(torch.cat([black, black]), torch.cat([black + 2, black]))
    assert both.tolist() == [0, 100]  # one figure a picture
    assert psnr(black, black - 5).item() == 100  # clipped first
