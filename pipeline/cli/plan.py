"""``diffstyle plan``: what a job would do and write."""

from __future__ import annotations

import click

from pipeline.cli.options import job_argument
from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped


@click.command()
@job_argument
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a field of the job, e.g. bank.keep=all. May be given several times.",
)
@click.option("--measure", is_flag=True, help="Measure the network's speed by a few calls, to tell the time.")
@click.option("--retry-failed", is_flag=True, help="Count what failed before as still to be done.")
@if_stopped(NOTHING_WRITTEN)
def plan(job: str, overrides: tuple[str, ...], measure: bool, retry_failed: bool) -> int:
    """Say what a job would do now, how much it would write and how long it takes. The same as `run --dry-run`.

    Exit codes: 0 it can run here, 2 it can't, and the last lines say why.
    """
    from pipeline.cli.options import show_preview

    return show_preview(job, overrides, retry_failed, measure)
