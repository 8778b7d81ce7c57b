"""``diffstyle precompute``: stage 2 alone."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.options import job_options, run_stages


@click.command()
@job_options
def precompute(**options: Any) -> int:
    """Invert the prepared pictures of a job into latent banks. Runs after `diffstyle shard`."""
    return run_stages(**options, stages=("precompute",))
