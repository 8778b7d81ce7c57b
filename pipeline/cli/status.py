"""``diffstyle status``: how far a run is, from its files alone."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def status(run: str, as_json: bool) -> int:
    """Say what of a run is done, failed and left, how fast it goes, and who runs it.

    RUN is the output folder (or an address on S3 or GCS), or the job file that names it. Only files are read: it works
    from any machine, while the run goes on or after it ended.

    Exit codes: 0 all done, 3 done with failures, 4 something is left.
    """
    from pipeline.monitoring.status import status as status_of

    state = status_of(run)
    click.echo(json.dumps(state.to_dict(), indent=2) if as_json else str(state))
    return state.exit_code
