"""Colour profiles, and metadata that can't be read."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from support.picture_bytes import ADOBE, P3, chunk, cmyk_profile, encoded, grey_profile, png, rgb_profile

from diffstyle import picture_files
from diffstyle.picture_files import FORMATS, Undecodable, read_picture

SQUARES = (
    np.array([[[0, 160, 60], [200, 60, 40]], [[40, 80, 200], [128, 128, 128]]], np.uint8).repeat(8, 0).repeat(8, 1)
)
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8).repeat(8, 0).repeat(8, 1)
SRGB_PRIMARIES = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def read(data: bytes, **options) -> np.ndarray:
    return np.asarray(read_picture(data, **options).image).astype(int)


def srgb_of(samples: np.ndarray, primaries, gamma: float) -> np.ndarray:
    """The formula: samples of a profile's primaries to sRGB, with numpy alone."""
    xyz = (samples / 255.0) ** gamma @ np.array(primaries)
    matrix = [[3.13386, -1.61687, -0.49061], [-0.97877, 1.91614, 0.03345], [0.07195, -0.22899, 1.40524]]
    return srgb_curve(xyz @ np.array(matrix).T)


def srgb_curve(linear: np.ndarray) -> np.ndarray:
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


# ---- colour profiles ----
@pytest.mark.parametrize(("primaries", "gamma"), [(ADOBE, 2.19921875), (P3, 2.2)], ids=["Adobe RGB", "Display P3"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF", "JPEG"])
def test_wide_gamut_colours_become_those_of_srgb(kind, primaries, gamma):
    if kind not in FORMATS:
        pytest.skip(f"Pillow without {kind}")
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}, "JPEG": {"quality": 100, "subsampling": 0}}
    icc = rgb_profile(primaries, gamma)
    image = Image.fromarray(SQUARES)
    data = encoded(image, kind, icc_profile=icc, **options.get(kind, {}))
    without = read(encoded(image, kind, **options.get(kind, {})))
    expected = srgb_of(without, primaries, gamma)
    np.testing.assert_allclose(read(data), expected, atol=2)
    np.testing.assert_array_equal(read(data, profiles=False), without)
    assert np.abs(expected - without).max() > 20
    assert read_picture(data).notes == ()


def test_transparency_and_palettes_with_a_profile():
    icc = rgb_profile(ADOBE, 2.2)
    alpha = np.full(SQUARES.shape[:2], 255, np.uint8)
    alpha[:8], alpha[8:, :8] = 0, 128
    data = encoded(Image.fromarray(np.dstack([SQUARES, alpha])), icc_profile=icc)
    share = alpha[..., None] / 255
    np.testing.assert_allclose(read(data), srgb_of(SQUARES, ADOBE, 2.2) * share + 255 * (1 - share), atol=2)
    palette = encoded(Image.fromarray(SQUARES).quantize(8), icc_profile=icc)
    np.testing.assert_allclose(read(palette), srgb_of(SQUARES, ADOBE, 2.2), atol=2)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_grey_with_a_profile(kind):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    options = {"quality": 100} if kind == "JPEG" else {}
    got = read(encoded(Image.fromarray(ramp), kind, icc_profile=grey_profile(1.0), **options))
    np.testing.assert_allclose(got, srgb_curve(ramp[..., None] / 255.0 * np.ones(3)), atol=3)


def test_sixteen_bit_grey_with_a_profile():
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    got = read(encoded(Image.fromarray(ramp), icc_profile=grey_profile(1.0)))
    np.testing.assert_allclose(got, srgb_curve(ramp[..., None] / 65535.0 * np.ones(3)), atol=1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_with_a_profile(kind):
    inks = {
        (0, 0, 0, 0): (100, 0, 0),
        (1, 0, 0, 0): (60, -20, -30),
        (0, 1, 0, 0): (55, 40, -5),
        (0, 0, 0, 1): (0, 0, 0),
    }
    icc = cmyk_profile(lambda *corner: inks.get(corner, (0, 0, 0)))
    for corner, lab in inks.items():
        image = Image.new("CMYK", (16, 16), tuple(255 * ink for ink in corner))
        got = read(encoded(image, kind, icc_profile=icc, **({"quality": 100} if kind == "JPEG" else {})))
        np.testing.assert_allclose(got[4, 4], lab_to_srgb(lab), atol=3)
        assert kind == "JPEG" or (got == got[0, 0]).all()


def lab_to_srgb(lab) -> np.ndarray:
    L, a, b = lab
    f = np.array([(L + 16) / 116 + a / 500, (L + 16) / 116, (L + 16) / 116 - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1.0, 0.8249)
    matrix = [[3.13386, -1.61687, -0.49061], [-0.97877, 1.91614, 0.03345], [0.07195, -0.22899, 1.40524]]
    return srgb_curve(xyz @ np.array(matrix).T)


def test_an_srgb_profile_changes_no_pixel():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read(encoded(Image.fromarray(noise), icc_profile=SRGB)), noise)


def test_a_profile_within_one_level_of_srgb_changes_no_pixel():
    """As the usual sRGB profiles are: LittleCMS rounds a few colours by one level, and that is left out."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    curve = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    image = Image.fromarray(noise)
    converted = np.asarray(ImageCms.profileToProfile(image, curve, ImageCms.createProfile("sRGB"))).astype(int)
    nearly = rgb_profile(SRGB_PRIMARIES, curve_points=srgb_points())
    rounded = ImageCms.profileToProfile(image, io.BytesIO(nearly), ImageCms.createProfile("sRGB"))
    assert np.abs(np.asarray(rounded).astype(int) - noise).max() == 1
    assert np.abs(converted - noise).max() <= 1
    np.testing.assert_array_equal(read(encoded(image, icc_profile=nearly)), noise)


def srgb_points(count: int = 200) -> list[int]:
    """A short table of sRGB's curve, so that its values are a little off."""
    levels = np.linspace(0, 1, count)
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return [round(65535 * value) for value in linear]


@pytest.mark.parametrize(
    ("icc", "note"),
    [
        (b"no profile at all", "can't be used"),
        (rgb_profile(ADOBE, 2.2)[:200], "can't be used"),
        (grey_profile(1.0), "is for GRAY and not for RGB"),
        (cmyk_profile(lambda *corner: (50, 0, 0)), "is for CMYK and not for RGB"),
    ],
)
def test_a_profile_that_does_not_fit_leaves_the_pixels_and_a_note(icc, note):
    picture = read_picture(encoded(Image.fromarray(SQUARES), icc_profile=icc))
    np.testing.assert_array_equal(np.asarray(picture.image), SQUARES)
    assert note in picture.notes[0]


def test_gamma_of_a_png_is_ignored_with_a_note_and_a_profile_goes_first():
    gamma = chunk(b"gAMA", struct.pack(">I", 100000))
    picture = read_picture(png(SQUARES, before=gamma))
    np.testing.assert_array_equal(np.asarray(picture.image), SQUARES)
    assert "gAMA" in picture.notes[0]
    assert read_picture(png(SQUARES, before=chunk(b"gAMA", struct.pack(">I", 45455)))).notes == ()
    icc = chunk(b"iCCP", b"p\0\0" + zlib.compress(rgb_profile(ADOBE, 2.2)))
    both = read_picture(png(SQUARES, before=chunk(b"sRGB", b"\0") + icc))
    np.testing.assert_allclose(np.asarray(both.image), srgb_of(SQUARES, ADOBE, 2.2), atol=2)


# ---- metadata ----
BIG = zlib.compress(b"x" * (2 << 20))


@pytest.mark.parametrize(
    "chunks",
    [
        chunk(b"zTXt", b"workflow\0\0" + BIG),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + BIG),
        chunk(b"iCCP", b"p\0\0" + BIG),
        chunk(b"tEXt", b"a\0bcd")[:-4] + bytes(4),
        chunk(b"pHYs", bytes(3)),
        chunk(b"gAMA", b""),
        chunk(b"eXIf", b"II*\0"),
        chunk(b"eXIf", b"II+\0\x08\0"),
        chunk(b"acTL", b"\0"),
    ],
    ids=["zTXt of 2 MB", "iTXt of 2 MB", "iCCP of 2 MB", "checksum", "pHYs", "gAMA", "eXIf", "eXIf, BigTIFF", "acTL"],
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_png_is_used_whatever_its_metadata(chunks, place):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = read_picture(png(CORNERS, **{place: chunks}))
    np.testing.assert_array_equal(np.asarray(picture.image), CORNERS)
    if place == "before":
        assert len(picture.notes) == 1, picture.notes
        assert "ignored" in picture.notes[0]


def test_colours_and_orientation_outlive_the_metadata_around_them():
    icc = chunk(b"iCCP", b"p\0\0" + zlib.compress(rgb_profile(ADOBE, 2.2)))
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    data = png(SQUARES, before=chunk(b"zTXt", b"workflow\0\0" + BIG) + icc + turned)
    np.testing.assert_allclose(read(data), srgb_of(SQUARES[::-1, ::-1], ADOBE, 2.2), atol=2)


NAMES = [
    b"eXIf",
    b"iCCP",
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"pHYs",
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"acTL",
    b"fcTL",
    b"bKGD",
    b"abCd",
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES), st.binary(max_size=60), st.booleans())
@pytest.mark.filterwarnings("ignore")
def test_no_chunk_of_a_png_costs_its_pixels(name, body, whole):
    piece = chunk(name, body)
    piece = piece if whole else piece[:-4] + bytes(4)
    picture = read_picture(png(CORNERS, before=piece))
    assert picture.image.size == (16, 16)
    if name != b"eXIf":
        np.testing.assert_array_equal(np.asarray(picture.image), CORNERS)


STARTS = [
    b"",
    b"Exif\0\0",
    b"Exif\0\0II*\0\x08\0\0\0",
    b"MPF\0",
    b"MPF\0MM\0*\0\0\0\x08",
    b"ICC_PROFILE\0",
    b"JFIF",
    b"Photoshop 3.0\0" + b"8BIM",
]
STARTS += [b"http://ns.adobe.com/xap/1.0/\0", b"FPXR\0"]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 15), st.sampled_from(STARTS), st.binary(max_size=60))
@pytest.mark.filterwarnings("ignore")
def test_no_segment_of_a_jpeg_costs_its_pixels(number, start, body):
    if number == 14:
        return  # APP14 says how the colours are coded
    plain = encoded(Image.fromarray(CORNERS), "JPEG", quality=95)
    body = start + body
    data = plain[:20] + bytes([0xFF, 0xE0 + number]) + struct.pack(">H", len(body) + 2) + body + plain[20:]
    got = read(data)
    assert got.shape == (16, 16, 3)
    if b"Exif" not in body:
        np.testing.assert_array_equal(got, read(plain))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([270, 282, 283, 296, 305, 306, 315, 700, 33723, 34377, 34665, 34853, 37500, 40965, 65000]),
    st.integers(0, 20),
    st.sampled_from([0, 1, 2, 3, 1000, 2**31, 2**32 - 1]),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["<", ">"]),
)
@pytest.mark.filterwarnings("ignore")
def test_no_tag_of_a_tiff_costs_its_pixels(tag, kind, count, value, order):
    entries = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    entries += [(277, 3, 1, 1), (278, 3, 1, 16), (279, 4, 1, 256), (tag, kind, count, value)]
    body = b""
    for number, form, amount, content in sorted(entries):
        packed = struct.pack(
            order + ("HH" if form == 3 and number != tag else "I"),
            *([content, 0] if form == 3 and number != tag else [content]),
        )
        body += struct.pack(order + "HHI", number, form, amount) + packed
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + 256)
    data = head + ramp.tobytes() + struct.pack(order + "H", len(entries)) + body + bytes(4)
    np.testing.assert_array_equal(read(data)[..., 0], ramp)


@pytest.mark.filterwarnings("ignore")
def test_a_jpeg_with_a_cut_segment():
    plain = encoded(Image.fromarray(CORNERS), "JPEG", quality=95, icc_profile=rgb_profile(P3, 2.2))
    for marker, body in ((0xE0, b"JFIF\0"), (0xEE, b"Adobe")):
        data = plain[:20] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + plain[20:]
        picture = read_picture(data)
        np.testing.assert_array_equal(np.asarray(picture.image), read(plain))  # with its colour profile
        assert "its other segments can't be read" in picture.notes[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("order", "<>")
def test_a_tiff_with_a_broken_resolution(order):
    """Two numbers where there is one: Pillow takes the tuple times 2.54."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    entries = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    entries += [(277, 3, 1, 1), (278, 3, 1, 16), (279, 4, 1, 256), (282, 2, 3, 0), (283, 2, 3, 0), (296, 3, 1, 3)]
    body = b""
    for tag, kind, count, value in entries:
        packed = {3: struct.pack(order + "HH", value, 0), 2: b"ab\0\0"}.get(kind, struct.pack(order + "I", value))
        body += struct.pack(order + "HHI", tag, kind, count) + packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + 256)
    picture = read_picture(head + ramp.tobytes() + struct.pack(order + "H", len(entries)) + body + bytes(4))
    np.testing.assert_array_equal(np.asarray(picture.image)[..., 0], ramp)
    assert "its other tags can't be read" in picture.notes[0]


def test_a_webp_with_a_broken_exif_block():
    for exif in (b"Exif\0\0II*\0", b"Exif\0\0II+\0\x08\0"):
        picture = read_picture(encoded(Image.fromarray(CORNERS), "WEBP", lossless=True, exif=exif))
        np.testing.assert_array_equal(np.asarray(picture.image), CORNERS)
        assert "EXIF" in picture.notes[0]


def test_pixels_that_are_cut_are_refused_whatever_the_metadata():
    data = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3)), before=chunk(b"pHYs", bytes(3)))
    with pytest.raises(Undecodable):
        read_picture(data[: len(data) // 2])


# ---- errors of ours ----
@pytest.mark.parametrize("kind", [TypeError, AttributeError, NameError, AssertionError])
def test_an_error_of_ours_is_a_bug_and_no_undecodable_picture(monkeypatch, kind):
    def broken(*_):
        raise kind("a bug")

    for name in ("to_srgb", "_colours", "_turn", "_samples"):
        with monkeypatch.context() as patch:
            patch.setattr(picture_files, name, broken)
            with pytest.raises(kind, match="a bug"):
                read_picture(png(CORNERS))


def test_an_error_of_pillows_readers_is_an_undecodable_picture(monkeypatch):
    def broken(*_, **__):
        raise TypeError("in a plugin")

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(Undecodable, match="TypeError: in a plugin"):
        read_picture(png(CORNERS))


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heif_is_refused_by_its_name_with_what_to_do(brand):
    with pytest.raises(Undecodable, match=r"^HEIF, .* is not read; save it as JPEG or PNG$"):
        read_picture(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic")
    with pytest.raises(Undecodable, match=r"begins with 00 00 00 18 66 74 79 70\)$"):
        read_picture(b"\0\0\0\x18ftypisom\0\0\0\0")
