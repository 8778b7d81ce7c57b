"""``diffstyle score``: how much content and style each result has, as columns beside the manifest."""

from __future__ import annotations

import click


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--address", help="Join the Ray cluster at this address instead of starting an embedded Ray.")
@click.option("--local", is_flag=True, help="Compute in this process, without Ray: for small runs.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, only the summary.")
def score(run: str, address: str | None, local: bool, quiet: bool) -> int:
    """Score the pictures of a RUN that have no scores yet: content kept, style kept, sanity.

    RUN is the output folder, or the job file that names it. The model itself judges, by half a network call a picture;
    no other weights are needed. Scores lie in RUN/scores, a row for each pair, joined to the manifest by `pair`.
    """
    from pipeline.runner.api import job_of
    from pipeline.runner.api import run as run_job

    result = run_job(job_of(run), stages=("score",), address=address, local=local, quiet=quiet)
    click.echo(str(result))
    return result.exit_code
