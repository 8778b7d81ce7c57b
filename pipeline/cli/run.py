"""``diffstyle run``: a job from its sources to its pictures."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.options import job_options, run_stages


@click.command()
@job_options
@click.option("--dry-run", is_flag=True, help="Print what the job would do and write, and stop.")
def run(dry_run: bool, **options: Any) -> int:
    """Run a job: prepare its pictures, invert them into latent banks, make every wanted pair.

    What an earlier run has finished is kept: the same command goes on after a stop, and adds what is new.
    """
    if dry_run:
        from pipeline.jobfile.load import load_job
        from pipeline.runner.api import preview

        click.echo(str(preview(load_job(options["job"], options["overrides"], check_inputs=True))))
        return 0
    return run_stages(**options, stages=None)
