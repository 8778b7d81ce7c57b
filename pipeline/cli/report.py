"""``diffstyle report``: every pair of a run in a page that opens from disk."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.stopping import if_stopped
from pipeline.storage.counts import count


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--out", type=click.Path(path_type=Path), help="The folder to write. Default: RUN/report.")
@click.option("--quiet", "-q", is_flag=True, help="Only the summary.")
def report(run: str, out: Path | None, quiet: bool) -> None:
    """Write a folder whose index.html shows every pair of a RUN: find the best and the worst, compare, choose.

    RUN is the output folder (or an address on S3 or GCS, with --out), or the job file that names it. The page needs no
    network and no server. Run it again to show what was made since; choices made in the page are kept by the browser.
    """
    from pipeline.monitoring.status import output_of
    from pipeline.results.report.write import write_report
    from pipeline.results.scores import NO_SOURCES

    place = output_of(run)
    with if_stopped("the report is not whole, and the same command writes it again"):
        written = write_report(place, out, (lambda line: None) if quiet else lambda line: click.echo(line, err=True))
    if written.unreadable:
        click.echo(
            f"{count(written.unreadable, 'picture', 'is/are')} missing or damaged, and marked so; `diffstyle verify "
            f"{place} --repair` and another run make them again"
        )
    if written.unsourced:
        scored = count(written.unsourced, "pair", "was/were")
        click.echo(f"{scored} scored, but have empty scores only: {NO_SOURCES}")
    if n := written.pairs - written.scored - written.unsourced:
        click.echo(
            f"{count(n, 'pair', 'has/have')} no scores; `diffstyle score {run}` makes them, then write the report again"
        )
    click.echo(str(written))
