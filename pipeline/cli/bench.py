"""``diffstyle bench``: how fast this machine makes pictures (pipeline/bench/speed.py measures)."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="What to measure; by default a GPU if there is one.")
@click.option("--quick", is_flag=True, help="Small pictures, two minutes; ratios differ from those at 256 px.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; by default torch decides.")
@click.option(
    "--write",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Put the result between the markers of this page, e.g. docs/notes/speed.md.",
)
def bench(device: str | None, quick: bool, threads: int | None, write: Path | None) -> None:
    """Measure network calls, whole pairs and jobs, scaling and memory on this machine, as Markdown tables.

    Takes some seven minutes on a CPU; nothing is downloaded, and 256 px networks have random weights.
    """
    import torch

    from diffstyle.errors import ConfigError
    from pipeline.bench.pages import write_between
    from pipeline.bench.speed import markers, report

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device here")
    if threads:
        torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    lines = []
    with if_stopped(NOTHING_WRITTEN):
        for line in report(device, quick):
            click.echo(line)
            lines.append(line)
    if write:
        write_between(write, markers(device), "\n".join(lines))
