"""``diffstyle run``: a job from its sources to its pictures."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.options import job_options, run_stages, show_preview


@click.command()
@job_options
@click.option("--dry-run", is_flag=True, help="Print what the job would do and write now, and stop.")
@click.option("--measure", is_flag=True, help="With --dry-run: measure the network's speed, to tell the time.")
def run(dry_run: bool, measure: bool, **options: Any) -> int:
    """Run a job: prepare its pictures, invert them into latent banks, make every wanted pair.

    What an earlier run has finished is kept: the same command goes on after a stop, and adds what is new.
    """
    if measure and not dry_run:
        raise click.UsageError("--measure goes with --dry-run")
    if dry_run:
        elsewhere = options["address"] is not None
        return show_preview(options["job"], options["overrides"], options["retry_failed"], measure, elsewhere)
    return run_stages(**options, stages=None)
