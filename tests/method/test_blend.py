"""The bottleneck: slerp, blend, masks, gamma schedules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from diffstyle.blend import blend, slerp
from diffstyle.gamma import GammaSchedule
from diffstyle.images import to_tensor
from diffstyle.mask_arrays import on_h_grid, picture_array
from diffstyle.masks import rectangle_mask, reference_mask, to_h_grid


def pair(seed=0, batch=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, 8, 4, 4, generator=generator)


def norm(x):
    return x.flatten(1).norm(dim=1)


@given(st.integers(0, 1000), st.floats(0, 1))
def test_slerp_ends_at_its_ends_and_keeps_the_norm_of_equal_vectors(seed, gamma):
    u, v = pair(seed)
    v = v * (norm(u) / norm(v)).reshape(-1, 1, 1, 1)
    between = slerp(torch.full((3,), gamma), u, v)
    torch.testing.assert_close(norm(between), norm(u), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(slerp(torch.zeros(3), u, v), u)
    torch.testing.assert_close(slerp(torch.ones(3), u, v), v)


def test_slerp_matches_its_formula_in_float64():
    u, v = pair(1)
    g = 0.3
    a, b = u.double(), v.double()
    w = torch.acos((a * b).flatten(1).sum(1) / norm(a) / norm(b)).reshape(-1, 1, 1, 1)
    wanted = torch.sin((1 - g) * w) / torch.sin(w) * a + torch.sin(g * w) / torch.sin(w) * b
    torch.testing.assert_close(slerp(torch.tensor([g]), u, v), wanted.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 2.0, -1.0, 0.0])
def test_slerp_of_parallel_opposite_or_zero_vectors_is_a_lerp(scale):
    u, _ = pair(2)
    between = slerp(torch.full((3,), 0.25), u, scale * u)
    torch.testing.assert_close(between, 0.75 * u + 0.25 * scale * u, rtol=1e-3, atol=1e-4)


def test_blend_takes_gammas_per_image():
    h, hc = pair(3)
    mixed = blend(h, hc, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(mixed[0], h[0])
    alone = blend(h[1:2], hc[1:2], torch.tensor([0.5]))
    torch.testing.assert_close(mixed[1:2], alone)
    # Gamma 1 is the content's direction at the style's norm.
    torch.testing.assert_close(norm(mixed)[2], norm(h)[2])
    cosine = torch.nn.functional.cosine_similarity(mixed[2].flatten(), hc[2].flatten(), dim=0)
    assert cosine > 0.9999


def test_a_mask_leaves_the_outside_alone():
    h, hc = pair(4)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 1:3] = 1
    mixed = blend(h, hc, torch.tensor([0.7]), mask)
    outside = (mask == 0).expand_as(h)
    torch.testing.assert_close(mixed[outside], h[outside])
    assert (mixed - h)[~outside].abs().mean() > 0.1


def test_an_empty_mask_changes_nothing():
    h, hc = pair(5)
    torch.testing.assert_close(blend(h, hc, torch.tensor([1.0]), torch.zeros(1, 1, 4, 4)), h)


def test_the_reference_mask_on_its_own_grid_and_on_others():
    mask = reference_mask()
    assert mask[0, 0].nonzero().tolist() == [[r, c] for r in (4, 5, 6) for c in (3, 4)]
    torch.testing.assert_close(to_h_grid(mask, 8, 8), mask)
    assert to_h_grid(mask, 4, 4).sum() == pytest.approx(6 / 4)  # the same area
    torch.testing.assert_close(to_h_grid(mask, 16, 16)[..., ::2, ::2], mask)


def test_a_rectangle_in_fractions():
    mask = to_h_grid(rectangle_mask(0.5, 0, 1, 0.5), 8, 8)[0, 0]
    assert mask[4:, :4].min() == 1
    assert mask.sum() == 16
    # However thin, it covers a pixel, else a mask would be empty.
    thin = rectangle_mask(0.5, 0.25, 0.501, 0.251, 16)
    assert thin[0, 0].nonzero().tolist() == [[8, 4]]
    with pytest.raises(ValueError, match="rectangle"):
        rectangle_mask(0.5, 0, 0.2, 1)


@given(st.integers(0, 1000), *[st.integers(1, 70)] * 2, *[st.integers(1, 17)] * 2, st.sampled_from([2, 256]))
def test_masks_have_the_bits_that_torch_computes(seed, height, width, h, w, levels):
    """Their hash is part of what a result is, so results of masks from before they were plain arrays stay the same.

    But for a grid of one cell, over which torch sums in another order.
    """
    assume((h, w) != (1, 1))
    levels_of_channels = np.random.default_rng(seed).integers(0, levels, (height, width, 3)) * (255 // (levels - 1))
    pixels = levels_of_channels.astype(np.uint8)
    grey = (to_tensor(pixels)[None].mean(1, keepdim=True) + 1) / 2
    wanted = torch.nn.functional.interpolate(grey, size=(h, w), mode="area").clamp(0, 1)
    assert np.array_equal(on_h_grid(picture_array(pixels), h, w), wanted[0, 0].numpy())
    assert torch.equal(to_h_grid(grey, h, w), wanted)


def test_gamma_schedules():
    at = (999, 800, 600, 400)
    assert GammaSchedule("constant", (0.3,)).at(at) == [0.3] * 4
    linear = GammaSchedule("linear", (0.6, 0.0)).at(at)
    assert linear[0] == 0.6
    assert linear[-1] == 0
    assert linear == sorted(linear, reverse=True)
    cosine = GammaSchedule("cosine", (0.6, 0.0)).at(at)
    assert (cosine[0], cosine[-1]) == (0.6, pytest.approx(0))
    # A third of the way down it is at (1 + cos 60 deg) / 2 of its fall, where a straight line is at 2/3.
    assert GammaSchedule("cosine", (0.6, 0.0)).at((999, 799, 599, 399)) == pytest.approx([0.6, 0.45, 0.15, 0])
    assert GammaSchedule("linear", (0.6, 0.0)).at((999, 799, 599, 399)) == pytest.approx([0.6, 0.4, 0.2, 0])
    assert GammaSchedule("linear", (0.0, 1.0)).at((900, 800, 500)) == pytest.approx([0, 0.25, 1])  # along t, not n
    assert GammaSchedule("values", (0.1, 0.4, 0.2, 0.3)).at(at) == [0.1, 0.4, 0.2, 0.3]
    assert GammaSchedule("values", (0.0, 1.0)).at((999, 699, 399)) == pytest.approx([0, 0.5, 1])
    assert GammaSchedule("linear", (0.6, 0.0)).at(()) == []
    with pytest.raises(ValueError, match="2 value"):
        GammaSchedule("linear", (0.1,))
    with pytest.raises(ValueError, match=r"0 \.\. 1"):
        GammaSchedule("constant", (1.5,))
