"""``diffstyle plan``: what a job would do and write."""

from __future__ import annotations

import click


@click.command()
@click.argument("job", metavar="JOB.yaml")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a field of the job, e.g. bank.keep=all. May be given several times.",
)
def plan(job: str, overrides: tuple[str, ...]) -> None:
    """Say what a job would compute and how large its banks and pictures would be. The same as `run --dry-run`."""
    from pipeline.jobfile.load import load_job
    from pipeline.runner.api import preview

    click.echo(str(preview(load_job(job, overrides, check_inputs=True))))
