"""``diffstyle bank info``, ``show`` and ``similar``: look at a bank, its entries, and which are alike."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffstyle.errors import ConfigError
from pipeline.cli.options import print_values
from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped
from pipeline.storage.counts import count, data_size
from pipeline.storage.masking import unescaped

if TYPE_CHECKING:
    from pipeline.banks.description import Latents
    from pipeline.banks.reader import LatentBank

# Items of a list above which its ends are shown.
_LONG = 8


@click.command()
@click.argument("path", metavar="BANK")
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
@if_stopped(NOTHING_WRITTEN)
def info(path: str, as_json: bool) -> None:
    """Counts, sizes, settings and dates of a bank."""
    from pipeline.banks.reader import LatentBank

    summary = _summary(LatentBank.open(path))
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    sizes = {name: data_size(summary[name]) for name in ("bytes", "bytes_per_image")}
    print_values({name: value for name, value in (summary | sizes).items() if value != {}}, _short)


def _summary(opened: LatentBank) -> dict[str, Any]:
    import pyarrow.compute as pc

    index = opened.index
    payloads = dict(zip(index["data"].to_pylist(), index["data_size"].to_pylist(), strict=True))
    dates = pc.min_max(index["created"]).as_py()
    images = pc.count_distinct(index["image"]).as_py()
    return {
        "bank": str(opened.place),
        "entries": len(opened),
        "images": images,
        "failed": len(opened.failed()),
        "parts": len(payloads),
        "bytes": sum(payloads.values()),
        "bytes_per_image": round(sum(payloads.values()) / images) if images else 0,
        "first_made": dates["min"].isoformat(timespec="seconds") if dates["min"] else None,
        "last_made": dates["max"].isoformat(timespec="seconds") if dates["max"] else None,
        "columns": _columns(opened, set(index["image"].to_pylist())),
        "settings": {name: value for name, value in opened.description.to_dict().items() if name != "kind"},
        "about": opened.about,
    }


def _columns(opened: LatentBank, images: set[str]) -> dict[str, Any]:
    """Of each column computed later, how many images have it; of numbers, the smallest, the median and the largest."""
    import statistics

    from pipeline.banks.columns import read_columns

    summary: dict[str, Any] = {}
    for name, column in read_columns(opened.place).items():
        values = [value for image, value in column.items() if image in images]
        summary[name] = {"images": len(values)}
        # An infinite PSNR (an equal picture) is no JSON.
        numbers = [v for v in values if isinstance(v, int | float) and abs(v) != float("inf")]
        if numbers:
            figures = {"min": min(numbers), "median": statistics.median(numbers), "max": max(numbers)}
            summary[name] |= {figure: round(value, 3) for figure, value in figures.items()}
    return summary


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(_brief(value))


def _brief(value: Any) -> Any:
    """A value in which long lists, as of timesteps, are their ends and their length."""
    if isinstance(value, dict):
        return {name: _brief(inner) for name, inner in value.items()}
    if isinstance(value, list) and len(value) > _LONG:
        return f"{value[0]} ... {value[-1]} ({len(value)} in all)"
    return value


@click.command()
@click.argument("path", metavar="BANK")
@click.argument("key")
@click.option("--long", "-l", is_flag=True, help="With a line for each timestep that a tensor has.")
@click.option("--thumbnail", type=click.Path(dir_okay=False, path_type=Path), help="Write the thumbnail to this file.")
@if_stopped(NOTHING_WRITTEN)
def show(path: str, key: str, long: bool, thumbnail: Path | None) -> None:
    """One entry: what is known of the picture, and figures of its tensors. KEY: a key, an image hash, or a beginning.

    Columns computed later stand below: the PSNR and the thumbnail that `diffstyle reconstruct` writes.
    """
    from pipeline.banks.columns import read_columns
    from pipeline.banks.reader import LatentBank
    from pipeline.storage.whole import write_whole

    opened = LatentBank.open(path)
    entry = opened[opened.named(key)]
    for name, value in entry.row.items():
        if value is not None:
            click.echo(f"{name}: {value}")
    names = [row["key"] for row in _same_image(opened, entry.image) if row["key"] != entry.key]
    if names:
        click.echo(f"other names: {', '.join(names)}")
    for line in _figures(entry, long):
        click.echo(line)
    picture = None
    for name, column in read_columns(opened.place).items():
        value = column.get(entry.image)
        if isinstance(value, bytes):
            picture = value if name == "thumbnail" else picture
        elif value is not None:
            click.echo(f"{name}: {value}")
    if thumbnail and picture is None:
        raise ConfigError(f"{path}: no thumbnails here yet; run `diffstyle reconstruct` on the bank")
    if thumbnail and picture is not None:
        write_whole(thumbnail, picture)
    elif picture is not None and sys.stdout.isatty():
        click.echo(_in_blocks(picture), file=unescaped(sys.stdout))
    elif picture is not None:
        click.echo(f"thumbnail: {data_size(len(picture))}; --thumbnail FILE writes it")


def _same_image(opened: LatentBank, image: str) -> list[dict[str, Any]]:
    import pyarrow.compute as pc

    rows: list[dict[str, Any]] = opened.index.filter(pc.equal(opened.index["image"], image)).to_pylist()
    return rows


def _figures(entry: Latents, long: bool) -> list[str]:
    """A line for each tensor, and one for all its timesteps, or for each of them."""
    import numpy as np

    lines = []
    for name, tensor in sorted(entry.tensors.items()):
        values = tensor.astype(np.float64)
        line = f"{name}: {tensor.dtype} {tensor.shape}, mean {values.mean():.4f}, standard deviation {values.std():.4f}"
        lines.append(line)
        timesteps = entry.timesteps.get(name, ())
        if not timesteps:
            continue
        norms = [float(np.linalg.norm(part)) for part in values]
        largest = [float(np.abs(part).max()) for part in values]
        if long:
            for timestep, norm, value in zip(timesteps, norms, largest, strict=True):
                lines.append(f"  t = {timestep}: norm {norm:.3f}, largest {value:.3f}")
        else:
            lines.append(
                f"  at {count(len(timesteps), 'timestep')}, t = {max(timesteps)} to {min(timesteps)}: "
                f"norm {min(norms):.3f} to {max(norms):.3f}, largest {max(largest):.3f}"
            )
    return lines


def _in_blocks(picture: bytes, width: int = 48) -> str:
    """A picture as text for a terminal: two pixels a character, upper and lower half, in 24-bit colour."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(picture)) as opened:
        image = opened.convert("RGB")
    height = max(2, round(image.height * width / image.width)) // 2 * 2
    pixels = image.resize((width, height)).load()
    assert pixels is not None
    lines = []
    for y in range(0, height, 2):
        cells = []
        for x in range(width):
            upper, lower = (";".join(map(str, pixels[x, row])) for row in (y, y + 1))  # type: ignore[arg-type]
            cells.append(f"\x1b[38;2;{upper};48;2;{lower}m\u2580")
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


@click.command()
@click.argument("path", metavar="BANK")
@click.argument("key")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many neighbours.")
@click.option("--timestep", type=int, help="Compare at this timestep; default: the mean over all kept ones.")
@click.option("--tensor", default="h", show_default=True, help="Compare this tensor.")
@if_stopped(NOTHING_WRITTEN)
def similar(path: str, key: str, top: int, timestep: int | None, tensor: str) -> None:
    """The nearest neighbours of an entry, by the cosine of h or another tensor."""
    from pipeline.banks.neighbours import similar as nearest
    from pipeline.banks.reader import LatentBank

    opened = LatentBank.open(path)
    for name, cosine in nearest(opened, opened.named(key), top=top, timestep=timestep, tensor=tensor):
        click.echo(f"{cosine:.4f}  {name}")
