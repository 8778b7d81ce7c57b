"""What goes beyond the paper: another start, and colours matched, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffstyle.extensions import channel_histograms, match_histograms, start_from_content
from diffstyle.masks import rectangle_mask, to_h_grid


def noises(seed: int = 0, batch: int = 2, size: int = 8) -> torch.Tensor:
    return torch.randn(2, batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def norm(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).norm(dim=1)


# ---- where the walk begins ----


def test_a_third_of_a_right_angle_by_hand():
    style, content = torch.zeros(2, 1, 3, 2, 2)
    style[0, 0, 0, 0], content[0, 2, 1, 1] = 2.0, 4.0
    moved = start_from_content(style, content, 1 / 3)
    assert moved[0, 0, 0, 0] == pytest.approx(2 * math.cos(math.pi / 6))
    assert moved[0, 2, 1, 1] == pytest.approx(4 * math.sin(math.pi / 6))
    assert moved.count_nonzero() == 2


def test_its_ends_are_the_two_x_T():
    style, content = noises()
    torch.testing.assert_close(start_from_content(style, content, 0), style, rtol=0, atol=0)
    torch.testing.assert_close(start_from_content(style, content, 1), content)
    with pytest.raises(ValueError, match=r"fraction must be from 0 to 1, not 1\.5"):
        start_from_content(style, content, 1.5)
    with pytest.raises(ValueError, match="of shape"):
        start_from_content(style, content[..., :4], 0.5)


@given(st.integers(0, 1000), st.floats(0, 1))
def test_it_keeps_the_norm_and_turns_by_its_fraction_of_the_angle(seed, fraction):
    style, content = noises(seed)
    content = content * (norm(style) / norm(content)).reshape(-1, 1, 1, 1)
    moved = start_from_content(style, content, fraction)
    torch.testing.assert_close(norm(moved), norm(style), rtol=1e-4, atol=1e-4)
    of = [torch.cosine_similarity(style.flatten(1), z.flatten(1)).clamp(-1, 1).acos() for z in (moved, content)]
    torch.testing.assert_close(of[0], fraction * of[1], rtol=0, atol=2e-3)


def test_each_picture_moves_by_itself():
    style, content = noises()
    both = start_from_content(style, content, 0.3)
    torch.testing.assert_close(both[1:], start_from_content(style[1:], content[1:], 0.3))


def test_outside_a_mask_x_T_stays_bit_for_bit_and_inside_it_is_as_without():
    style, content = noises()
    mask = to_h_grid(rectangle_mask(0, 0, 1, 0.5, 8), 4, 4)
    moved = start_from_content(style, content, 0.4, mask)
    everywhere = start_from_content(style, content, 0.4)
    assert torch.equal(moved[..., 4:], style[..., 4:])
    assert torch.equal(moved[..., :4], everywhere[..., :4])
    assert torch.equal(start_from_content(style, content, 0.4, torch.ones(1, 1, 4, 4)), everywhere)


def test_half_a_mask_is_half_the_fraction():
    style, content = noises()
    half = start_from_content(style, content, 0.4, torch.full((1, 1, 4, 4), 0.5))
    torch.testing.assert_close(half, start_from_content(style, content, 0.2))


# ---- colours ----


def grey(values: list[int]) -> torch.Tensor:
    """A picture of one row, the same in its three channels."""
    return torch.tensor(values, dtype=torch.uint8).reshape(1, 1, -1, 1).expand(1, 1, len(values), 3)


def matched(values: list[int], wanted: list[int]) -> list[int]:
    return match_histograms(grey(values), channel_histograms(grey(wanted)))[0, 0, :, 0].tolist()


def test_histograms_count_each_channel():
    pixels = torch.tensor([[[[0, 7, 255], [0, 8, 255]]]], dtype=torch.uint8)
    counts = channel_histograms(pixels)
    assert counts.shape == (1, 3, 256)
    assert counts.nonzero().tolist() == [[0, 0, 0], [0, 1, 7], [0, 1, 8], [0, 2, 255]]
    assert counts[counts > 0].tolist() == [2, 1, 1, 2]


def test_ranks_by_hand():
    assert matched([10, 30, 20, 40], [1, 2, 3, 4]) == [1, 3, 2, 4]
    # Three that tie take the value of their middle rank, and stay equal.
    assert matched([5, 5, 5, 9], [1, 2, 3, 4]) == [2, 2, 2, 4]
    assert matched([5, 5, 9, 9], [1, 2, 3, 4]) == [1, 1, 3, 3]
    # Of more or fewer pixels: by the share of ranks.
    assert matched([10, 20], [1, 1, 2, 2, 3, 3]) == [1, 2]
    assert matched([10, 20, 30, 40], [0, 255]) == [0, 0, 255, 255]


PIXELS = st.lists(st.integers(0, 255), min_size=16, max_size=16)


@given(PIXELS, PIXELS)
def test_matching_keeps_order_and_takes_values_of_the_other_alone(values, wanted):
    result = matched(values, wanted)
    assert set(result) <= set(wanted)
    for a, b in zip(np.argsort(values)[:-1], np.argsort(values)[1:], strict=True):
        assert result[a] <= result[b]
        assert values[a] != values[b] or result[a] == result[b]
    # Up to ties: no share of the ranks is off by more than the largest tie.
    tie = max(values.count(one) for one in values)
    off = [sum(x <= v for x in result) - sum(x <= v for x in wanted) for v in range(256)]
    assert max(map(abs, off)) <= (0 if tie == 1 else tie)


@given(st.permutations(range(0, 160, 10)), PIXELS)
def test_without_ties_the_histogram_is_the_others(values, wanted):
    assert sorted(matched(values, wanted)) == sorted(wanted)


@given(PIXELS)
def test_a_picture_matched_to_itself_stays(values):
    assert matched(values, values) == values


def test_channels_and_pictures_are_matched_by_themselves():
    pixels, wanted = torch.randint(0, 256, (2, 3, 5, 5, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    together = match_histograms(pixels, channel_histograms(wanted))
    assert together.dtype == torch.uint8
    for n in range(3):
        alone = match_histograms(pixels[n : n + 1], channel_histograms(wanted[n : n + 1]))
        assert torch.equal(together[n : n + 1], alone)
    swapped = match_histograms(pixels.flip(-1), channel_histograms(wanted.flip(-1)))
    assert torch.equal(swapped, together.flip(-1))
