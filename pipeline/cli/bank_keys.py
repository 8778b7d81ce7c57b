"""``diffstyle bank keys``: what a bank has, a line for each key."""

from __future__ import annotations

import click

from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped


@click.command()
@click.argument("path", metavar="BANK")
@click.argument("beginning", default="")
@click.option("--label", help="Only those of this label.")
@click.option("--failed", is_flag=True, help="Those that could not be inverted instead, with the reason.")
@click.option("--long", "-l", is_flag=True, help="With the image hash, the label and the source, by tabs.")
@if_stopped(NOTHING_WRITTEN)
def keys(path: str, beginning: str, label: str | None, failed: bool, long: bool) -> None:
    """List the keys of a bank, sorted; only those that begin with BEGINNING, if it is given."""
    from pipeline.banks.reader import LatentBank

    opened = LatentBank.open(path)
    if failed:
        for key, error in sorted(opened.failed().items()):
            if key.startswith(beginning):
                click.echo(f"{key}\t{error}")
        return
    rows = opened.index.select(["key", "image", "label", "source"]).to_pylist()
    for row in rows:
        if row["key"].startswith(beginning) and label in (None, row["label"]):
            columns = [row["key"], *([row["image"], row["label"] or "", row["source"] or ""] if long else [])]
            click.echo("\t".join(columns))
