"""``diffstyle bank repair``, ``merge``, ``prune`` and ``export``: change a bank as a whole, or make one of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffstyle.errors import ConfigError
from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped
from pipeline.storage.counts import count

if TYPE_CHECKING:
    from pipeline.storage.lock import OutputLock


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


@click.command()
@click.argument("path", metavar="BANK")
def repair(path: str) -> None:
    """Drop what is broken, so that the next precompute makes it again. Not while another job writes the bank."""
    from pipeline.banks.verify import repair as repair_bank

    with holding(path):
        done = repair_bank(path)
    click.echo("\n".join(done) if done else "nothing is broken")


@click.command()
@click.argument("target")
@click.argument("sources", nargs=-1, required=True)
@click.option("--format", type=click.Choice(["parquet", "webdataset"]), help="Of a new TARGET; default: the source's.")
def merge(target: str, sources: tuple[str, ...], format: str | None) -> None:
    """Copy the entries of SOURCES into the bank TARGET, made if it is not there. Images that it has are left out."""
    from pipeline.banks.copy import merge as pour

    with holding(target, made=True):
        copied = pour(target, sources, format=format, progress=_say)
    click.echo(f"{count(copied, 'image')} copied into {target}")


@click.command()
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
    from pipeline.banks.reader import LatentBank

    if not shards and keep is None and job is None:
        raise ConfigError("bank prune: say what to keep, with --job, --shards or --keep")
    images = _images_of_shards(shards) | (_images_of_list(path, keep) if keep else set())
    if job:
        from pipeline.jobfile.load import load_job
        from pipeline.runner.bank_listed import images_listed
        from pipeline.storage.place import Place

        images |= images_listed(load_job(job), Place.parse(path))
    with if_stopped(NOTHING_WRITTEN):
        leaving = cut(path, images, dry_run=True)
        click.echo(f"{count(len(leaving), 'image', 'leaves/leave')}: in nothing of what is kept")
        if leaving and not dry_run and not set(LatentBank.open(path).index["image"].to_pylist()) - set(leaving):
            raise ConfigError(
                f"{path}: nothing would be kept, so nothing is dropped; delete the folder if you want that"
            )
        wanted = bool(leaving) and not dry_run and (yes or click.confirm("Drop them?"))
    if wanted:
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


@click.command()
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
