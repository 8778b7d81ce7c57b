"""``diffstyle failures``: what a run could not do, and why, one line each."""

from __future__ import annotations

from collections import Counter

import click

from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--csv", "table", metavar="FILE", help="Write a CSV table with all of them to FILE instead.")
def failures(run: str, table: str | None) -> None:
    """List every rejected source and failed pair of a run, with its reason.

    RUN is the output folder (or an address on S3 or GCS), or the job file that names it. Only files are read.
    """
    from pipeline.monitoring.failures import as_csv
    from pipeline.monitoring.failures import failures as failures_of
    from pipeline.storage.place import Place

    with if_stopped(NOTHING_WRITTEN):
        items = failures_of(run)
    if table is None:
        for item in items:
            click.echo(str(item))
    else:
        Place.parse(table).write_bytes(as_csv(items).encode())
    kinds = Counter(item.kind for item in items)
    counted = ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "no failures"
    click.echo(counted if table is None else f"{counted}: {table}")
