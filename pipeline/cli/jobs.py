"""``diffstyle jobs``: the ready jobs."""

from __future__ import annotations

import json

import click

from pipeline.cli.options import print_table
from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@if_stopped(NOTHING_WRITTEN)
def jobs(as_json: bool) -> None:
    """List the jobs that come with DiffStyle; `diffstyle run NAME` runs one.

    Those that need pictures take `--set content=FOLDER --set style=FOLDER --set output=FOLDER`. `diffstyle models fetch
    NAME` brings weights, or says from where to get them by hand.
    """
    from pipeline.jobfile.ready import ready_jobs

    rows = [(one.name, ", ".join(one.needs) or "nothing", one.sentence) for one in ready_jobs()]
    if as_json:
        click.echo(json.dumps([dict(zip(("job", "needs", "does"), row, strict=True)) for row in rows], indent=2))
        return
    print_table(("job", "needs", "what it does"), rows)
