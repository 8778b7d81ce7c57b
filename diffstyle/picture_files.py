"""From a file's bytes to an RGB picture: upright, in sRGB, transparency over a background.

Whatever is wrong with the bytes ends as one exception, :class:`Undecodable`. Nothing is guessed: a picture whose values
have no known white is refused and not stretched. Metadata that can't be read costs no picture: its pixels are used, and
a note says what was ignored.

Colours: an ICC profile is followed (``diffstyle.colour``). Without one a picture counts as sRGB, and CMYK is converted
by Pillow's formula. Other statements of colour are ignored, as nearly all readers do: gAMA, cHRM and cICP of a PNG (a
note says where gAMA is not sRGB's), EXIF's ColorSpace, a TIFF's WhitePoint and TransferFunction.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from diffstyle.colour import lab_to_srgb, to_srgb
from diffstyle.errors import one_line
from diffstyle.picture_metadata import without_metadata

# Pillow's own limit, about 13,000 x 13,000 pixels: above it a small file can take gigabytes once it is decoded.
PIXEL_LIMIT = 178_956_970

# Colours are worked out so many pixels at a time: a picture at the limit takes 1.4 GB and not 4.
STRIP = 1 << 22

# What shows through where a picture is transparent.
BACKGROUND = (255, 255, 255)

# The formats tried. Named, since Pillow can also hand files to other programs (EPS to Ghostscript), which is nothing to
# do with a stranger's bytes. Those that this Pillow was built without are left out.
_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "PCX", "QOI")
Image.init()
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT, _PLANES = 262, 258, 339, 284  # tags of a TIFF
_SIGNED = 2
_SRGB_GAMMA = 1 / 2.2

_T = TypeVar("_T")


class Undecodable(Exception):
    """These bytes are no picture that can be prepared; ``str(error)`` is the reason, one line."""


@dataclass(frozen=True)
class Picture:
    """A picture of mode RGB, and what was ignored in its file, a line each."""

    image: Image.Image
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Samples:
    """What a file says of its samples, beyond the mode that Pillow gives it."""

    bits: int = 8
    signed: bool = False
    white_is_zero: bool = False
    misread: str | None = None  # a kind that Pillow reads wrongly, in silence
    range: tuple[float, float] | None = None  # the lowest and the highest value, of those of more than 8 bits


def read_picture(
    data: bytes,
    *,
    background: tuple[int, int, int] = BACKGROUND,
    pixel_limit: int = PIXEL_LIMIT,
    profiles: bool = True,
) -> Picture:
    """Decode a file's bytes. Of an animation, or of several pages, the first counts.

    Args:
        data: the whole file.
        background: the colour, in sRGB, under what is transparent.
        pixel_limit: a picture of more pixels is refused by its header, before it is decoded.
        profiles: whether ICC profiles are followed; not for pictures whose values are no colours, as masks.

    Raises:
        Undecodable: and nothing else, for any bytes.
    """
    if not data:
        raise Undecodable("the file is empty (0 bytes)")
    if pixel_limit > PIXEL_LIMIT and Image.MAX_IMAGE_PIXELS is not None:
        # Pillow keeps a limit of its own for the process; it must not be the lower one.
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, pixel_limit)
    image, notes = _opened(data, pixel_limit)
    samples = _samples(image, data)
    profile = image.info.get("icc_profile") if profiles and image.mode != "LAB" else None
    if profile is not None and not isinstance(profile, bytes):
        notes.append("its colour profile can't be read; it is ignored")
        profile = None
    gamma = image.info.get("gamma")
    if profiles and not profile and "srgb" not in image.info and gamma and abs(gamma - _SRGB_GAMMA) > 0.02:
        notes.append(f"its gAMA chunk ({gamma:g}) is not that of sRGB; it is ignored")
    turn, turn_note = _turn(image)
    flat, note = _flat(image, samples, data, profile, background)
    notes += [one for one in (note, turn_note) if one]
    del image
    return Picture(flat if turn is None else flat.transpose(turn), tuple(notes))


def _flat(
    image: Image.Image, samples: _Samples, data: bytes, profile: bytes | None, background: tuple[int, int, int]
) -> tuple[Image.Image, str | None]:
    """The picture in sRGB on its background, and a note on its profile; strip by strip, so that little is held."""
    if samples.range is None and (image.mode.startswith("I") or image.mode == "F"):
        extremes = np.array([(part.min(), part.max()) for part in map(np.asarray, _strips(image))])
        samples = replace(samples, range=(float(extremes[:, 0].min()), float(extremes[:, 1].max())))
    low = _low_bytes(data) if samples.bits == 16 and image.mode == "RGB" and _colour_key(image) is not None else None
    whole, note, top = Image.new("RGB", image.size), None, 0
    for part, low_part in zip(_strips(image), _strips(low) if low else itertools.repeat(None), strict=False):
        colours, alpha = _colours(part, samples, low_part)
        flat, note = to_srgb(colours, profile)
        if alpha is not None:
            flat.putalpha(alpha)
            below = Image.new("RGBA", flat.size, (*background, 255))
            flat = Image.alpha_composite(below, flat).convert("RGB")
        if flat.size == image.size:
            return flat, note
        whole.paste(flat, (0, top))
        top += flat.height
    return whole, note


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    """The picture as strips of about STRIP pixels, from the top; one that is no larger as it is."""
    if image.width * image.height <= STRIP:
        yield image
        return
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        part = _from_pillow(image.crop, (0, top, image.width, min(top + rows, image.height)))
        part.format = image.format  # a crop forgets what file it is of
        yield part


def _opened(data: bytes, pixel_limit: int) -> tuple[Image.Image, list[str]]:
    """The loaded picture; where that fails, without metadata, which a note says."""
    try:
        return _loaded(data, pixel_limit), []
    except _ReadError as first:
        for reduced, dropped in without_metadata(data):
            try:
                image = _loaded(reduced, pixel_limit)
            except _ReadError:
                continue
            return image, [f"{dropped} can't be read and are ignored ({first})"]
        raise Undecodable(str(first)) from first


def _loaded(data: bytes, pixel_limit: int) -> Image.Image:
    image = _from_pillow(Image.open, io.BytesIO(data), formats=FORMATS, beginning=data[:12])
    if image.width * image.height > pixel_limit:
        raise Undecodable(f"{image.width} x {image.height} pixels are over the limit of {pixel_limit:,} (pixel_limit)")
    _from_pillow(image.load)
    return image


def _turn(image: Image.Image) -> tuple[Image.Transpose | None, str | None]:
    # After load(): some readers (TIFF) have turned the picture by then and dropped the tag.
    try:
        return _TURNS.get(_from_pillow(image.getexif).get(_ORIENTATION, 1)), None
    except _ReadError as error:
        return None, f"its EXIF block can't be read and is ignored ({error})"


# ---- what the samples mean ----


def _samples(image: Image.Image, data: bytes) -> _Samples:
    if image.format == "PNG" and data[12:16] == b"IHDR":
        return _Samples(bits=data[24])
    tags: Any = getattr(image, "tag_v2", None)
    if tags is None:
        return _Samples(bits=16 if image.mode.startswith("I") else 8)
    bits, kinds = _number(tags, _BITS, 1), _from_pillow(tags.get, _SAMPLE_FORMAT, (1,))
    signed = _SIGNED in (kinds if isinstance(kinds, tuple) else (kinds,))
    raw = image.info.get("compression") == "raw"
    misread = None
    if raw and bits == 16 and _number(tags, _PLANES, 1) == 2 and len(image.getbands()) > 1:
        misread = "uncompressed samples of 16 bits in separate planes"
    elif not raw and tags.prefix == b"MM" and (image.mode == "F" or image.mode == "I"):
        misread = f"compressed big-endian {'float' if image.mode == 'F' else 'signed'} samples of {bits} bits"
    return _Samples(bits, signed, _number(tags, _PHOTOMETRIC, 0) == 0, misread)


def _number(tags: Any, tag: int, default: int) -> int:
    """A tag's first number; the default where it holds none."""
    value = _from_pillow(tags.get, tag, default)
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int) else default


def _colour_key(image: Image.Image) -> Any:
    """The colour that a PNG names as transparent, as its tRNS chunk has it; None where it names none."""
    return image.info.get("transparency") if image.format == "PNG" and image.mode != "P" else None


def _colours(image: Image.Image, samples: _Samples, low: Image.Image | None) -> tuple[Image.Image, Image.Image | None]:
    """A picture of mode RGB, L or CMYK, and its alpha of mode L or None."""
    mode = image.mode
    wide = mode.startswith("I") or mode == "F"
    if samples.misread:
        raise Undecodable(f"a TIFF with {samples.misread} can't be read; save it otherwise")
    if samples.signed and (samples.bits == 8 or not wide):
        raise Undecodable(f"signed samples of {samples.bits} bits have no known white")
    colour_key = _colour_key(image)
    alpha = None
    if colour_key is not None and mode in ("1", "L", "RGB", "I", "I;16", "I;16B"):
        alpha = _keyed_alpha(image, colour_key, samples.bits, low)
    if wide:
        return Image.fromarray(_eight_bits(image, samples)), alpha
    if mode in ("RGBa", "La", "PA") or (mode == "P" and "transparency" in image.info):
        image = _from_pillow(image.convert, "LA" if mode == "La" else "RGBA")
    elif mode == "L" and "transparency" in image.info and alpha is None:  # a grey GIF
        image = _from_pillow(image.convert, "LA")
    if image.mode in ("RGBA", "LA"):
        return image.convert(image.mode[:-1]), image.getchannel("A")
    # A JPEG in CMYK holds inverted values by Adobe's convention; Pillow has turned them back when it loaded them.
    if image.mode in ("RGB", "L", "CMYK"):
        return image.copy(), alpha
    if image.mode == "LAB":
        return lab_to_srgb(image), alpha
    return _from_pillow(image.convert, "L" if image.mode == "1" else "RGB"), alpha


def _keyed_alpha(image: Image.Image, colour_key: Any, bits: int, low: Image.Image | None) -> Image.Image:
    """The alpha of a PNG that names one colour as transparent; ``low``: the low bytes of one of 16 bits a channel."""
    values = np.asarray(image).astype(np.int64)
    if image.mode == "1":
        matches = values == (1 if colour_key else 0)
    elif image.mode == "RGB":
        if bits == 16:  # the picture holds the high bytes only, and the colour must match to the last bit
            values = values << 8 | np.asarray(low).astype(np.int64)
        matches = (values == np.array(colour_key) % (1 << bits)).all(axis=-1)
    else:  # grey of less than 8 bits was spread over 0 to 255 when it was loaded
        level = colour_key % (1 << bits)
        matches = values == (level if bits >= 8 else level * 255 // ((1 << bits) - 1))
    return Image.fromarray(np.where(matches, 0, 255).astype(np.uint8))


def _low_bytes(data: bytes) -> Image.Image:
    """The low bytes of a PNG with 16 bits a channel, read as if they were the high ones of little-endian samples."""
    source = next((reduced for reduced, _ in without_metadata(data)), data)
    image: Any = _from_pillow(Image.open, io.BytesIO(source), formats=("PNG",))
    image.tile = [(*tile[:3], "RGB;16L") for tile in image.tile]
    _from_pillow(image.load)
    return image


def _eight_bits(image: Image.Image, samples: _Samples) -> np.ndarray:
    """Grey values of more than 8 bits as uint8 (H, W), scaled by the white that their range stands for."""
    values = np.asarray(image)
    assert samples.range is not None
    low, high = samples.range
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        white = 4095.0 if samples.bits == 12 else 65535.0
    elif image.mode == "F" and 0 <= low <= high <= 1:
        white = 1.0
    elif 0 <= low <= high <= 255:
        white = 255.0
    elif 0 <= low <= high <= 65535 and not (samples.signed and samples.bits == 16):
        white = 65535.0
    else:  # also where a value is not a number: every comparison with it is false
        raise Undecodable(f"{image.mode} values from {low:g} to {high:g} have no known white")
    if samples.white_is_zero:  # Pillow turns those of 8 bits and less by itself
        values = white - values
    return np.round(values.astype(np.float64) * (255.0 / white)).clip(0, 255).astype(np.uint8)


# ---- Pillow's errors ----


#: The brands of HEIF, whose pictures Pillow has no reader for; AVIF, which has the same container, is read.
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1")


class _ReadError(Undecodable):
    """Pillow could not read something."""


def _from_pillow(call: Callable[..., _T], *arguments: Any, beginning: bytes = b"", **options: Any) -> _T:
    """Call into Pillow, whose readers fail on broken files with every kind of exception, and make that one kind."""
    try:
        return call(*arguments, **options)
    except Image.UnidentifiedImageError as error:
        if beginning[4:8] == b"ftyp" and beginning[8:] in _HEIF:
            raise _ReadError("HEIF, the format of many telephones, is not read; save it as JPEG or PNG") from error
        start = " ".join(f"{byte:02x}" for byte in beginning[:8])
        raise _ReadError(f"not an image of a known format (begins with {start})") from error
    except Image.DecompressionBombError as error:
        raise Undecodable(f"too many pixels: {one_line(error)}") from error
    except Exception as error:
        named = isinstance(error, (OSError, SyntaxError)) and str(error)
        raise _ReadError(one_line(error) if named else f"{type(error).__name__}: {one_line(error)}") from error
