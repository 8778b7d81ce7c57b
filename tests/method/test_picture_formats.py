"""Every kind of samples that Pillow opens, against values known beforehand and against other decoders' reading."""

from __future__ import annotations

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.picture_bytes import chunk, encoded, png

from diffstyle.picture_files import FORMATS, Undecodable, read_picture

GREY = np.array([[0, 40, 100], [160, 200, 255]], np.uint8).repeat(8, 0).repeat(8, 1)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)
ALPHA = np.full(GREY.shape, 255, np.uint8)
ALPHA[:8], ALPHA[8:, 8:16] = 0, 100


@pytest.fixture(params=["as a whole", "in strips"], autouse=True)
def size_of_strips(request, monkeypatch):
    """All of this page holds however a picture is cut while its colours are worked out."""
    if request.param == "in strips":
        monkeypatch.setattr("diffstyle.picture_files.STRIP", 40)


def read(data: bytes) -> np.ndarray:
    return np.asarray(read_picture(data).image).astype(int)


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey)[..., None], 3, 2).astype(int)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255.0
    return np.round(colours * share + 255 * (1 - share)).astype(int)


def with_alpha(colours: np.ndarray) -> np.ndarray:
    return np.concatenate([colours.reshape(*GREY.shape, -1), ALPHA[..., None]], -1)


def check(data: bytes, expected: np.ndarray, tolerance: int) -> None:
    difference = np.abs(read(data) - expected)
    assert difference.max() <= tolerance, np.argwhere(difference > tolerance)[:3]


def opencv(data: bytes) -> np.ndarray | None:
    """What OpenCV reads, as RGB on white; None where it can't."""
    cv2 = pytest.importorskip("cv2")
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        return None
    values = values / (257 if values.dtype == np.uint16 else 1)
    if values.ndim == 2:
        return three(np.round(values))
    return np.round(on_white(values[..., 2::-1], values[..., 3]) if values.shape[2] == 4 else values[..., ::-1])


# ---- PNG ----
def png_table():
    rng = np.random.default_rng(0)
    for bits in (1, 2, 4, 8, 16):
        top = (1 << bits) - 1
        grey = np.round(GREY / 255 * top).astype(int)
        levels = three(np.round(grey * 255 / top))
        yield f"grey {bits}", png(grey, bits, 0), levels, True
        for value in (0, int(grey[4, 12])):
            key = chunk(b"tRNS", struct.pack(">H", value))
            expected = on_white(levels, np.where(grey == value, 0, 255))
            yield f"grey {bits}, {value} is transparent", png(grey, bits, 0, key), expected, False
        if bits == 16:
            continue
        palette = rng.integers(0, 256, (top + 1, 3), dtype=np.uint8)
        alphas = rng.integers(0, 256, top + 1, dtype=np.uint8)
        index = grey % (top + 1)
        colours = chunk(b"PLTE", palette.tobytes())
        yield f"palette {bits}", png(index, bits, 3, colours), palette[index], True
        for name, raw in (("partial", alphas.tobytes()), ("short", b"\x80"), ("one", b"\xff\0")):
            whole = np.r_[np.frombuffer(raw, np.uint8), np.full(top + 1, 255, np.uint8)][: top + 1]
            data = png(index, bits, 3, colours + chunk(b"tRNS", raw))
            yield f"palette {bits}, {name} alpha", data, on_white(palette[index], whole[index]), True
    for bits, scale in ((8, 1), (16, 257)):
        samples = RGB.astype(int) * scale
        yield f"RGB {bits}", png(samples, bits, 2), RGB, True
        key = chunk(b"tRNS", struct.pack(">3H", *samples[4, 12]))
        matches = (samples == samples[4, 12]).all(-1)
        yield f"RGB {bits}, one transparent", png(samples, bits, 2, key), on_white(RGB, np.where(matches, 0, 255)), True
        yield f"RGBA {bits}", png(with_alpha(RGB).astype(int) * scale, bits, 6), on_white(RGB, ALPHA), True
        yield f"LA {bits}", png(with_alpha(GREY).astype(int) * scale, bits, 4), on_white(three(GREY), ALPHA), True
    near = RGB.astype(int) * 257
    key = chunk(b"tRNS", struct.pack(">3H", *near[4, 12]))
    near[0, 12, 2] ^= 1  # the same high bytes, other low ones: not the transparent colour
    matches = (near == near[4, 12]).all(-1)
    yield "RGB 16, nearly transparent", png(near, 16, 2, key), on_white(RGB, np.where(matches, 0, 255)), True


PNGS = list(png_table())


@pytest.mark.parametrize(("data", "expected", "others"), [row[1:] for row in PNGS], ids=[row[0] for row in PNGS])
def test_png(data, expected, others):
    check(data, expected, 1)
    if others:  # OpenCV does not follow the transparent level of a grey PNG
        np.testing.assert_allclose(opencv(data), expected, atol=1)


# ---- TIFF ----
def tiff_table():
    wide = {"photometric": "minisblack"}
    white = {"photometric": "miniswhite"}
    rgb = {"photometric": "rgb"}
    planes = {"photometric": "rgb", "planarconfig": "separate"}
    joined = {"planarconfig": "contig", **wide}
    straight, associated, unknown = ({"extrasamples": [kind]} for kind in ("unassalpha", "assocalpha", "unspecified"))
    premultiplied = with_alpha(np.round(RGB * (ALPHA[..., None] / 255)).astype(np.uint8))
    grey_premultiplied = with_alpha(np.round(GREY * (ALPHA / 255)).astype(np.uint8))
    colours = np.stack([np.arange(256) * 257, 65535 - np.arange(256) * 257, np.full(256, 1028)]).astype(np.uint16)
    inks = np.stack([GREY, GREY[::-1], GREY[:, ::-1], GREY // 4], -1)
    paper = np.round((255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:]) / 255).astype(int)
    dim = (GREY / 255).astype(np.float32)
    sixteen = np.uint16(257)
    yield "u8", GREY, wide, three(GREY), 0
    yield "u8, white is 0", GREY, white, three(255 - GREY), 0
    yield "u16", GREY * sixteen, wide, three(GREY), 0
    yield "1 bit", GREY > 128, wide, three((GREY > 128) * 255), 0
    yield "1 bit, white is 0", GREY > 128, white, three((GREY <= 128) * 255), 0
    yield "float, 0 to 1", dim, wide, three(GREY), 0
    yield "float, white is 0", dim, white, three(255 - GREY), 0
    yield "i32 up to 255", GREY.astype(np.int32), wide, three(GREY), 0
    yield "RGB 8", RGB, rgb, RGB, 0
    yield "RGB 8, planes", np.ascontiguousarray(RGB.transpose(2, 0, 1)), planes, RGB, 0
    yield "RGB 16", RGB * sixteen, rgb, RGB, 0
    yield "RGBA 8", with_alpha(RGB), rgb | straight, on_white(RGB, ALPHA), 1
    yield "RGBA 8, associated", premultiplied, rgb | associated, on_white(RGB, ALPHA), 2
    yield "RGBX 8", with_alpha(RGB), rgb | unknown, RGB, 0
    yield "RGBA 16", with_alpha(RGB) * sixteen, rgb | straight, on_white(RGB, ALPHA), 1
    yield "RGBA 16, associated", premultiplied * sixteen, rgb | associated, on_white(RGB, ALPHA), 2
    yield "LA", with_alpha(GREY), joined | straight, on_white(three(GREY), ALPHA), 1
    yield "LA, associated", grey_premultiplied, joined | associated, on_white(three(GREY), ALPHA), 2
    yield "LX", with_alpha(GREY), joined | unknown, three(GREY), 0
    yield "palette", GREY, {"photometric": "palette", "colormap": colours}, None, 0
    yield "CMYK 8", inks, {"photometric": "separated"}, paper, 1
    yield "CMYK 16", inks * sixteen, {"photometric": "separated"}, paper, 1


TIFFS = [(name, order, packing, *row) for name, *row in tiff_table() for order in "<>" for packing in (None, "zlib")]


def tiff(samples: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    pytest.importorskip("tifffile").imwrite(stream, samples, metadata=None, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("order", "packing", "samples", "options", "expected", "tolerance"),
    [row[1:] for row in TIFFS],
    ids=[f"{row[0]} {row[1]} {row[2] or 'raw'}" for row in TIFFS],
)
def test_tiff(order, packing, samples, options, expected, tolerance):
    data = tiff(samples, byteorder=order, compression=packing, **options)
    if expected is None:
        expected = np.stack([GREY, 255 - GREY, np.full_like(GREY, 4)], -1)
        tolerance = 1
    if order == ">" and packing and samples.dtype in (np.float32, np.int32):
        with pytest.raises(Undecodable, match="compressed big-endian"):
            read(data)
        return
    check(data, expected, tolerance)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("packing", [None, "zlib"])
def test_sixteen_bits_of_a_tiff_whose_white_is_0(order, packing):
    data = tiff(GREY * np.uint16(257), byteorder=order, compression=packing, photometric="miniswhite")
    if order == ">":
        with pytest.raises(Undecodable):  # Pillow knows no such mode
            read(data)
    else:
        check(data, three(255 - GREY), 0)


def test_twelve_bits_of_a_tiff_are_scaled_by_their_own_white():
    def directory(entries):
        body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
        return struct.pack("<H", len(entries)) + body + bytes(4)

    samples = [0, 4095, 2048, 1024]
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in zip(*[iter(samples)] * 2, strict=True)
    )
    entries = [(256, 3, 4), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 1)]
    data = b"II*\0" + struct.pack("<I", 16) + packed.ljust(8, b"\0") + directory([*entries, (279, 4, 6)])
    assert read(data)[0, :, 0].tolist() == [0, 255, 128, 64]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("samples", "photometric"),
    [
        ((GREY // 2).astype(np.int8), "minisblack"),
        (GREY.astype(np.int16) * 128, "minisblack"),
        (GREY.astype(np.uint32) * 0x01010101, "minisblack"),
    ],
    ids=["i8", "i16", "u32"],
)
def test_samples_of_a_tiff_without_a_known_white_are_refused(order, samples, photometric):
    with pytest.raises(Undecodable):
        read(tiff(samples, byteorder=order, photometric=photometric))


def test_what_pillow_reads_wrongly_in_silence_is_refused_or_right():
    planes = np.ascontiguousarray(RGB.transpose(2, 0, 1)) * np.uint16(257)
    with pytest.raises(Undecodable, match="16 bits in separate planes"):
        read(tiff(planes, photometric="rgb", planarconfig="separate"))
    check(tiff(planes, photometric="rgb", planarconfig="separate", compression="zlib"), RGB, 0)


def test_ycbcr_and_lab_of_a_tiff():
    cv2 = pytest.importorskip("cv2")
    ycrcb = cv2.cvtColor(RGB, cv2.COLOR_RGB2YCrCb)
    check(tiff(ycrcb[..., [0, 2, 1]], photometric="ycbcr"), cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB).astype(int), 2)
    lab = np.zeros((16, 24, 3), np.float32)
    lab[..., 0], lab[:8, :, 1], lab[8:, :, 1], lab[:, :8, 2], lab[:, 8:, 2] = 60, -20, 20, 30, -20
    bytes_of_lab = np.stack([np.round(lab[..., 0] * 2.55), lab[..., 1], lab[..., 2]], -1).astype(np.int16)
    check(tiff(bytes_of_lab.astype(np.uint8), photometric="cielab"), srgb_of_lab(lab), 2)


def srgb_of_lab(lab: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* under D50 to sRGB, adapted by Bradford's matrix (which is in the numbers)."""
    f = (lab[..., :1] + 16) / 116 + np.stack([lab[..., 1] / 500, 0 * lab[..., 1], -lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1.0, 0.8249)
    matrix = [[3.13386, -1.61687, -0.49061], [-0.97877, 1.91614, 0.03345], [0.07195, -0.22899, 1.40524]]
    linear = (xyz @ np.array(matrix).T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_bits_in_the_other_order_of_filling():
    backwards = np.packbits(np.unpackbits(GREY[..., None], axis=-1), axis=-1, bitorder="little")[..., 0]
    data = tiff(backwards, photometric="minisblack", extratags=[(265, "H", 1, 2, True)])
    assert data.count(b"\x09\x01\x03\x00") == 1
    data = data.replace(b"\x09\x01\x03\x00", b"\x0a\x01\x03\x00")  # FillOrder, which tifffile does not write
    check(data, three(GREY), 0)


# ---- the other formats ----
LOSSLESS = {
    "WEBP": {"lossless": True},
    "BMP": {},
    "TIFF": {},
    "JPEG2000": {},
    "PCX": {},
    "QOI": {},
    "PPM": {},
    "ICO": {},
}
MODES = {"RGB": RGB, "RGBA": with_alpha(RGB), "L": GREY, "LA": with_alpha(GREY)}
SKIPPED = {("BMP", "RGBA"), ("BMP", "LA"), ("PCX", "RGBA"), ("PCX", "LA"), ("QOI", "L"), ("QOI", "LA")} | {
    ("PPM", "RGBA"),  # written without its alpha, as in BMP
    ("PPM", "LA"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats(kind, mode):
    if (kind, mode) in SKIPPED or kind not in FORMATS:
        pytest.skip("no such file")
    image = Image.fromarray(MODES[mode])
    options = {"sizes": [image.size]} if kind == "ICO" else LOSSLESS[kind]
    colours = RGB if mode.startswith("RGB") else three(GREY)
    check(encoded(image, kind, **options), on_white(colours, ALPHA) if "A" in mode else colours, 1)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "GIF", "BMP", "PPM", "JPEG2000"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_other_formats_as_opencv_reads_them(kind, mode):
    image = Image.fromarray(RGB)
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    if kind not in FORMATS or (kind, mode) in {("JPEG", "P"), ("PPM", "P"), ("JPEG2000", "1"), ("JPEG2000", "P")}:
        pytest.skip("no such file")
    data = encoded(image, kind)
    other = opencv(data)
    if other is None:
        pytest.skip("OpenCV was built without it")
    check(data, other, 4)


def test_a_bmp_with_alpha():
    cv2 = pytest.importorskip("cv2")
    data = cv2.imencode(".bmp", with_alpha(RGB)[..., [2, 1, 0, 3]])[1].tobytes()
    check(data, on_white(RGB, ALPHA), 1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_grey_of_sixteen_bits(kind):
    check(encoded(Image.fromarray(GREY * np.uint16(257)), kind), three(GREY), 1)


MEASURE = """
import io, resource, sys
import numpy as np
from PIL import Image
from diffstyle.picture_files import read_picture
mode, side = sys.argv[1], int(sys.argv[2])
Image.new(mode, (side, side)).save(data := io.BytesIO(), "PNG", compress_level=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_picture(data.getvalue())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / side**2)
"""


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "I;16"])
def test_a_large_picture_takes_few_bytes_a_pixel(mode, size_of_strips, request):
    """4.3 GB at the limit of pixels were 24 bytes each: two whole pictures are left, and what a strip takes."""
    if "strips" in request.node.name:
        pytest.skip("of the strips as they are")
    command = [sys.executable, "-c", MEASURE, mode, "6000"]
    measured = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert float(measured.stdout) < 12
