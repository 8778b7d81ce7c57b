"""Which files are pictures: by their names, and where those say nothing, by their first bytes."""

from __future__ import annotations

# File names that are taken for pictures (in any case). Kinds that Pillow may not read are here too: a table of rejects
# that names them is better than a folder of which half is passed over.
# fmt: off
PICTURE_SUFFIXES = frozenset({
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "ppm", "pgm", "pbm", "pnm",
    "jp2", "j2k", "avif", "heic", "heif", "qoi", "pcx", "ico",
})

# Suffixes that say of a file that it is something else; its bytes are not looked at. Raw files of cameras begin like
# TIFF or JPEG and hold a small preview; `thm` is a thumbnail; the last row is files under way and backups.
_OTHER_SUFFIXES = frozenset({
    "txt", "json", "jsonl", "ndjson", "xml", "xmp", "yaml", "yml", "toml", "ini", "cfg", "csv", "tsv", "md", "rst",
    "html", "htm", "css", "js", "py", "ipynb", "sh", "log", "url", "pdf", "svg", "ps", "eps", "psd", "xcf", "ai",
    "tar", "gz", "tgz", "bz2", "xz", "zst", "zip", "rar", "7z", "parquet", "arrow", "feather", "db", "sqlite", "mdb",
    "h5", "hdf5", "npy", "npz", "mat", "pkl", "pt", "pth", "ckpt", "safetensors", "tfrecord", "md5", "sha1", "sha256",
    "mp4", "mov", "avi", "mkv", "webm", "mp3", "wav", "flac",
    "raw", "dng", "cr2", "cr3", "nef", "nrw", "arw", "srf", "sr2", "orf", "rw2", "raf", "pef", "srw", "x3f", "thm",
    "tmp", "temp", "part", "partial", "crdownload", "download", "bak", "old", "swp",
})
# fmt: on

# How pictures begin. TIFF is not here: too many other kinds begin like it.
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"\0\0\0\x0cjP  \r\n\x87\n", b"qoif")
_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1"})

#: Suffixes of files that say something of the picture of the same stem: metadata, and a caption.
SIDE_CARS = ("json", "txt")

# So many bytes tell.
BEGINNING = 16


def suffix_of(name: str) -> str:
    """The part behind the last dot in small letters; "" where there is none."""
    stem, _, suffix = name.rpartition(".")
    return suffix.lower() if stem else ""


def stem_of(name: str) -> str:
    """A name without its suffix."""
    return name.rpartition(".")[0] or name


def is_picture(name: str) -> bool:
    """Whether the name says that this is a picture."""
    return suffix_of(name) in PICTURE_SUFFIXES


def says_nothing(name: str) -> bool:
    """Whether the name leaves open what the file is, so that its first bytes are worth a look."""
    suffix = suffix_of(name)
    return suffix not in PICTURE_SUFFIXES and suffix not in _OTHER_SUFFIXES and not name.endswith("~")


def begins_like_a_picture(data: bytes) -> bool:
    """Whether a file with these first ``BEGINNING`` bytes is a picture of a kind that can't be mistaken."""
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return data.startswith(_BEGINNINGS) or webp or (data[4:8] == b"ftyp" and data[8:12] in _BRANDS)
