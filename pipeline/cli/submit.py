"""``diffstyle submit``: a job on a Ray cluster through its job server, or on Slurm."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pipeline.storage.errors import EXIT_DONE, EXIT_STOPPED


@click.command()
@click.argument("job", metavar="JOB.yaml")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the job.")
@click.option("--address", metavar="URL", help="The cluster's dashboard, http://HEAD:8265.")
@click.option("--slurm", is_flag=True, help="Send it with sbatch instead, to run on a Ray cluster of its own.")
@click.option("--env", "variables", multiple=True, metavar="NAME", help="Give the run this variable of this machine.")
@click.option("--follow/--no-follow", default=True, help="Show the log until the run ends, and return its exit code.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed before.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Slurm: how many nodes.")
@click.option("--time", "limit", default="08:00:00", show_default=True, help="Slurm: the time limit of one run.")
@click.option("--sbatch", "options", multiple=True, metavar="OPTION", help="Slurm: as gpus-per-node=4; several times.")
@click.option("--script", type=click.Path(path_type=Path), help="Slurm: write the script here, and don't send it.")
def submit(
    job: str,
    overrides: tuple[str, ...],
    address: str | None,
    slurm: bool,
    variables: tuple[str, ...],
    follow: bool,
    retry_failed: bool,
    nodes: int,
    limit: str,
    options: tuple[str, ...],
    script: Path | None,
) -> int:
    """Run a job on a Ray cluster (--address), with this machine's code, or on Slurm (--slurm).

    A model's file, files of networks that score and small weights of your own are sent too. The data sets, other
    weights and output that the job names must be where the cluster's nodes see them.
    """
    from diffstyle.errors import ConfigError
    from pipeline.jobfile.load import load_job

    if slurm == (address is not None):
        raise ConfigError("give either --address http://HEAD:8265 or --slurm")
    loaded = load_job(job, overrides)
    flags = ["--retry-failed"] if retry_failed else []
    if slurm:
        from pipeline.launch import slurm as launcher

        text = launcher.batch_script(loaded, nodes=nodes, limit=limit, options=options, flags=flags)
        if script is not None:
            script.write_text(text, encoding="utf-8")
            click.echo(f"wrote {script}: send it with `sbatch {script}`")
            return EXIT_DONE
        click.echo(f"job {launcher.send(text)}: `squeue` shows it; its log is diffstyle-JOB.log in this folder")
        return EXIT_DONE
    from pipeline.launch import ray_job

    if missing := [name for name in variables if name not in os.environ]:
        raise ConfigError(f"--env {missing[0]}: there is no such variable; set it or omit the option")
    from pipeline.storage.masking import remember

    for name in variables:
        remember(name, os.environ[name])
    assert address is not None
    client, sent = ray_job.submit(address, loaded, [*flags, "--quiet"], {name: os.environ[name] for name in variables})
    click.echo(f"job {sent} on {address}")
    if not follow:
        return EXIT_DONE
    try:
        return ray_job.follow(client, sent, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        click.echo(f"\nthe job goes on; `ray job stop {sent}` stops it", err=True)
        return EXIT_STOPPED
