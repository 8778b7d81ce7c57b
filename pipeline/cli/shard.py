"""``diffstyle shard``: stage 1 alone."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.options import job_options, run_stages


@click.command()
@job_options
def shard(**options: Any) -> int:
    """Prepare the pictures of a job's contents and styles: decode, crop, resize, write WebDataset shards."""
    return run_stages(**options, stages=("shard",))
