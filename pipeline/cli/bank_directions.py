"""``diffstyle bank directions``: find directions in h, for ``injection.edit``."""

from __future__ import annotations

import time

import click

from diffstyle.errors import ConfigError
from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped
from pipeline.storage.counts import count, data_size

# Fewer pictures than these mostly show what is particular to them.
_ENOUGH = 100


@click.command()
@click.argument("path", metavar="BANK")
@click.option("--out", required=True, metavar="FILE", help="Where to write the directions (safetensors).")
@click.option(
    "--components", type=click.IntRange(1, 64), default=8, show_default=True, help="How many principal directions."
)
@click.option("--label", "column", metavar="COLUMN", help="Also the means of each label in this column, as `label`.")
def directions(path: str, out: str, components: int, column: str | None) -> None:
    """Find directions in h, for a job's injection.edit: principal ones, and differences between labels."""
    from pipeline.banks.directions import Directions, find_directions
    from pipeline.banks.reader import LatentBank
    from pipeline.banks.tensors import BankError
    from pipeline.storage.place import Place

    target = Place.parse(out)
    if target.exists():
        try:
            Directions.open(target)
        except BankError:
            raise ConfigError(f"--out {out}: is there already and no file of directions; choose another name") from None
    said_at = time.monotonic()

    def progress(n: int, total: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at > 10:
            said_at = time.monotonic()
            click.echo(f"{n} of {count(total, 'image')} read", err=True)

    opened = LatentBank.open(path)
    with if_stopped(NOTHING_WRITTEN):
        directions_of_bank = find_directions(opened, components, column, progress=progress)
    written = directions_of_bank.save(target)
    about = directions_of_bank.about
    shape = "x".join(map(str, about["h_shape"]))
    click.echo(
        f"{count(about['images'], 'image')}, h {shape} at {count(len(directions_of_bank.h_timesteps), 'timestep')}"
    )
    if about["images"] < _ENOUGH:
        click.echo(f"note: with fewer than {_ENOUGH} images, directions mostly show what is particular to these")
    if len(directions_of_bank.components) < components:
        has = count(len(directions_of_bank.components), "component")
        click.echo(f"note: {count(about['images'], 'image', 'has/have')} only {has}")
    total = 0.0
    for number, share in enumerate(about["explained"]):
        total += share
        at = about["explained_at"][number]
        click.echo(
            f"component {number}: {share:6.1%} of the variance ({min(at):.1%} to {max(at):.1%} by timestep), "
            f"{total:.1%} so far"
        )
    for label, n in about["labels"].items():
        click.echo(f"label {label}: {count(n, 'image')}")
    if about["unlabelled"]:
        click.echo(f"without a label: {count(about['unlabelled'], 'image')}")
    click.echo(f"{target}: {data_size(written)}")
