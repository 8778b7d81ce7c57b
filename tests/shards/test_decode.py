from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from diffstyle import picture_files
from diffstyle.images import prepare
from pipeline.shards.decode import Undecodable, decode, preparation

SHARED = Path(__file__).parents[3] / "shared" / "images"
RED, WHITE = [255, 0, 0], [255, 255, 255]


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixel(data: bytes, x: int = 0, y: int = 0, size: int = 4, **options) -> list[int]:
    return decode(data, size, **options).pixels[y, x].tolist()


def noise(width: int = 24, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


# ---- what comes out ----
def test_a_plain_picture_is_cropped_and_resized_like_prepare():
    decoded = decode(encoded(noise()), 8)
    assert (decoded.width, decoded.height) == (24, 16)
    assert decoded.pixels.dtype == np.uint8
    np.testing.assert_array_equal(decoded.pixels, np.asarray(prepare(noise(), 8)))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")
def test_real_photographs_decode():
    files = sorted(path for path in SHARED.rglob("*") if path.suffix in (".png", ".jpg"))
    assert files
    for path in files:
        assert decode(path.read_bytes(), 64).pixels.shape == (64, 64, 3)


def test_the_preparation_is_json_and_names_what_decides_pixels():
    wanted = {"size": 64, "crop": "centre", "resample": "bilinear", "background": "#ffffff"}
    assert wanted.items() <= preparation(64).items()
    assert json.loads(json.dumps(preparation(64))) == preparation(64)
    assert preparation(64) != preparation(64, background=(0, 0, 0))


# ---- orientation ----
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    upright = Image.new("RGB", (16, 16), "white")
    upright.paste("red", (0, 0, 8, 8))
    upright.paste("blue", (8, 0, 16, 8))
    undo = {v: k for k, v in {6: 8, 8: 6}.items()}
    stored = upright
    if orientation in picture_files._TURNS:
        stored = upright.transpose(picture_files._TURNS[undo.get(orientation, orientation)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    decoded = decode(encoded(stored, kind, exif=exif, **options), 16)
    for (x, y), colour in {(3, 3): (255, 0, 0), (12, 3): (0, 0, 255), (3, 12): (255, 255, 255)}.items():
        assert np.abs(decoded.pixels[y, x].astype(int) - colour).max() < 40


def test_width_and_height_are_those_after_turning():
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(encoded(noise(24, 16), "JPEG", exif=exif), 8)
    assert (decoded.width, decoded.height) == (16, 24)


def test_a_broken_exif_block_does_not_lose_the_picture():
    plain = encoded(noise(), "JPEG", quality=90)
    block = b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 40
    broken = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
    np.testing.assert_array_equal(decode(broken, 8).pixels, decode(plain, 8).pixels)


# ---- modes ----
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_show_white(kind):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (4, 0, 8, 8))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(image, kind, **options)
    assert pixel(data) == WHITE
    assert pixel(data, 3) == RED


def test_half_transparent_pixels_mix_and_the_background_can_be_set():
    data = encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 128)))
    assert pixel(data) == [255, 127, 127]
    assert pixel(data, background=(0, 0, 0)) == [128, 0, 0]


@pytest.mark.parametrize("grey", ["LA", "PA"])
def test_alpha_beside_grey_and_palette(grey):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(grey)
    assert pixel(encoded(image, "PNG" if grey == "LA" else "TIFF")) == WHITE


def test_palettes_with_and_without_transparency():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 255, 0, 255, 0, 0])
    assert pixel(encoded(image)) == RED
    assert pixel(encoded(image, transparency=1)) == WHITE
    assert pixel(encoded(image, transparency=bytes([255, 0]))) == WHITE
    assert pixel(encoded(image, "GIF", transparency=1)) == WHITE


def test_one_transparent_colour_of_rgb_and_grey():
    assert pixel(encoded(Image.new("RGB", (8, 8), (10, 20, 30)), transparency=(10, 20, 30))) == WHITE
    assert pixel(encoded(Image.new("L", (8, 8), 9), transparency=9)) == WHITE


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_neither_inverted_nor_shifted(kind):
    options = {"quality": 95} if kind == "JPEG" else {}
    data = encoded(Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK"), kind, **options)
    if kind == "JPEG":
        assert b"Adobe" in data
    assert np.abs(np.array(pixel(data)) - (200, 30, 60)).max() < 8


@pytest.mark.parametrize("mode", ["L", "1", "YCbCr"])
def test_grey_one_bit_and_ycbcr(mode):
    data = encoded(Image.new("RGB", (8, 8), "white").convert(mode), "TIFF")
    assert pixel(data) == WHITE


@pytest.mark.parametrize(("kind", "level"), [("PNG", 65535), ("PNG", 32896), ("TIFF", 257), ("PNG", 200), ("TIFF", 0)])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind, level):
    data = encoded(Image.fromarray(np.full((8, 8), level, np.uint16)), kind)
    assert pixel(data) == [round(level / 257)] * 3


def test_sixteen_bit_pgm_is_scaled_by_its_own_white():
    assert pixel(b"P5 4 4 65535\n" + struct.pack(">16H", *[128] * 16)) == [0] * 3
    assert pixel(b"P5 4 4 1023\n" + struct.pack(">16H", *[1023] * 16)) == WHITE


def test_sixteen_bit_colour():
    rows = b"".join(b"\0" + struct.pack(">12H", *[65535, 32896, 0] * 4) for _ in range(4))

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert pixel(data) == [255, 128, 0]


@pytest.mark.parametrize(
    ("mode", "value", "grey"),
    [("F", 0.5, 128), ("F", 200.0, 200), ("F", 65535.0, 255), ("I", 200, 200), ("I", 65535, 255), ("I", 40000, 156)],
)
def test_wide_modes_are_scaled_by_the_range_of_their_values(mode, value, grey):
    assert pixel(encoded(Image.new(mode, (8, 8), value), "TIFF")) == [grey] * 3


@pytest.mark.parametrize(("mode", "value"), [("F", -1.0), ("F", 1e9), ("F", float("nan")), ("I", 2**30), ("I", -5)])
def test_values_without_a_known_white_are_refused(mode, value):
    with pytest.raises(Undecodable, match="no known white"):
        decode(encoded(Image.new(mode, (8, 8), value), "TIFF"), 4)


# ---- animations ----
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(kind):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    options = {"lossless": True} if kind == "WEBP" else {}
    assert pixel(encoded(first, kind, save_all=True, append_images=[second, second], **options)) == RED


# ---- what is refused ----
def test_no_bytes_and_what_is_not_an_image():
    with pytest.raises(Undecodable, match="0 bytes"):
        decode(b"", 8)
    for junk in (
        b"hello, I am text",
        b"<html>404</html>",
        b"\0" * 5000,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9",
    ):
        with pytest.raises(Undecodable, match="not an image"):
            decode(junk, 8)


def test_huge_pictures_are_refused_by_their_header():
    header = bytearray(encoded(Image.new("1", (8, 8))))
    header[16:24] = struct.pack(">II", 60_000, 60_000)
    header[29:33] = struct.pack(">I", zlib.crc32(bytes(header[12:29])))
    with pytest.raises(Undecodable, match="pixels"):
        decode(bytes(header), 8)
    with pytest.raises(Undecodable, match=r"24 x 16 pixels are over the limit of 383 \(pixel_limit\)"):
        decode(encoded(noise()), 8, pixel_limit=383)
    assert decode(encoded(noise()), 8, pixel_limit=384).width == 24


KINDS = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM"] + [kind for kind in ("WEBP",) if features.check("webp")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_cut_or_damaged_bytes_decode_or_are_undecodable_and_nothing_else(kind, data):
    whole = bytearray(encoded(noise(), kind))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        outcome = decode(bytes(whole[:cut]), 8, pixel_limit=1_000_000).pixels.shape
    except Undecodable as error:
        outcome = str(error)
    assert outcome == (8, 8, 3) or (isinstance(outcome, str) and outcome and "\n" not in outcome)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_a_truncated_file_is_refused_and_not_filled_with_grey(kind):
    whole = encoded(noise(200, 200), kind)
    with pytest.raises(Undecodable):
        decode(whole[: len(whole) // 2], 8)


@given(st.binary(max_size=200))
def test_any_bytes_at_all(data):
    with pytest.raises(Undecodable):
        decode(data, 8)
