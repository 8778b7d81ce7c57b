"""``diffstyle score``: how much content and style each result has, as columns beside the manifest."""

from __future__ import annotations

import os

import click

from pipeline.cli.options import say_next


@click.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--network",
    "networks",
    multiple=True,
    metavar="FILE",
    help="Score by this network too: a YAML file that names its weights (docs/scores.md). May be given several times.",
)
@click.option("--address", help="Join the Ray cluster at this address instead of starting an embedded Ray.")
@click.option("--local", is_flag=True, help="Compute in this process, without Ray: for small runs.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, only the summary.")
def score(run: str, networks: tuple[str, ...], address: str | None, local: bool, quiet: bool) -> int:
    """Score the pictures of a RUN that have no scores yet: content kept, style kept, sanity.

    RUN is the output folder, or the job file that names it. The model itself judges, by half a network call a picture;
    no other weights are needed. Scores lie in RUN/scores, a row for each pair, joined to the manifest by `pair`.
    Networks of your own (LPIPS, CLIP, a face network) add columns; those of the job are used without being named.
    """
    from pipeline.runner.api import job_of
    from pipeline.runner.api import run as run_job

    files = [os.path.abspath(os.path.expanduser(file)) for file in networks]  # noqa: PTH100, PTH111 - twice is once
    result = run_job(job_of(run), networks=files, stages=("score",), address=address, local=local, quiet=quiet)
    click.echo(str(result))
    if not quiet:
        say_next("report", run)
    return result.exit_code
