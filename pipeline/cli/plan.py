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
@click.option(
    "--fit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="DB",
    help="Instead, run a few pairs to find the plan of fewest network calls whose results are within so many dB of "
    "those of `plan: reference`, such as 45.",
)
@click.option("--pairs", type=click.IntRange(min=1), metavar="N", help="How many pairs --fit runs. [default: 3]")
@if_stopped(NOTHING_WRITTEN)
def plan(
    job: str, overrides: tuple[str, ...], measure: bool, retry_failed: bool, fit: float | None, pairs: int | None
) -> int:
    """Say what a job would do now, how much it would write and how long it takes. The same as `run --dry-run`.

    With --fit, find its `injection.plan`: the first contents go into the first styles, by the job's own model and
    settings, once with `plan: reference`, which takes longest, and with shorter plans until one is near enough.

    Exit codes: 0 it can run here, or a plan was found; 2 not, and the last lines say why.
    """
    if fit is not None:
        from pipeline.jobfile.load import load_job
        from pipeline.runner.plan_fit import fit_plan

        if measure or retry_failed:
            raise click.UsageError("--fit goes without --measure and --retry-failed")
        click.echo(str(fit_plan(load_job(job, overrides, check_inputs=True), fit, pairs=pairs or 3, tell=click.echo)))
        return 0
    if pairs is not None:
        raise click.UsageError("--pairs goes with --fit")
    from pipeline.cli.options import show_preview

    return show_preview(job, overrides, retry_failed, measure)
