"""``diffstyle inject``: stage 3 alone."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.options import job_options, run_stages


@click.command()
@job_options
def inject(**options: Any) -> int:
    """Make a job's pictures and manifest from its latent banks. Runs after `diffstyle precompute`."""
    return run_stages(**options, stages=("inject",))
