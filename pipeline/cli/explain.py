"""``diffstyle explain``: a job's steps in words and as a picture."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.options import job_argument, picture_target
from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped


@click.command()
@job_argument
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the job.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where to write the picture.")
@click.option("--no-picture", is_flag=True, help="Only the words.")
def explain(job: str, overrides: tuple[str, ...], out: Path | None, no_picture: bool) -> None:
    """Say which steps a JOB takes, at which timesteps it injects, and what each parameter does to it.

    A small picture shows the steps over t: events, noise and plain steps. No model is loaded, nothing is run.
    """
    from pipeline.jobfile.load import load_job
    from pipeline.results.pictures import save_picture
    from pipeline.runner.explain import explain_job

    with if_stopped(NOTHING_WRITTEN):
        file = None if no_picture else picture_target(out, f"explain-{Path(job).stem}")
        explained = explain_job(load_job(job, overrides))
    click.echo(str(explained))
    if file is not None:
        save_picture(explained.picture, file)
        click.echo(f"wrote {file}")
