from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffstyle.images import prepare, to_tensor, to_uint8

SHARED = Path(__file__).parents[3] / "shared"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")
@pytest.mark.parametrize("network", ["ddpm_a", "adm_a"])
def test_prepared_pictures_are_those_of_the_reference(network):
    golden = SHARED / "golden" / network
    facts = json.loads((golden / "golden.json").read_text())
    numbers = np.load(golden / "base.npz")
    for name in facts["contents"] + facts["styles"]:
        with Image.open(SHARED / "images" / name) as image:
            tensor = to_tensor(np.asarray(prepare(image, facts["arch"]["image_size"])))
        np.testing.assert_allclose(tensor.numpy(), numbers[f"x0/{Path(name).stem}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("width", "height", "left", "top"),
    [(4, 4, 0, 0), (5, 2, 2, 0), (3, 2, 0, 0), (2, 7, 0, 2), (2, 9, 0, 4), (10, 3, 4, 0)],
)
def test_the_crop_is_the_centre_square_with_halves_to_even(width, height, left, top):
    pixels = np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)
    side = min(width, height)
    prepared = np.asarray(prepare(Image.fromarray(pixels), side))
    np.testing.assert_array_equal(prepared, pixels[top : top + side, left : left + side])


def test_crop_agrees_with_torchvisions_rule():
    for width in range(1, 40):
        side = min(width, 12)
        row = np.zeros((12, width, 3), np.uint8)
        row[:, :, 0] = np.arange(width)
        if width < 12:
            continue
        start = round((width - side) / 2.0)
        assert np.asarray(prepare(Image.fromarray(row), side))[0, 0, 0] == start


def test_shrinking_averages():
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    image = Image.fromarray(checks.astype(np.uint8)).convert("RGB")
    assert 120 <= np.asarray(prepare(image, 8)).mean() <= 135


def test_other_modes_become_rgb():
    assert prepare(Image.new("L", (9, 7), 40), 4).mode == "RGB"
    assert np.asarray(prepare(Image.new("L", (9, 7), 40), 4)).tolist() == [[[40] * 3] * 4] * 4


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused(size):
    with pytest.raises(ValueError, match="size"):
        prepare(Image.new("RGB", (4, 4)), size)


def test_every_level_survives_the_way_there_and_back():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    tensor = to_tensor(levels)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (1, 3, 16, 16)
    assert (tensor.min(), tensor.max()) == (-1, 1)
    np.testing.assert_array_equal(to_uint8(tensor), levels)


@given(st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3))
def test_to_uint8_cuts_and_rounds_to_the_nearest_level(values):
    pixel = to_uint8(torch.tensor(values).reshape(3, 1, 1))[0, 0]
    for value, level in zip(values, pixel, strict=True):
        exact = (min(1.0, max(-1.0, value)) + 1) * 127.5
        assert abs(exact - int(level)) <= 0.5 + 1e-4


def test_to_uint8_takes_half_precision_and_refuses_what_is_no_number():
    assert to_uint8(torch.ones(2, 3, 4, 5, dtype=torch.float16)).shape == (2, 4, 5, 3)
    with pytest.raises(ValueError, match="not numbers"):
        to_uint8(torch.full((3, 2, 2), float("nan")))
    with pytest.raises(ValueError, match="shape"):
        to_uint8(torch.zeros(2, 2))


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4))])
def test_to_tensor_refuses_what_is_not_pixels(pixels):
    with pytest.raises(ValueError, match="uint8"):
        to_tensor(pixels)
