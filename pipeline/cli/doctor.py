"""``diffstyle doctor``: what this machine has for running jobs, and what to do about what it lacks."""

from __future__ import annotations

import json

import click

from pipeline.cli.stopping import NOTHING_WRITTEN, if_stopped
from pipeline.storage.errors import EXIT_WRONG_INPUT


@click.command()
@click.option("--model", help="Whose network is called once. Default: the demo's small model.")
@click.option("--address", help="Ask the Ray cluster at this address whether it can be joined.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@if_stopped(NOTHING_WRITTEN)
def doctor(model: str | None, address: str | None, as_json: bool) -> int:
    """Look at versions, devices, disks, Ray and its token, weights, and time a network call. Nothing is changed.

    Each line is ok, a note, or wrong, with what to do. Exit codes: 0 jobs can run here, 2 something is wrong.
    """
    from dataclasses import asdict

    from pipeline.runner.doctor import examine

    findings = []
    for finding in examine(model, address):
        findings.append(finding)
        if not as_json:
            click.echo(str(finding))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    return EXIT_WRONG_INPUT if any(finding.level == "wrong" for finding in findings) else 0
