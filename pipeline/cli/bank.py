"""``diffstyle bank``: look into latent banks, check them, change them as a whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffstyle.errors import ConfigError
from pipeline.cli.bank_directions import directions
from pipeline.cli.bank_keys import keys
from pipeline.cli.options import print_values
from pipeline.storage.counts import count, data_size
from pipeline.storage.errors import EXIT_FAILURES
from pipeline.storage.masking import unescaped

if TYPE_CHECKING:
    from pipeline.banks.description import Latents
    from pipeline.banks.reader import LatentBank
    from pipeline.stages.reinvert import Reinvert
    from pipeline.storage.lock import OutputLock


@click.group()
def bank() -> None:
    """Look into latent banks, check and change them. BANK is a folder, s3://... or gs://..."""


@bank.command()
@click.argument("path", metavar="BANK")
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
def info(path: str, as_json: bool) -> None:
    """Counts, sizes, settings and dates of a bank."""
    from pipeline.banks.reader import LatentBank

    summary = _summary(LatentBank.open(path))
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    print_values(summary, _short)


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
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 160 else f"{text[:150]} ... ({len(value)} in all)"


@bank.command()
@click.argument("path", metavar="BANK")
@click.argument("key")
@click.option("--thumbnail", type=click.Path(dir_okay=False, path_type=Path), help="Write the thumbnail to this file.")
def show(path: str, key: str, thumbnail: Path | None) -> None:
    """One entry: what is known of the picture, and figures of its tensors. KEY: a key, an image hash, or a beginning.

    Columns computed later stand below: the PSNR and the thumbnail that `diffstyle reconstruct` writes.
    """
    from pipeline.banks.columns import read_columns
    from pipeline.banks.reader import LatentBank

    opened = LatentBank.open(path)
    entry = opened[opened.named(key)]
    for name, value in entry.row.items():
        if value is not None:
            click.echo(f"{name}: {value}")
    names = [row["key"] for row in _same_image(opened, entry.image) if row["key"] != entry.key]
    if names:
        click.echo(f"other names: {', '.join(names)}")
    for line in _figures(entry):
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
        thumbnail.write_bytes(picture)
    elif picture is not None and sys.stdout.isatty():
        click.echo(_in_blocks(picture), file=unescaped(sys.stdout))
    elif picture is not None:
        click.echo(f"thumbnail: {data_size(len(picture))}; --thumbnail FILE writes it")


def _same_image(opened: LatentBank, image: str) -> list[dict[str, Any]]:
    import pyarrow.compute as pc

    rows: list[dict[str, Any]] = opened.index.filter(pc.equal(opened.index["image"], image)).to_pylist()
    return rows


def _figures(entry: Latents) -> list[str]:
    import numpy as np

    lines = []
    for name, tensor in sorted(entry.tensors.items()):
        values = tensor.astype(np.float64)
        line = f"{name}: {tensor.dtype} {tensor.shape}, mean {values.mean():.4f}, standard deviation {values.std():.4f}"
        lines.append(line)
        for timestep, part in zip(entry.timesteps.get(name, ()), values, strict=False):
            lines.append(f"  t = {timestep}: norm {np.linalg.norm(part):.3f}, largest {np.abs(part).max():.3f}")
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


@bank.command()
@click.argument("path", metavar="BANK")
@click.option("--reinvert", type=click.IntRange(min=1), metavar="N", help="Invert so many pictures again and compare.")
@click.option("--job", metavar="JOB.yaml", help="With --reinvert: model and weights as this job says.")
@click.option("--model", help="With --reinvert: a model's name or YAML file. Default: as the bank says.")
@click.option("--weights", help="With --reinvert: the model's weights.")
@click.option("--pictures", help="With --reinvert: shards or a data set. Default: the shards beside the bank.")
def verify(
    path: str, reinvert: int | None, job: str | None, model: str | None, weights: str | None, pictures: str | None
) -> int:
    """Check every part: hashes, shapes, finite values, index against files both ways.

    With --reinvert, also whether pictures chosen at random give the same x_T and h again, within what the stored dtype
    allows. The exit code is 3 if something is wrong.
    """
    import tempfile

    from pipeline.banks.verify import verify as check

    if reinvert:
        with tempfile.TemporaryDirectory() as scratch:
            again = _reinvert(path, job, model, weights, pictures, Path(scratch))
            report = check(path, reinvert=again, sample=reinvert, progress=_parts_done)
        if again.compared:
            pictures_again = count(again.compared, "picture")
            click.echo(f"{pictures_again} inverted again; the largest relative error is {again.largest:.2g}")
        if again.absent:
            click.echo(f"note: {count(again.absent, 'picture')} of the sample not among the pictures given")
    else:
        report = check(path, progress=_parts_done)
    for note in report.notes:
        click.echo(f"note: {note}")
    for problem in report.problems:
        click.echo(f"wrong: {problem}")
    click.echo(
        f"{count(report.images, 'image')} in {count(report.parts, 'part')} ({data_size(report.bytes)}), "
        f"{count(report.names, 'name')}, {report.failed} failed: "
        f"{'all is well' if report.ok else count(len(report.problems), 'problem')}"
    )
    if not report.ok:
        click.echo(f"`diffstyle bank repair {path}` drops what is broken; the next precompute makes it again")
    return 0 if report.ok else EXIT_FAILURES


def _reinvert(
    path: str, job: str | None, model: str | None, weights: str | None, pictures: str | None, scratch: Path
) -> Reinvert:
    from pipeline.banks.reader import LatentBank
    from pipeline.runner.bank_model import find_model, find_pictures
    from pipeline.stages.reinvert import Reinvert

    opened = LatentBank.open(path)
    shards, rows = find_pictures(opened, pictures, scratch)
    if shards is None:
        raise ConfigError(f"{path}: no shards beside the bank to invert again; name them, or the data set: --pictures")
    return Reinvert(opened, find_model(opened, job, model, weights).context, shards, rows)


def _parts_done(done: int, total: int) -> None:
    # A line for each twentieth: as good in a log as on a terminal.
    if total > 20 and done * 20 // total > (done - 1) * 20 // total:
        click.echo(f"{done} of {count(total, 'part')} checked", err=True)


def holding(address: str, made: bool = False) -> OutputLock:
    """What keeps runs and other commands off a bank while it changes: the lock of the run's output if it is in one.

    Unless it is to be ``made``, the bank must be there: a lock would leave a folder behind where the name is misspelt.
    """
    from pipeline.storage.layout import OutputLayout
    from pipeline.storage.lock import OutputLock
    from pipeline.storage.parts import PartStore
    from pipeline.storage.place import Place

    place = Place.parse(address)
    if not made:
        PartStore(place).description()
    layout = OutputLayout.around_bank(place)
    if layout is None and (run := OutputLayout.around(place)) is not None:
        raise ConfigError(f"{address}: lies inside the run {run.root}, which removes what is not its own; go elsewhere")
    return OutputLock(place if layout is None else layout.root)


def _say(line: str) -> None:
    click.echo(line, err=True)


@bank.command()
@click.argument("path", metavar="BANK")
def repair(path: str) -> None:
    """Drop what is broken, so that the next precompute makes it again. Not while another job writes the bank."""
    from pipeline.banks.verify import repair as repair_bank

    with holding(path):
        done = repair_bank(path)
    click.echo("\n".join(done) if done else "nothing is broken")


@bank.command()
@click.argument("target")
@click.argument("sources", nargs=-1, required=True)
@click.option("--format", type=click.Choice(["parquet", "webdataset"]), help="Of a new TARGET; default: the source's.")
def merge(target: str, sources: tuple[str, ...], format: str | None) -> None:
    """Copy the entries of SOURCES into the bank TARGET, made if it is not there. Images that it has are left out."""
    from pipeline.banks.copy import merge as pour

    with holding(target, made=True):
        copied = pour(target, sources, format=format, progress=_say)
    click.echo(f"{count(copied, 'image')} copied into {target}")


@bank.command()
@click.argument("path", metavar="BANK")
@click.option("--job", metavar="JOB.yaml", help="Keep what this job's data set lists now.")
@click.option("--shards", multiple=True, help="Keep the images of these shards; may be repeated.")
@click.option(
    "--keep", type=click.Path(path_type=Path), help="Keep these: a text file with one key or image hash on each line."
)
@click.option("--dry-run", is_flag=True, help="Only say how many would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(path: str, job: str | None, shards: tuple[str, ...], keep: Path | None, dry_run: bool, yes: bool) -> None:
    """Drop the images that left the dataset: all but those that the job lists, in the shards, or in the list."""
    from pipeline.banks.drop import prune as cut

    if not shards and keep is None and job is None:
        raise ConfigError("bank prune: say what to keep, with --job, --shards or --keep")
    images = _images_of_shards(shards) | (_images_of_list(path, keep) if keep else set())
    if job:
        from pipeline.jobfile.load import load_job
        from pipeline.runner.bank_listed import images_listed
        from pipeline.storage.place import Place

        images |= images_listed(load_job(job), Place.parse(path))
    leaving = cut(path, images, dry_run=True)
    click.echo(f"{count(len(leaving), 'image', 'leaves/leave')}: in nothing of what is kept")
    if leaving and not dry_run and (yes or click.confirm("Drop them?")):
        with holding(path):
            cut(path, images, progress=_say)
        click.echo("dropped")


def _images_of_shards(shards: tuple[str, ...]) -> set[str]:
    from pipeline.shards.store import open_shards

    images: set[str] = set()
    for address in shards:
        images.update(open_shards(address).rows(["image"])["image"].to_pylist())
    return images


def _images_of_list(path: str, keep: Path) -> set[str]:
    from pipeline.banks.reader import LatentBank, UnknownKeyError

    try:
        wanted = [line.strip() for line in keep.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(f"--keep {keep}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--keep {keep}: not a text file (byte {error.start} is not UTF-8)") from error
    opened = LatentBank.open(path)
    images = dict(zip(opened.keys(), opened.index["image"].to_pylist(), strict=True))
    try:
        return {images[opened.named(name)] for name in wanted}
    except UnknownKeyError as error:
        raise ConfigError(f"--keep {keep}: {error}") from None


@bank.command()
@click.argument("source")
@click.argument("target")
@click.option("--format", type=click.Choice(["parquet", "webdataset"]), help="Default: the source's.")
@click.option(
    "--tensor", "tensors", multiple=True, help="Keep this tensor (h, x_t, ...); may be repeated. Default: all."
)
@click.option(
    "--timestep", "timesteps", multiple=True, metavar="NAME=T", help="As h=999, keep its slice; may be repeated."
)
@click.option("--dtype", "dtypes", multiple=True, metavar="NAME=DTYPE", help="As h=float16; may be repeated.")
def export(
    source: str,
    target: str,
    format: str | None,
    tensors: tuple[str, ...],
    timesteps: tuple[str, ...],
    dtypes: tuple[str, ...],
) -> None:
    """Copy a bank into the other format, or one that keeps less. Goes on where it was stopped."""
    from pipeline.banks.copy import export as copy

    kept: dict[str, list[int]] = {}
    for name, value in _named(timesteps, "--timestep"):
        if not value.lstrip("-").isdigit():
            raise ConfigError(f"--timestep {name}={value}: not a whole number")
        kept.setdefault(name, []).append(int(value))
    with holding(target, made=True):
        copied = copy(
            source,
            target,
            format=format,
            tensors=tensors or None,
            timesteps=kept,
            dtypes=dict(_named(dtypes, "--dtype")),
            progress=_say,
        )
    click.echo(f"{count(copied, 'image')} copied into {target}")


def _named(values: tuple[str, ...], option: str) -> list[tuple[str, str]]:
    """(name, value) of options written NAME=VALUE."""
    pairs = [value.partition("=") for value in values]
    for name, equals, value in pairs:
        if not name or not equals or not value:
            raise ConfigError(f"{option} {name}{equals}{value}: write NAME=VALUE, as h=...")
    return [(name, value) for name, _, value in pairs]


@bank.command()
@click.argument("path", metavar="BANK")
@click.argument("key")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many neighbours.")
@click.option("--timestep", type=int, help="Compare at this timestep; default: the mean over all kept ones.")
@click.option("--tensor", default="h", show_default=True, help="Compare this tensor.")
def similar(path: str, key: str, top: int, timestep: int | None, tensor: str) -> None:
    """The nearest neighbours of an entry, by the cosine of h or another tensor."""
    from pipeline.banks.neighbours import similar as nearest
    from pipeline.banks.reader import LatentBank

    opened = LatentBank.open(path)
    for name, cosine in nearest(opened, opened.named(key), top=top, timestep=timestep, tensor=tensor):
        click.echo(f"{cosine:.4f}  {name}")


bank.add_command(directions)
bank.add_command(keys)
